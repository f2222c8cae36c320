"""Whether classes can be ruled out for the best class without looking at their texts, exactly.

    python examples/studies/pruning_study.py --shared ../shared

A class can be left out where an upper bound of its score is below the best score. Two bounds that are cheap
and never wrong are tried on real CLIP embeddings, with the best score known from the start, which no real
search has: what is left over then is the least that any search would have to score.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np

NAME_WEIGHT, SHARE = 0.25, 0.4  # of the default metric


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one, in float64."""
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def real_classes(folder: Path) -> list[np.ndarray]:
    """The ImageNet names that have two texts or more there, and the hand-picked classes: (n, dim) each."""
    texts = np.load(folder / "texts.npz")
    embeds, by_name = unit(texts["embeddings"]), {}
    for row, name in enumerate(texts["name"].tolist()):
        by_name.setdefault(name.lower().replace("_", " "), []).append(row)
    picked = json.loads((folder / "class_texts.json").read_text())
    groups = [rows for rows in by_name.values() if len(rows) > 1]
    groups += [[text["row"] for text in own] for classes in picked.values() for own in classes.values()]
    return [np.unique(embeds[rows], axis=0) for rows in groups]


def local_points(texts: np.ndarray) -> np.ndarray:
    """Every point that the default metric can compare an image with: (subsets, dim)."""
    k = -(-len(texts) * 2 // 5)
    return np.stack(
        [
            (1 - NAME_WEIGHT) * texts[list(chosen)].mean(0) + NAME_WEIGHT * texts[0]
            for chosen in combinations(range(len(texts)), k)
        ]
    )


def main() -> None:
    """Print which share of the classes each bound leaves over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    folder = parser.parse_args().shared / "data" / "clip_vitb32"
    classes = [texts for texts in real_classes(folder) if 2 <= len(texts) <= 14]
    images = np.concatenate(
        [
            unit(np.load(folder / name)["embeddings"])
            for name in ("cifar10_images.npz", "fashion13_images.npz")
        ]
    )
    centre = np.mean([texts.mean(0) for texts in classes], axis=0)
    classes = [unit(texts - centre) for texts in classes]  # as the default centering does
    points = [local_points(texts) for texts in classes]
    scores = np.stack([(images @ own.T).max(1) for own in points], axis=1)
    best = scores.max(1, keepdims=True)
    rows = sum(map(len, classes))
    print(f"{len(images):,} images, {len(classes):,} classes of {rows / len(classes):.1f} texts on average")

    middles = np.stack([own.mean(0) for own in points])
    radii = np.array([np.linalg.norm(own - own.mean(0), axis=1).max() for own in points])
    bound = images @ middles.T + radii
    assert (bound >= scores - 1e-9).all()
    left = bound >= best
    batches = [left[start : start + 64].any(0).mean() for start in range(0, len(left), 64)]
    print(
        f"ball around each class: {left.mean():.1%} of the classes are left over for an image, "
        f"{np.mean(batches):.1%} for one or more of 64"
    )
    sizes = np.array([len(texts) for texts in classes])
    for what, chosen in (("2 to 6", sizes <= 6), ("7 or more", sizes > 6)):
        print(f"  {left[:, chosen].mean():.1%} of the {chosen.sum():,} classes of {what} texts")

    _, _, directions = np.linalg.svd(np.concatenate(classes), full_matrices=False)
    for kept in (64, 128, 256):
        basis = directions[:kept].T
        rest = np.sqrt(np.clip(1 - ((images @ basis) ** 2).sum(1), 0, None))
        longest = np.array(
            [np.sqrt(np.clip((own**2).sum(1) - ((own @ basis) ** 2).sum(1), 0, None)).max() for own in points]
        )
        near = np.stack([(images @ basis @ (own @ basis).T).max(1) for own in points], axis=1)
        bound = near + rest[:, None] * longest
        assert (bound >= scores - 1e-9).all()
        share = (bound >= best).mean()
        print(
            f"{kept} of {directions.shape[1]} directions, and the length of the rest: {share:.1%} are left "
            f"over, so that {kept / directions.shape[1] + share:.0%} of the products are computed"
        )


if __name__ == "__main__":
    main()
