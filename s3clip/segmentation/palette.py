"""Labels as a palette picture in the manner of Pascal VOC."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

VOID = 255


def voc_palette() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the 256 colours of Pascal VOC, (256, 3): bits of the index, spread over three channels."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    index = np.arange(256)
    for level in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return palette


def class_colours(class_names: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return 256 colours by label: those of VOC, black only for a first class that is called background."""
    palette = voc_palette()
    if class_names and class_names[0].strip("_ ").casefold() != "background":
        palette = np.concatenate([palette[1:255], palette[:1], palette[255:]])
    return palette


def palette_image(labels: Tensor, class_names: list[str]) -> Image.Image:
    """Return labels as a picture of mode "P": its values are the labels, 255 for no class.

    Raises:
        ValueError: more than 255 classes.
    """
    if len(class_names) > VOID:
        raise ValueError(
            f"labels: a palette picture holds {VOID} classes, got {len(class_names)}; "
            f"use labels or to_coco_rle()"
        )
    values = labels.numpy().astype(np.int64)
    picture = Image.fromarray(np.where(values < 0, VOID, values).astype(np.uint8))
    picture.putpalette(class_colours(class_names).flatten().tolist())
    return picture
