"""Pictures with masks of class numbers, listed and read."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from s3clip.evaluation.benchmarks.table import Masks
from s3clip.evaluation.scores import IGNORED
from s3clip.files.addresses import open_binary
from s3clip.files.reach import Reach
from s3clip.images.opening import BrokenImageError, why_unreadable
from s3clip.images.sources import Sample, Unread
from s3clip.images.walking import walk


@dataclass(frozen=True)
class MaskedImage:
    """A picture and its mask, there or not: a shard of one sample, whose label is the path of the mask.

    Attributes:
        key: the picture's name in the set.
        image: the picture.
        mask: a picture of one channel or with a palette, whose values are labels.
        refused: why neither is to be opened, where the key stands in a list and leads elsewhere.
    """

    key: str
    image: Path
    mask: Path
    refused: str | None = None

    @property
    def name(self) -> str:
        """Of the shard."""
        return self.key

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the picture."""
        data = self.image if self.refused is None else Unread(self.refused)
        yield from (Sample(self.key, str(self.mask), data),)[start:]


def masked_images(layout: Masks, folder: Path, allowed: tuple[str, ...] = ()) -> list[MaskedImage]:
    """Return the pictures of a layout in a folder, in the order of its list, else sorted; any may be missing.

    Raises:
        FileNotFoundError: its folders, its list, or any picture where none are listed; named alone.
        ValueError: none are listed, or one twice.
    """
    images, masks = folder / layout.images, folder / layout.masks
    for place in (images, masks):
        if not place.is_dir():
            raise FileNotFoundError(place)
    if layout.listed is None:
        keys = sorted(_keys(images, layout.image_suffix))
        if not keys:
            raise FileNotFoundError(images / f"*{layout.image_suffix}")
    else:
        listed = folder / layout.listed
        if not listed.is_file():
            raise FileNotFoundError(listed)
        # Names of files are bytes, and a list of them may be in any encoding.
        lines = listed.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        keys = [line.strip() for line in lines if line.strip()]
        if not keys:
            raise ValueError(f"{listed}: no pictures are listed")
        key, times = Counter(keys).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{listed}: {key!r} is listed {times} times")
    found = [
        MaskedImage(key, images / f"{key}{layout.image_suffix}", masks / f"{key}{layout.mask_suffix}")
        for key in keys
    ]
    if layout.listed is None:
        return found
    reaches = Reach(str(images.absolute()), allowed), Reach(str(masks.absolute()), allowed)
    return [replace(each, refused=_why_refused(each, *reaches)) for each in found]


def _why_refused(pair: MaskedImage, images: Reach, masks: Reach) -> str | None:
    try:
        images.find(str(pair.image.absolute()))
        masks.find(str(pair.mask.absolute()))
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _keys(images: Path, suffix: str) -> Iterator[str]:
    """Give the keys of all pictures below a folder, as `images.walking` finds files."""
    for file in walk(str(images))[0]:
        if file.endswith(suffix):
            yield Path(file).relative_to(images).as_posix().removesuffix(suffix)


def read_mask(pair: MaskedImage, *, reduce_zero_label: bool = False) -> Tensor:
    """Return the labels in a mask: (height, width) int32, 255 for pixels that do not count.

    Args:
        pair: a picture with its mask.
        reduce_zero_label: see `Masks`.

    Raises:
        FileNotFoundError: there is no such mask; the key is named.
        BrokenImageError: it cannot be read, or is in colour, and its values are no labels.
    """
    return mask_labels(mask_content(pair.key, pair.mask), pair.key, pair.mask, reduce_zero_label)


def mask_content(key: str, mask: Path) -> bytes:
    """Return the content of the file of a mask; for the errors see `read_mask`."""
    try:
        with open_binary(mask) as file:
            return file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}: there is no mask {mask.name}") from error
    except (OSError, ValueError) as error:
        raise _unreadable(key, mask, error) from error


def mask_labels(content: bytes, key: str, mask: Path, reduce_zero_label: bool) -> Tensor:
    """Return the labels that `mask_content` holds; for the errors see `read_mask`."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode not in ("P", "L", "I", "I;16"):
                raise ValueError(f"expected one number a pixel, mode P or L, got mode {picture.mode}")
            # Four bytes a pixel hold all that these modes do.
            labels = np.asarray(picture).astype(np.int32)
    except Exception as error:  # Pillow's readers let many kinds through
        raise _unreadable(key, mask, error) from error
    if reduce_zero_label:
        labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
    return torch.from_numpy(labels)


def _unreadable(key: str, mask: Path, error: Exception) -> BrokenImageError:
    return BrokenImageError(f"{key}: {mask.name} is not a readable mask ({why_unreadable(error)})")
