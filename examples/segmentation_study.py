r"""Mean IoU of every dense method with every aggregation, on benchmarks or on a folder of your own.

    python examples/segmentation_study.py --backbone openai/clip-vit-base-patch16 \
        --data voc21=VOCdevkit/VOC2012 --data ade20k150=ADEChallengeData2016
    python examples/segmentation_study.py --backbone MODEL --images PHOTOS --masks MASKS --classes mine.json

The benchmarks are those of `s3clip.evaluation.segmentation.BENCHMARKS`, in the folders that mmseg prepares,
with the words of `builtin:NAME` and the published sizes. Masks of your own are PNGs whose values are
positions of classes, 255 for what does not count. The texts of a class are scored three ways from the same
features: its own name alone, the usual softmax over all texts with the best of each class, and our head.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.evaluation.scores import confusion_matrix, mean_iou
from s3clip.evaluation.segmentation import BENCHMARKS, Pair, folder_pairs, read_mask, read_pairs
from s3clip.segmentation.dense import METHODS
from s3clip.segmentation.segmenter import encode_patches, segment_patches

AGGREGATIONS = ("single name", "softmax-then-max", "ours")


def study(
    backbone: Backbone,
    classes: str,
    pairs: Sequence[Pair],
    *,
    drops_background: bool = False,
    threshold: float | None = None,
    report: Callable[[str], None] = print,
    **sizes: int,
) -> dict[str, dict[str, float]]:
    """Return mean IoU by method and aggregation, and report a row of a table for each method.

    Args:
        backbone: with its text tower.
        classes: a synonym file or "builtin:NAME".
        pairs: the pictures with their masks.
        drops_background: label 0 does not count, and label n is class n - 1.
        threshold: pixels whose best class is less probable are class 0; None without one.
        report: what to do with a row.
        sizes: window, stride and short_side.
    """
    head = SynonymousSpaceHead(backbone).fit_classes(classes)
    names = SynonymousSpaceHead(backbone).fit_classes(head.class_names, templates=head.templates)
    ways = dict(
        zip(AGGREGATIONS, ((names, "space"), (head, "softmax_then_max"), (head, "space")), strict=True)
    )
    background = None if threshold is None else 0
    report("| method | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    found: dict[str, dict[str, float]] = {}
    count = len(head.class_names)
    for method in METHODS:
        confusion = {way: torch.zeros(count, count + 1, dtype=torch.int64) for way in ways}
        for _, image, mask in pairs:
            labels = read_mask(mask, drops_background=drops_background)
            features = encode_patches(backbone, image, method=method, **sizes)
            for way, (fitted, aggregation) in ways.items():
                predicted = segment_patches(
                    fitted, features, aggregation=aggregation, threshold=threshold, background=background
                ).labels
                confusion[way] += confusion_matrix(labels, predicted, count)
        found[method] = {way: mean_iou(each) for way, each in confusion.items()}
        report(f"| {method} | " + " | ".join(f"{100 * value:.1f}" for value in found[method].values()) + " |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--device")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--classes")
    parser.add_argument("--threshold", type=float, help="for --images; the class of the rest is the first")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    given = parser.parse_args()
    backbone = Backbone.from_pretrained(given.backbone, device=given.device)
    if given.images or given.masks or given.classes:
        if not (given.images and given.masks and given.classes):
            parser.error("--images, --masks and --classes go together")
        pairs = folder_pairs(given.images, given.masks)[: given.limit]
        study(backbone, given.classes, pairs, threshold=given.threshold)
    for each in given.data:
        name, _, folder = each.partition("=")
        pairs = read_pairs(name, Path(folder))[: given.limit]
        benchmark = BENCHMARKS[name]
        print(f"\n{name}, {len(pairs)} pictures, mIoU in %\n")
        study(
            backbone,
            f"builtin:{name}",
            pairs,
            drops_background=benchmark.drops_background,
            threshold=benchmark.threshold,
            window=benchmark.window,
            stride=benchmark.stride,
            short_side=benchmark.short_side,
        )


if __name__ == "__main__":
    main()
