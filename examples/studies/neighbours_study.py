"""Does one step of propagation over an image's nearest neighbours help? The table of docs/adaptation.md.

    python examples/studies/neighbours_study.py --shared ../shared --photo-words MODEL --out neighbours

`MODEL` is the folder that `../shared/models/photo_words/build.py` makes; without it those sets are left out.
Of images whose classes nobody knows, the probabilities p of the default head become q = (1 - a) p + a W p,
where row i of W holds the ten images nearest to image i, by the cosine of embeddings minus their mean, each
with the share that its cosine (0 where it is negative) has of all ten. Writes neighbours.md and
neighbours.json.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from study_sets import LabelSet, clip_sets, fashion_sets
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet
from s3clip.evaluation.scores import interval, resampled_class_means, resampled_means
from s3clip.printing import Column, Table

NEIGHBOURS, SHARE = 10, 0.5
SIZES = (128, 500, 2000)
RESAMPLES = 1000


class Draw(NamedTuple):
    """Some images of a set: which, and whether all classes are as common in it as in the whole set."""

    rows: Tensor
    unbalanced: bool


def photo_words_sets(shared: Path, model: Path) -> Iterator[LabelSet]:
    """Give the sets of photographs for the second encoder, with the built-in names and synonyms."""
    backbone = Backbone.from_pretrained(str(model))
    for file, builtin in (
        ("cifar10_2000", "cifar10"),
        ("tiny_imagenet_1010", "imagenet1k"),
        ("imagenet_samples", "imagenet1k"),
    ):
        arrays = np.load(shared / "data" / "photo_words" / f"{file}.npz")
        named, wanted = SynonymSet.builtin(builtin), arrays["labels"].tolist()
        present = set(map(str, wanted))
        kept = [each for each in named.classes if str(each.id) in present or each.name in present]
        bare = [each.model_copy(update={"descriptors": (), "prompts": ()}) for each in kept]
        head = SynonymousSpaceHead(backbone).fit_classes(
            SynonymSet(classes=tuple(bare)), templates="a photo of a {}."
        )
        position = {str(each.id): i for i, each in enumerate(bare)} | {
            each.name: i for i, each in enumerate(bare)
        }
        yield LabelSet(
            f"{file}",
            "photo_words",
            torch.from_numpy(arrays["embeddings"].astype(np.float32)),
            torch.tensor([position[str(label)] for label in wanted]),
            list(head.space.raw.split([each.rows for each in head.classes])),
            [each.texts or [each.name] for each in head.classes],
            float(head.logit_scale),
        )


def propagated(probabilities: Tensor, images: Tensor) -> Tensor:
    """Return (images, classes) q of p, by the images themselves; see the head of this file."""
    seen = normalize(normalize(images, dim=1) - normalize(images, dim=1).mean(0), dim=1)
    cosines = (seen @ seen.T).fill_diagonal_(-torch.inf)
    nearest = cosines.topk(NEIGHBOURS, dim=1)
    weights = nearest.values.clamp_min(0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    around = torch.einsum("nk,nkc->nc", weights, probabilities[nearest.indices])
    return (1 - SHARE) * probabilities + SHARE * around


def draws(labels: Tensor, size: int, seeds: int) -> Iterator[Draw]:
    """Give draws of `size` images: at random, and with shares of classes like 1, 1/2, 1/3 and so on."""
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        if size <= len(labels):
            yield Draw(torch.randperm(len(labels), generator=generator)[:size], False)
        classes = int(labels.max()) + 1
        rank = torch.empty(classes)
        rank[torch.randperm(classes, generator=generator)] = torch.arange(1, classes + 1).float()
        weight = (1 / rank)[labels] / torch.bincount(labels, minlength=classes)[labels]
        if 2 * size <= len(labels):
            yield Draw(torch.multinomial(weight, size, generator=generator), True)


def changes(each: LabelSet, logits: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Return (images,) +1 where propagation alone is right and -1 where only the head is, and the labels."""
    p, truth = logits[draw.rows].softmax(1), each.labels[draw.rows]
    q = propagated(p, each.images[draw.rows])
    return (q.argmax(1) == truth).double() - (p.argmax(1) == truth).double(), truth


def with_intervals(change: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Return the gain in top-1 and in mean recall, each with the ends of its 95 % interval over images."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack(
        [
            torch.bincount(
                torch.randint(len(labels), (len(labels),), generator=generator), minlength=len(labels)
            )
            for _ in range(RESAMPLES)
        ]
    )
    classes = int(labels.max()) + 1
    scored = torch.bincount(labels, minlength=classes) > 0
    exact = torch.ones(1, len(labels))
    found = []
    for mean in (
        lambda n: resampled_means(change[None], n),
        lambda n: resampled_class_means(change[None], n, labels, scored),
    ):
        found.append([float(mean(exact)), *interval(mean(counts)[:, 0])])
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--photo-words", type=Path)
    parser.add_argument("--out", type=Path, default=Path("neighbours"))
    parser.add_argument("--draws", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    sets = [*clip_sets(arguments.shared), *fashion_sets(arguments.shared)[0]]
    if arguments.photo_words is not None:
        sets += photo_words_sets(arguments.shared, arguments.photo_words)
    rows, data = [], {}
    for each in sets:
        names = [own[0] for own in each.words]
        head = SynonymousSpaceHead().fit_embeddings(each.texts, names, logit_scale=each.scale)
        with torch.inference_mode():
            logits = head(image_embeds=each.images)
        change, labels = changes(each, logits, Draw(torch.arange(len(each.labels)), False))
        top1, recall = with_intervals(change, labels)
        row, own = [each.name, each.encoder, str(len(labels))], {"all": [top1, recall]}
        row += [f"{100 * v:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for v, low, high in (top1, recall)]
        for unbalanced in (False, True):
            for size in SIZES:
                gains = [
                    _gain(*changes(each, logits, draw))
                    for draw in draws(each.labels, size, arguments.draws)
                    if draw.unbalanced == unbalanced
                ]
                own[f"{size} {'unbalanced' if unbalanced else 'at random'}"] = gains
                row.append("-" if not gains else _mean_and_worst(gains))
        rows.append(row)
        data[each.name] = own
        print(row, flush=True)
    header = ["set", "encoder", "images", "top-1, all", "recall, all"]
    header += [f"{size} at random" for size in SIZES] + [f"{size} unbalanced" for size in SIZES]
    table = Table([*header[:2], *(Column(name, "s") for name in header[2:])], rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "neighbours.md").write_text(table.markdown() + "\n")
    (arguments.out / "neighbours.json").write_text(json.dumps(data, indent=1) + "\n")
    print(table.markdown())


def _gain(change: Tensor, labels: Tensor) -> tuple[float, float]:
    by_class = [float(change[labels == c].mean()) for c in labels.unique()]
    return 100 * float(change.mean()), 100 * sum(by_class) / len(by_class)


def _mean_and_worst(gains: list[tuple[float, float]]) -> str:
    """Say the mean top-1 and recall over draws, and the worst of each."""
    every = np.array(gains)
    return "{:+.1f} / {:+.1f} ({:+.1f} / {:+.1f})".format(*every.mean(0), *every.min(0))


if __name__ == "__main__":
    main()
