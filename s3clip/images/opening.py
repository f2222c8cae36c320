"""Pictures as users have them: PIL images, paths, addresses, bytes, arrays, tensors; as RGB, upright."""

import binascii
import io
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from s3clip.files.addresses import is_address, read_address, regular_file

BACKGROUND = "white"
"""What lies under transparent pictures: most of them, drawings and cut-out products, are made for paper."""

_NO_PIXELS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC"})
"""Formats that Pillow knows by name and does not read, or reads by running another program."""

_RANGES = (1, 255, 65_535)


class BrokenImageError(ValueError):
    """A file that is there but is not a picture that can be read."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return how the names of files end that Pillow, as it is installed, opens as pictures: ".jpg", ..."""
    known = Image.registered_extensions().items()
    # .mpo is registered for writing alone, since such a file opens as a JPEG.
    opened = {*Image.OPEN, "MPO"} - _NO_PIXELS
    return frozenset(suffix.lower() for suffix, kind in known if kind in opened)


def as_sequence(images: Any) -> Sequence[Any]:
    """Return one or several images as a sequence of what `open_image` takes.

    Several are a list, a tuple or another sequence, such as a column of `datasets`, whose items are read one
    by one; an array or tensor of four dimensions; and an array of paths.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":
        return images.ravel().tolist()
    if getattr(images, "ndim", 3) == 4:
        return list(images)
    is_one = isinstance(images, str | bytes | bytearray | memoryview) or not isinstance(images, Sequence)
    return [images] if is_one else images


def open_image(source: Any, *, name: str | None = None, background: Any = BACKGROUND) -> Image.Image:
    """Return a picture in 8-bit RGB, turned upright as its EXIF tag says. Of several frames, the first.

    How its mode becomes RGB:

    - `L`, `1`, `P`, `CMYK`, `YCbCr`, `HSV`: as Pillow converts them.
    - transparency (`RGBA`, `LA`, `PA`, `RGBa`, `La`, a transparent color of a palette or of a PNG): laid on
      `background`. openai's clip and `convert("RGB")` show the colors that are hidden under it instead: black
      ink on clear paper becomes black on black.
    - `I;16` of any kind, an array of uint16: scaled from 0..65535.
    - `I`, `F`: scaled from the smallest range that holds all values: 0..1 (`F` alone), 0..255, 0..65535;
      where none does, from their least to their greatest value.

    Args:
        source: a PIL image; a path; an address, http(s) among them, or a data URI; the bytes of a file; a
            record {"bytes": ..., "path": ...} of `datasets`; a uint8 or uint16 array of shape (height,
            width) or (height, width, 1, 3 or 4); or such a tensor, shape (1, 3 or 4, height, width).
        name: what an error calls a file; None: its path.
        background: a color of Pillow: "white", "#808080", (0, 0, 0).

    Raises:
        FileNotFoundError: no such file.
        BrokenImageError: a file that cannot be read as a picture; it is named, and the reason is in words
            that are the same on every machine.
        ConnectionError: an address that cannot be reached.
        TypeError: anything else.
    """
    if isinstance(source, dict) and {"bytes", "path"} & source.keys():
        content = source.get("bytes")
        name = name or source.get("path")
        source = content if content is not None else source.get("path")
    if isinstance(source, Image.Image):
        return _as_rgb(source, name or "the PIL image given", background)
    if isinstance(source, str) and source.startswith("data:image/"):
        name = name or "the data URI given"
        source = _data(source, name)
    elif is_address(source):
        name = name or source
        source = read_address(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _opened(lambda: Image.open(io.BytesIO(source)), name or "the bytes given", background)
    if isinstance(source, str | os.PathLike):
        return _opened(lambda: Image.open(regular_file(source)), name or str(source), background)
    return _as_rgb(_of_array(source), name or "the array given", background)


def why_unreadable(error: Exception) -> str:
    """Return why Pillow could not read a file, in words without its path: the same on every machine."""
    if isinstance(error, UnidentifiedImageError):  # its message holds the path, or an address in memory
        return "empty, or no format that is known"
    if isinstance(error, OSError) and error.strerror:  # the message of the system holds the path
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _opened(open_file: Callable[[], Image.Image], name: str, background: Any) -> Image.Image:
    try:
        image = open_file()
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's readers let many kinds through: struct.error, SyntaxError, ...
        raise BrokenImageError(f"{name}: not a readable image ({why_unreadable(error)})") from error
    with image:
        if image.format in _NO_PIXELS:
            raise BrokenImageError(f"{name}: not a readable image ({image.format} holds no pixels)")
        return _as_rgb(image, name, background)


def _data(source: str, name: str) -> bytes:
    head, _, content = source.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("expected data:image/...;base64,...")
        return binascii.a2b_base64(content)
    except ValueError as error:  # binascii's own among them
        raise BrokenImageError(f"{name}: not a readable image ({error})") from error


def _of_array(source: Any) -> Image.Image:
    if isinstance(source, torch.Tensor):
        array = (source.detach().movedim(0, -1) if source.ndim == 3 else source.detach()).cpu().numpy()
    elif isinstance(source, np.ndarray):
        array = source
    else:
        raise TypeError(f"images: expected PIL images, paths, arrays or tensors, got {type(source).__name__}")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))
    if array.dtype not in (np.uint8, np.uint16) or not is_picture:
        raise TypeError(
            f"images: expected uint8 arrays (height, width, 3) or tensors (3, height, width), got "
            f"{array.dtype} of shape {tuple(source.shape)}; preprocessed pixels go to head(pixel_values)"
        )
    return Image.fromarray(np.ascontiguousarray(array if array.dtype == np.uint8 else _scaled(array)))


def _as_rgb(image: Image.Image, name: str, background: Any) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":  # convert() would clip these to 8 bits
            upright = Image.fromarray(_scaled(np.asarray(upright)))
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        over = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA")
        whole = Image.new("RGB", over.size, background)
        whole.paste(over, mask=over)
        return whole
    except Exception as error:
        raise BrokenImageError(f"{name}: not a readable image ({why_unreadable(error)})") from error


def _scaled(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the values of a picture in 8 bits; for the rule see `open_image`."""
    least, most = float(values.min()), float(values.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ValueError("it has values that are NaN or infinite")
    ranges = (65_535,) if values.itemsize == 2 else _RANGES if values.dtype.kind == "f" else _RANGES[1:]
    end = next((end for end in ranges if least >= 0 and most <= end), None)
    first, span = (0, end) if end is not None else (least, most - least or 1)
    return np.rint((values - np.float64(first)) * (255 / span)).astype(np.uint8)
