"""A benchmark of segmentation on disk, opened: its pictures in order, each with its mask.

Folders, label maps and sizes in the table are those of the configurations that SCLIP and NACLIP published,
which are mmseg's. Pictures are resized with Pillow's bicubic filter here, with OpenCV's bilinear one there.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from s3clip.evaluation.benchmarks.table import Benchmark, Masks
from s3clip.images.opening import BrokenImageError, why_unreadable
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import DEFAULT_TEMPLATES

IGNORED = 255
"""The label of pixels that do not count."""


class Pair(NamedTuple):
    """A picture and its mask, there or not; the key is the picture's name in the set."""

    key: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class SegmentationSet:
    """The pictures of a benchmark of segmentation and its classes.

    Attributes:
        name: of the benchmark.
        split: of the pictures: "val".
        convention: "mmseg", or what a row of one's own calls it.
        class_names: a class is its position here.
        synonyms: the classes in that order.
        templates: of the convention.
        layout: how masks are read, and pictures cut.
        pairs: the pictures with their masks, in order.
        expected_images: how many pictures there should be; None where nobody knows.
        problems: what differs from the table, in sentences for people.
    """

    name: str
    split: str
    convention: str
    class_names: tuple[str, ...]
    synonyms: SynonymSet
    templates: tuple[str, ...]
    layout: Masks
    pairs: tuple[Pair, ...]
    expected_images: int | None = None
    problems: tuple[str, ...] = ()


def open_segmentation(
    benchmark: Benchmark,
    root: Path | str,
    *,
    convention: str | None = None,
    synonyms: SynonymSet | None = None,
) -> SegmentationSet:
    """Open a benchmark of segmentation: list its pictures, in the order of its list, else sorted.

    Args:
        benchmark: a row of the table or of one's own, from `benchmarks.table.find_benchmark`.
        root: the folder of all data sets. A row of one's own is looked for in the folder of its file.
        convention: None: the benchmark's first.
        synonyms: other words for the same classes; None: those that the benchmark names.

    Raises:
        FileNotFoundError: the set is not there; says what was looked for.
        ValueError: a benchmark of classification, no such convention, another number of classes or more than
            255, a picture that is listed twice, or a root on the Hub.
    """
    if not benchmark.is_segmentation:
        raise ValueError(f"{benchmark.name}: expected a benchmark of segmentation, got one of classification")
    chosen, rules = benchmark.convention(convention)
    if benchmark.folder is None and str(root).startswith("hf://"):
        raise ValueError(
            f"{benchmark.name}: these pictures are not on the Hub; give the folder that they are in"
        )
    words = SynonymSet.read(benchmark.synonyms) if synonyms is None else synonyms
    if rules.classes not in (None, len(words.classes)):
        raise ValueError(
            f"{benchmark.name}: expected {rules.classes} classes, got {len(words.classes)} in its synonyms"
        )
    if len(words.classes) > IGNORED:
        raise ValueError(
            f"{benchmark.name}: expected at most {IGNORED} classes, since {IGNORED} in a mask is no class, "
            f"got {len(words.classes)}"
        )
    looked_for = []
    for layout in rules.layouts:
        assert isinstance(layout, Masks)  # a row is of one task
        missing, pairs = _list_pairs(layout, (benchmark.folder or Path(root)) / layout.folder)
        if missing is None:
            break
        looked_for.append(str(missing))
    else:
        raise FileNotFoundError(
            f"{benchmark.name}: not found; looked for {', '.join(dict.fromkeys(looked_for))}; "
            f"docs/benchmarks.md says where it has to be"
        )
    key, times = Counter(pair.key for pair in pairs).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{benchmark.name}: {layout.listed}: {key!r} is listed {times} times")
    problems = []
    if rules.images not in (None, len(pairs)):
        problems.append(
            f"{len(pairs):,} pictures are listed, {rules.images:,} expected: these are not the scores of "
            f"{benchmark.name}"
        )
    return SegmentationSet(
        name=benchmark.name,
        split=rules.split,
        convention=chosen,
        class_names=tuple(words.class_names),
        synonyms=words,
        templates=resolve_templates(rules.templates or words.templates or DEFAULT_TEMPLATES),
        layout=layout,
        pairs=tuple(pairs),
        expected_images=rules.images,
        problems=tuple(problems),
    )


def read_mask(pair: Pair, *, reduce_zero_label: bool = False) -> Tensor:
    """Return the labels in a mask: (height, width) int64, 255 for pixels that do not count.

    Args:
        pair: its mask is a picture of one channel or with a palette, whose values are labels.
        reduce_zero_label: see `Masks`.

    Raises:
        FileNotFoundError: there is no such mask; the key is named.
        BrokenImageError: it cannot be read, or is in colour, and its values are no labels.
    """
    try:
        with Image.open(pair.mask) as picture:
            if picture.mode not in ("P", "L", "I", "I;16"):
                raise ValueError(f"expected one number a pixel, mode P or L, got mode {picture.mode}")
            labels = torch.from_numpy(np.array(picture).astype(np.int64))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{pair.key}: there is no mask {pair.mask.name}") from error
    except Exception as error:  # Pillow's readers let many kinds through
        reason = why_unreadable(error)
        raise BrokenImageError(f"{pair.key}: {pair.mask.name} is not a readable mask ({reason})") from error
    if reduce_zero_label:
        labels = torch.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
    return labels


def _list_pairs(layout: Masks, folder: Path) -> tuple[Path | None, list[Pair]]:
    """Return what is missing of a layout, and, if nothing is, its pictures; each of them may be missing."""
    images, masks = folder / layout.images, folder / layout.masks
    for place in (images, masks):
        if not place.is_dir():
            return place, []
    if layout.listed is None:
        keys = sorted(_keys(images, layout.image_suffix))
        if not keys:
            return images / f"*{layout.image_suffix}", []
    else:
        listed = folder / layout.listed
        if not listed.is_file():
            return listed, []
        # Names of files are bytes, and a list of them may be in any encoding.
        lines = listed.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        keys = [line.strip() for line in lines if line.strip()]
        if not keys:
            raise ValueError(f"{listed}: no pictures are listed")
    return None, [
        Pair(key, images / f"{key}{layout.image_suffix}", masks / f"{key}{layout.mask_suffix}")
        for key in keys
    ]


def _keys(images: Path, suffix: str) -> Iterator[str]:
    """Give the keys of all pictures in a folder and its sub-folders; links are followed."""
    for where, folders, names in os.walk(images, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(where).relative_to(images)
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                yield (below / name.removesuffix(suffix)).as_posix()
