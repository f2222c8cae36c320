"""Pictures as users have them: PIL images, paths, addresses, bytes, arrays, tensors; as RGB, upright."""

import binascii
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from s3clip.files.addresses import is_address, read_address, regular_file

BACKGROUND = "white"
"""What lies under transparent pictures: most of them, drawings and cut-out products, are made for paper."""

DECODED_BYTES = 128 << 20
"""What decoded pictures may take at once, 3 bytes a pixel, but for the last."""
LARGEST_DECODED = 256 << 20
"""What one of them may take. A picture of more is brought to half its size when it is opened, a JPEG while it
is decoded. Pillow begins to warn of a picture here, and reads none beyond twice as much."""
NEAR = 2
"""How many times the side that a model needs a JPEG has at least where it is decoded near that size."""
REDUCED = "s3clip_reduced"
"""The key in `info` of a picture that was decoded at less than its size; the value says so."""

_NO_PIXELS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC"})
"""Formats that Pillow knows by name and does not read, or reads by running another program."""

_RANGES = (1, 255, 65_535)
_AT_ONCE = 1 << 20  # pixels that are computed with at once

_ONE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping, Set)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{32,}={0,2}\s*")
_LONGEST_PATH = 4096  # characters; no system has longer ones


class BrokenImageError(ValueError):
    """A file that is there but is not a picture that can be read."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return how the names of files end that Pillow, as it is installed, opens as pictures: ".jpg", ..."""
    known = Image.registered_extensions().items()
    # .mpo is registered for writing alone, since such a file opens as a JPEG.
    opened = {*Image.OPEN, "MPO"} - _NO_PIXELS
    return frozenset(suffix.lower() for suffix, kind in known if kind in opened)


def is_one(images: Any) -> bool:
    """Whether this is one image, in whatever form or wrong one, and not several of them.

    Several are whatever can be iterated: a list, a generator, a column of `datasets`; a data set of torch; an
    array or tensor of four dimensions; an array of paths. A set is none of them, since it has no order.
    """
    if isinstance(images, _ONE):
        return True
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":  # of paths, or of anything
        return False
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim != 4
    return not (
        isinstance(images, Iterable) or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))
    )


def one_or_several(images: Any) -> Iterable[Any]:
    """Return one or several images, see `is_one`, as an iterable of what `open_image` takes."""
    if is_one(images):
        return [images]
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":
        return images.ravel().tolist()
    return images if isinstance(images, Iterable) else (images[i] for i in range(len(images)))


def runs_of_pictures(pictures: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    """Cut pictures, which may be opened as they are asked for, into runs that take `DECODED_BYTES`.

    A run ends with the picture that fills it. Whoever drops it before the next holds no more than one run.
    """
    run: list[Image.Image] = []
    held = 0
    for picture in pictures:
        run.append(picture)
        held += 3 * picture.width * picture.height
        del picture
        if held >= DECODED_BYTES:
            yield run
            run, held = [], 0
    if run:
        yield run


def open_image(
    source: Any,
    *,
    name: str | None = None,
    background: Any = BACKGROUND,
    timeout: float | None = None,
    needed: int | None = None,
) -> Image.Image:
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
        source: a PIL image; a path; an address, http(s) among them; base64 text, also as a data URI; the
            bytes of a file; a record {"bytes": ..., "path": ...} of `datasets`; a uint8 or uint16 array of
            shape (height, width) or (height, width, 1, 3 or 4); or such a tensor, shape (1, 3 or 4, height,
            width).
        name: what an error calls a file; None: its path.
        background: a color of Pillow: "white", "#808080", (0, 0, 0).
        timeout: seconds that the server of a web address may be silent; None: 30.
        needed: the shorter side in pixels that the picture is brought to afterwards. A JPEG is decoded at a
            half, a quarter or an eighth of its size then, with sides of `NEAR` times that at least. None:
            whole, as are all other formats.

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
    if is_address(source):
        name = name or source
        source = read_address(source, timeout=timeout)
    elif isinstance(source, str) and (content := _of_base64(source)) is not None:
        name = name or "the base64 text given"
        source = content
    if isinstance(source, bytes | bytearray | memoryview):
        return _opened(lambda: Image.open(io.BytesIO(source)), name or "the bytes given", background, needed)
    if isinstance(source, str | os.PathLike):
        return _opened(lambda: Image.open(regular_file(source)), name or str(source), background, needed)
    return _as_rgb(_of_array(source), name or "the array given", background)


def why_unreadable(error: Exception) -> str:
    """Return why Pillow could not read a file, in words without its path: the same on every machine."""
    if isinstance(error, UnidentifiedImageError):  # its message holds the path, or an address in memory
        return "empty, or no format that is known"
    if isinstance(error, OSError) and error.strerror:  # the message of the system holds the path
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _opened(
    open_file: Callable[[], Image.Image], name: str, background: Any, needed: int | None
) -> Image.Image:
    try:
        image = open_file()
    except FileNotFoundError as error:
        if not os.path.islink(error.filename or ""):
            raise
        raise BrokenImageError(f"{name}: not a readable image (a link to nothing)") from error
    except Exception as error:  # Pillow's readers let many kinds through: struct.error, SyntaxError, ...
        raise BrokenImageError(f"{name}: not a readable image ({why_unreadable(error)})") from error
    with image:
        if image.format in _NO_PIXELS:
            raise BrokenImageError(f"{name}: not a readable image ({image.format} holds no pixels)")
        if needed is not None and min(image.size) >= 2 * NEAR * needed:
            image.draft(None, (NEAR * needed, NEAR * needed))  # which only JPEGs know
        width, height = image.size
        factor = 1
        while 3 * width * height > LARGEST_DECODED * factor**2:
            factor *= 2
        if factor == 1:
            return _as_rgb(image, name, background, is_own=True)
        image.draft(None, (max(1, width // factor), max(1, height // factor)))
        left = factor if image.size == (width, height) else 1
        picture = _as_rgb(image, name, background, is_own=True, factor=left)
        said = f"decoded at 1/{factor} of its {width:,} x {height:,} pixels"
        picture.info[REDUCED] = said
        warnings.warn(f"{name}: {said}", stacklevel=3)
        return picture


def _of_base64(text: str) -> bytes | None:
    """Return what a data URI or base64 text holds; None of any other text, such as the path of a file."""
    is_uri = text.startswith("data:image/")
    head, _, content = text.partition(",") if is_uri else ("", "", text)
    if not is_uri and not (_BASE64.fullmatch(text) and not os.path.lexists(text)):
        return None
    try:
        if is_uri and not head.endswith(";base64"):
            raise ValueError("expected data:image/...;base64,...")
        found = binascii.a2b_base64(content)
    except ValueError as error:  # binascii's own among them
        if not is_uri and len(text) < _LONGEST_PATH:
            return None
        raise BrokenImageError(f"the base64 text given: not a readable image ({error})") from error
    # A path that is not there, such as photos/2024/holiday, may be base64 too.
    return found if is_uri or len(text) >= _LONGEST_PATH or _is_picture(found) else None


def _is_picture(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).close()
    except Exception:  # see `_opened`
        return False
    return True


def _of_array(source: Any) -> Image.Image:
    if isinstance(source, torch.Tensor):
        array = (source.detach().movedim(0, -1) if source.ndim == 3 else source.detach()).cpu().numpy()
    elif isinstance(source, np.ndarray):
        array = source
    else:
        keys = f" of {', '.join(map(repr, source))}; give its image" if isinstance(source, Mapping) else ""
        raise TypeError(
            f"images: expected PIL images, paths, arrays or tensors, got {type(source).__name__}{keys}"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))
    if array.dtype not in (np.uint8, np.uint16) or not is_picture:
        raise TypeError(
            f"images: expected uint8 arrays (height, width, 3) or tensors (3, height, width), got "
            f"{array.dtype} of shape {tuple(source.shape)}; preprocessed pixels go to head(pixel_values)"
        )
    return Image.fromarray(np.ascontiguousarray(array if array.dtype == np.uint8 else _scaled(array)))


def _as_rgb(
    image: Image.Image, name: str, background: Any, *, is_own: bool = False, factor: int = 1
) -> Image.Image:
    """Return a picture in RGB, its sides divided; one that is nobody else's is changed, not copied before."""
    try:
        upright = image
        if is_own:
            ImageOps.exif_transpose(image, in_place=True)
        else:
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":  # convert() would clip these to 8 bits
            upright = Image.fromarray(_scaled(np.asarray(upright)))
        if upright.has_transparency_data:
            whole = _laid_on(upright, background)
            return whole.reduce(factor) if factor > 1 else whole
        if factor > 1 and upright.mode in ("L", "RGB"):  # rather before it is copied than after
            return upright.reduce(factor).convert("RGB")
        whole = upright.convert("RGB")
        return whole.reduce(factor) if factor > 1 else whole
    except Exception as error:
        raise BrokenImageError(f"{name}: not a readable image ({why_unreadable(error)})") from error


def _laid_on(image: Image.Image, background: Any) -> Image.Image:
    """Return a picture with transparency in RGB, laid on a color."""
    whole = Image.new("RGB", image.size, background)
    rows = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        over = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
        whole.paste(over, (0, top), mask=over)
    return whole


def _scaled(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the values of a picture in 8 bits; for the rule see `open_image`."""
    least, most = float(values.min()), float(values.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ValueError("it has values that are NaN or infinite")
    ranges = (65_535,) if values.itemsize == 2 else _RANGES if values.dtype.kind == "f" else _RANGES[1:]
    end = next((end for end in ranges if least >= 0 and most <= end), None)
    first, span = (0, end) if end is not None else (least, most - least or 1)
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), step := max(1, _AT_ONCE // max(1, values[0].size))):
        rows = slice(start, start + step)
        scaled[rows] = np.rint((values[rows] - np.float64(first)) * (255 / span))
    return scaled
