"""Pictures of a segmentation: an overlay with a legend, heat maps."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from s3clip.class_space import class_position
from s3clip.images.opening import open_image
from s3clip.segmentation.palette import class_colours
from s3clip.segmentation.result import Segmentation

SMALLEST_SHARE = 0.001
"""Of a picture; classes that cover less are counted in a legend, not named."""

_MARGIN = 12
_MOST_RED = 0.7  # so that the picture is seen through it
_INK, _PAPER = (31, 35, 40), (255, 255, 255)


def overlay(image: Any, segmentation: Segmentation, *, opacity: float = 0.6) -> Image.Image:
    """Return the picture with its classes laid over it in colour, and a legend on the right.

    Args:
        image: the picture that was segmented, in any form that `open_image` takes.
        segmentation: of it.
        opacity: of the colours, in [0, 1]; pixels of no class stay as they are.

    Raises:
        ValueError: a picture of another size.
    """
    picture = np.asarray(open_image(image), dtype=np.float32)
    labels = segmentation.labels.numpy().astype(np.int64)
    if picture.shape[:2] != labels.shape:
        raise ValueError(
            f"image: expected the picture that was segmented, {labels.shape[1]} x {labels.shape[0]}, got "
            f"{picture.shape[1]} x {picture.shape[0]}"
        )
    colours = class_colours(segmentation.class_names)
    painted = colours[labels % 256].astype(np.float32)
    weight = np.where(labels[..., None] < 0, 0.0, opacity)
    mixed = Image.fromarray((picture * (1 - weight) + painted * weight).round().astype(np.uint8))
    areas = segmentation.areas()
    shown = [area for area in areas if area["share"] >= SMALLEST_SHARE]
    entries = [
        (tuple(int(v) for v in colours[area["class_index"] % 256]), f"{area['label']}  {area['share']:.1%}")
        for area in shown
    ]
    if small := len(areas) - len(shown):
        entries.append((_PAPER, f"{small} smaller"))
    nothing = float((segmentation.labels < 0).float().mean())
    if nothing:
        entries.append((_PAPER, f"no class  {nothing:.1%}"))
    return _with_legend(mixed, entries)


def heat_map(image: Any, segmentation: Segmentation, which: int | str) -> Image.Image:
    """Return the picture with the probability of one class over it: from clear, in its colours, to red."""
    picture = np.asarray(open_image(image), dtype=np.float32)
    heat = _MOST_RED * segmentation.probabilities(which).numpy()[..., None]
    red = np.array([215, 48, 31], dtype=np.float32)
    mixed = Image.fromarray((picture * (1 - heat) + red * heat).round().astype(np.uint8))
    name = segmentation.class_names[class_position(segmentation.class_names, which)]
    return _with_legend(mixed, [((215, 48, 31), f"{name}: probability 1"), (_PAPER, "probability 0")])


def _with_legend(picture: Image.Image, entries: list[tuple[Any, str]]) -> Image.Image:
    font = ImageFont.load_default()
    box = ImageDraw.Draw(picture)
    sizes = [box.textbbox((0, 0), text, font=font) for _, text in entries]
    line = max((int(bottom - top) for _, top, _, bottom in sizes), default=10) + 8
    widest = max((int(right) for _, _, right, _ in sizes), default=0)
    height = max(picture.height, 2 * _MARGIN + line * len(entries))
    page = Image.new("RGB", (picture.width + widest + line + 3 * _MARGIN, height), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    left = picture.width + _MARGIN
    for i, (colour, text) in enumerate(entries):
        top = _MARGIN + i * line
        draw.rectangle((left, top, left + line - 6, top + line - 6), fill=colour, outline=_INK)
        draw.text((left + line + 2, top), text, fill=_INK, font=font)
    return page
