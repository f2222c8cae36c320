"""The eight segmentation benchmarks in the folders of mmseg, and mean IoU over a whole data set.

Folders, label maps and sizes are those of the configurations that SCLIP and NACLIP published, which are
mmseg's. Pictures are resized with Pillow's bicubic filter here, with OpenCV's bilinear one there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from s3clip.evaluation.scores import confusion_matrix, intersection_over_union, mean_iou
from s3clip.images import find_images

IGNORED = 255


@dataclass(frozen=True)
class SegmentationBenchmark:
    """Where a benchmark's files lie under its root, and how it is scored.

    Attributes:
        images: folder of pictures.
        masks: folder of masks, with the same sub-folders.
        image_suffix: what follows the key in a picture's name.
        mask_suffix: what follows it in the mask's.
        split: file with a key a line; None: all pictures.
        drops_background: label 0 is not scored, and label n is class n - 1 (`reduce_zero_label`).
        threshold: probability below which published runs call a pixel background; None without one.
        short_side: pixels, as for `head.segment`; so are the next two.
        window: pixels.
        stride: pixels.
    """

    images: str
    masks: str
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    split: str | None = None
    drops_background: bool = False
    threshold: float | None = None
    short_side: int = 336
    window: int = 224
    stride: int = 112


_VOC = ("JPEGImages", "SegmentationClass", ".jpg", ".png", "ImageSets/Segmentation/val.txt")
_CONTEXT = (
    "JPEGImages",
    "SegmentationClassContext",
    ".jpg",
    ".png",
    "ImageSets/SegmentationContext/val.txt",
)
_COCO = ("images/val2017", "annotations/val2017", ".jpg")

BENCHMARKS = {
    "voc21": SegmentationBenchmark(*_VOC, threshold=0.1),
    "voc20": SegmentationBenchmark(*_VOC, drops_background=True),
    "pascal_context60": SegmentationBenchmark(*_CONTEXT, threshold=0.1),
    "pascal_context59": SegmentationBenchmark(*_CONTEXT, drops_background=True),
    "coco_object": SegmentationBenchmark(*_COCO, "_instanceTrainIds.png", threshold=0.1),
    # SCLIP's configuration takes 448 for this one set.
    "coco_stuff171": SegmentationBenchmark(*_COCO, "_labelTrainIds.png", short_side=448),
    "ade20k150": SegmentationBenchmark("images/validation", "annotations/validation", drops_background=True),
    "cityscapes": SegmentationBenchmark(
        "leftImg8bit/val", "gtFine/val", "_leftImg8bit.png", "_gtFine_labelTrainIds.png", short_side=560
    ),
}
"""By the names of the builtin synonym sets. Where there is a threshold, the first class is background."""


class Pair(NamedTuple):
    """A picture and its mask; the key is the picture's name in the benchmark."""

    key: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class SegmentationScore:
    """How well a data set was segmented.

    Attributes:
        mean_iou: over the classes that occur, in [0, 1].
        iou: of each class; NaN for one that no pixel is of and none was taken for.
        pixel_accuracy: share of the pixels that are right, in [0, 1].
        confusion: (classes, classes + 1), as `confusion_matrix`.
        pictures: how many.
    """

    mean_iou: float
    iou: list[float]
    pixel_accuracy: float
    confusion: Tensor
    pictures: int


def read_pairs(name: str, root: Path) -> list[Pair]:
    """Return the pictures of a benchmark with their masks, in the order of its split, else sorted.

    Args:
        name: a key of `BENCHMARKS`.
        root: its folder, as mmseg prepares it.

    Raises:
        ValueError: another name, or an empty split.
        FileNotFoundError: a folder, a split, a picture or a mask that is not there.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"name: expected one of {', '.join(BENCHMARKS)}, got {name!r}")
    benchmark = BENCHMARKS[name]
    images, masks = root / benchmark.images, root / benchmark.masks
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; {name} is read as mmseg prepares it (dataset_prepare.md)"
            )
    if benchmark.split is None:
        found = (file.relative_to(images).as_posix() for file in images.rglob(f"*{benchmark.image_suffix}"))
        keys = sorted(each.removesuffix(benchmark.image_suffix) for each in found)
    else:
        keys = (root / benchmark.split).read_text(encoding="utf-8").split()
    if not keys:
        raise ValueError(f"{benchmark.split or images}: no pictures of {name} in {root}")
    pairs = [
        Pair(key, images / f"{key}{benchmark.image_suffix}", masks / f"{key}{benchmark.mask_suffix}")
        for key in keys
    ]
    return _checked_pairs(pairs)


def folder_pairs(images: Path, masks: Path) -> list[Pair]:
    """Return the pictures of a folder with the PNG masks of the same names in another, sorted.

    Raises:
        FileNotFoundError: no pictures, or a mask that is not there.
    """
    files = find_images([images])
    relative = [file.relative_to(images if images.is_dir() else file.parent) for file in files]
    pairs = [
        Pair(key.with_suffix("").as_posix(), file, masks / key.with_suffix(".png"))
        for file, key in zip(files, relative, strict=True)
    ]
    return _checked_pairs(pairs)


def read_mask(file: Path, *, drops_background: bool = False) -> Tensor:
    """Return the labels in a mask: (height, width) int64, 255 for pixels that do not count.

    Args:
        file: a picture of one channel or with a palette, whose values are labels.
        drops_background: see `SegmentationBenchmark`.

    Raises:
        ValueError: a picture in colour, whose values are no labels.
    """
    with Image.open(file) as picture:
        if picture.mode not in ("P", "L", "I", "I;16"):
            raise ValueError(
                f"{file}: expected labels, one number a pixel (mode P or L), got mode {picture.mode}"
            )
        labels = torch.from_numpy(np.array(picture).astype(np.int64))
    if drops_background:
        labels = torch.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
    return labels


def evaluate_segmentation(
    segment: Callable[[Path], Tensor],
    pairs: Iterable[Pair],
    num_classes: int,
    *,
    ignore_index: int = IGNORED,
    drops_background: bool = False,
) -> SegmentationScore:
    """Segment every picture and score all of them by one confusion matrix.

    Args:
        segment: a picture's file -> (height, width) positions of classes, -1 for none.
        pairs: the pictures with their masks.
        num_classes: how many classes there are.
        ignore_index: label of pixels that do not count.
        drops_background: see `SegmentationBenchmark`.

    Raises:
        ValueError: no pictures, or labels that do not fit; the mask is named.
    """
    confusion = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
    pictures = 0
    for _, image, mask in pairs:
        labels, predicted = read_mask(mask, drops_background=drops_background), segment(image).cpu()
        try:
            confusion += confusion_matrix(labels, predicted, num_classes, ignore_index=ignore_index)
        except ValueError as error:
            raise ValueError(f"{mask}: {error}") from error
        pictures += 1
    if not pictures:
        raise ValueError("pairs: expected one picture or more, got none")
    return SegmentationScore(
        mean_iou=mean_iou(confusion),
        iou=intersection_over_union(confusion).tolist(),
        pixel_accuracy=float(confusion.diagonal().sum() / confusion.sum()),
        confusion=confusion,
        pictures=pictures,
    )


def _checked_pairs(pairs: list[Pair]) -> list[Pair]:
    for _, image, mask in pairs:
        for file in (image, mask):
            if not file.is_file():
                raise FileNotFoundError(f"{file}: no such file, and {len(pairs)} pairs are wanted")
    return pairs
