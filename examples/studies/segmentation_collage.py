"""Segmentation where the truth is known: product photos pasted on larger canvases.

    python examples/studies/segmentation_collage.py --shared ../shared --out collage

Two to four photos that the small fashion CLIP was not trained on lie on a white canvas of 192 x 192 pixels,
one in a quarter each. A pixel's class is that of the photo it lies in, unless it is nearly white, as the
photos' own background is: such pixels, and the canvas, do not count. Prints mean IoU of every dense method
with every aggregation, and how far ten more synonyms of a class move the share of background, the pixels
whose best class is less probable than a threshold. The model is small and narrow; the figures say which way
of aggregation is better on it, not how good segmentation is.
"""

import argparse
import csv
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, SynonymSet
from s3clip.evaluation.scores import confusion_matrix, mean_iou
from s3clip.segmentation.dense import PATCH_FEATURES, DenseTower
from s3clip.segmentation.pictures import overlay
from s3clip.segmentation.segmenter import DenseFeatures, encode_patches, segment_patches
from s3clip.segmentation.windows import cut, tile

CANVAS = 192
WHITE = 240
"""Pixels with every channel from here on are background of a photo."""
IGNORED = 255
MORE = "men's women's new plain casual classic stylish branded regular modern".split()
"""Ten more synonyms of a class are these before its name."""


def collage(photos: list[tuple[Path, int]], draw: random.Random) -> tuple[Image.Image, torch.Tensor]:
    """Return a canvas with photos in its quarters, and the class of each pixel, 255 where none counts."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
    labels = np.full((CANVAS, CANVAS), IGNORED)
    half = CANVAS // 2
    for (file, label), quarter in zip(photos, draw.sample(range(4), len(photos)), strict=True):
        with Image.open(file) as opened:
            photo = opened.convert("RGB")
        left = quarter % 2 * half + draw.randint(0, half - photo.width)
        top = quarter // 2 * half + draw.randint(0, half - photo.height)
        canvas.paste(photo, (left, top))
        product = (np.asarray(photo) < WHITE).any(-1)
        labels[top : top + photo.height, left : left + photo.width][product] = label
    return canvas, torch.from_numpy(labels)


def collages(folder: Path, words: SynonymSet, count: int) -> list[tuple[Image.Image, torch.Tensor]]:
    """Return canvases with two to four photos of different classes each."""
    position = {each.id: i for i, each in enumerate(words.classes)}
    by_class: dict[int, list[Path]] = {}
    with (folder / "dev_labels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["sub_category"] in position:
                by_class.setdefault(position[row["sub_category"]], []).append(folder / row["file"])
    draw = random.Random(0)
    made = []
    for _ in range(count):
        chosen = draw.sample(sorted(by_class), draw.randint(2, 4))
        made.append(collage([(draw.choice(by_class[label]), label) for label in chosen], draw))
    return made


def share_below(probabilities: list[torch.Tensor], threshold: float) -> float:
    return float((torch.cat([each.flatten() for each in probabilities]) < threshold).double().mean())


def whole_windows(backbone: Backbone, canvas: Image.Image) -> DenseFeatures:
    """Return features where every patch has the embedding of its whole window, as images are classified.

    What the aggregations do when features are those that the model was trained for.
    """
    pixels = backbone.preprocess([canvas], resize=False)["pixel_values"][0]
    tower = DenseTower(backbone.model)
    tiling = tile(CANVAS, CANVAS, tower.image_size, tower.image_size // 4)
    windows = torch.stack(list(cut(pixels, tiling, tower.patch_size)))
    with torch.inference_mode():
        embeds = torch.cat([backbone.encode_images(part) for part in windows.split(64)])
    return DenseFeatures(embeds[:, None, None], tiling, tower.image_size, (CANVAS, CANVAS))


def background_moves(
    head: SynonymousSpaceHead, features: list[DenseFeatures], aggregation: str, extra: list[torch.Tensor]
) -> list[float]:
    """Return how far the share of background moves as each class in turn gets ten more synonyms.

    The threshold is where half of all pixels are background before.
    """
    texts = list(head.space.raw.split(torch.bincount(head.space.owners).tolist()))
    scale = head.logit_scale.item()

    def probabilities(own: list[torch.Tensor]) -> list[torch.Tensor]:
        fitted = SynonymousSpaceHead(config=head.config).fit_embeddings(
            own, head.class_names, logit_scale=scale
        )
        return [segment_patches(fitted, each, aggregation=aggregation).probabilities() for each in features]

    before = probabilities(texts)
    threshold = float(torch.cat([each.flatten() for each in before]).median())
    start = share_below(before, threshold)
    moves = []
    for i, more in enumerate(extra):
        changed = [*texts[:i], torch.cat([texts[i], more]), *texts[i + 1 :]]
        moves.append(share_below(probabilities(changed), threshold) - start)
    return moves


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("collage"))
    parser.add_argument("--canvases", type=int, default=100)
    parser.add_argument("--moved", type=int, default=6, help="canvases on which the background is moved")
    parser.add_argument("--classes", default="sub_categories.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.shared / "data" / "fashion_photos"
    words = SynonymSet.read(folder / given.classes)
    backbone = Backbone.from_pretrained(str(given.shared / "models" / "fashion_clip"))
    ours = SynonymousSpaceHead(backbone).fit_classes(words, cache=False)
    names = SynonymousSpaceHead(backbone).fit_classes(ours.class_names, templates=ours.templates, cache=False)
    center = SynonymousSpaceHead(backbone, config=HeadConfig(metric="center", scale_rule=None))
    center.fit_classes(words, cache=False)
    ways = {
        "single name": (names, "space"),
        "center": (center, "space"),
        "softmax-then-max": (ours, "softmax_then_max"),
        "ours": (ours, "space"),
    }
    made = collages(folder, words, given.canvases)
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(made)} canvases, {len(words.classes)} classes, {len(ours.space.raw)} texts; mIoU in %")
    print("| method | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    for method in (*PATCH_FEATURES, "whole windows"):
        features = [
            encode_patches(backbone, canvas, method=method, short_side=CANVAS)
            if method in PATCH_FEATURES
            else whole_windows(backbone, canvas)
            for canvas, _ in made
        ]
        cells = []
        for head, aggregation in ways.values():
            found = [segment_patches(head, each, aggregation=aggregation) for each in features]
            confusion = sum(
                confusion_matrix(labels, each.labels, len(words.classes))
                for (_, labels), each in zip(made, found, strict=True)
            )
            cells.append(f"{100 * mean_iou(confusion):.1f}")
        print(f"| {method} | " + " | ".join(cells) + " |", flush=True)
        overlay(made[0][0], found[0]).save(given.out / f"{method.replace(' ', '-')}.png")

    template = (ours.templates or ("{}",))[0]
    extra = [
        backbone.encode_texts([template.format(f"{word} {name}") for word in MORE], progress=False)
        for name in ours.class_names
    ]
    print("\nTen more synonyms of one class move the share of background (points, over classes):")
    print("| features | aggregation | mean | largest |\n|---|---|---|---|")
    few = [canvas for canvas, _ in made[: given.moved]]
    for kind, features in (
        ("sclip", [encode_patches(backbone, canvas, short_side=CANVAS) for canvas in few]),
        ("whole windows", [whole_windows(backbone, canvas) for canvas in few]),
    ):
        for name in ("center", "softmax-then-max", "ours"):
            head, aggregation = ways[name]
            moves = [100 * abs(move) for move in background_moves(head, features, aggregation, extra)]
            print(f"| {kind} | {name} | {sum(moves) / len(moves):.2f} | {max(moves):.2f} |", flush=True)


if __name__ == "__main__":
    main()
