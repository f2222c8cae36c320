"""Pictures as users have them: PIL images, paths, arrays, tensors; opened as RGB, upright."""

import io
import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError


class BrokenImageError(ValueError):
    """A file that is there but is not a picture that can be read."""


def open_image(source: Any, *, name: str | None = None) -> Image.Image:
    """Return a picture as an RGB PIL image, turned upright as its EXIF tag says.

    Args:
        source: a PIL image, a path, the bytes of a file, a uint8 array of shape (height, width) or (height,
            width, 3 or 4), or a uint8 tensor of shape (1 or 3 or 4, height, width).
        name: what an error calls a file; None: its path.

    Raises:
        FileNotFoundError: no such file.
        BrokenImageError: a file that cannot be read as a picture; it is named, and the reason is in words
            that are the same on every machine.
        TypeError: anything else.
    """
    if isinstance(source, Image.Image):
        return _as_rgb(source, "the PIL image given")
    if isinstance(source, str | os.PathLike | bytes):
        called = name or ("the bytes given" if isinstance(source, bytes) else str(source))
        try:
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        except FileNotFoundError:
            raise
        except Exception as error:  # Pillow's readers let many kinds through: struct.error, SyntaxError, ...
            raise BrokenImageError(f"{called}: not a readable image ({why_unreadable(error)})") from error
        with image:
            return _as_rgb(image, called)
    if isinstance(source, torch.Tensor):
        array = source.detach().cpu().movedim(0, -1).numpy() if source.ndim == 3 else source.cpu().numpy()
    elif isinstance(source, np.ndarray):
        array = source
    else:
        raise TypeError(f"images: expected PIL images, paths, arrays or tensors, got {type(source).__name__}")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise TypeError(
            f"images: expected uint8 arrays (height, width, 3) or tensors (3, height, width), got "
            f"{array.dtype} of shape {tuple(source.shape)}; preprocessed pixels go to head(pixel_values)"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # convert() would clip 16 bits to 8 instead of scaling them
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        return upright.convert("RGB")
    except Exception as error:
        raise BrokenImageError(f"{name}: not a readable image ({why_unreadable(error)})") from error


def why_unreadable(error: Exception) -> str:
    """Return why Pillow could not read a file, in words without its path: the same on every machine."""
    if isinstance(error, UnidentifiedImageError):  # its message holds the path, or an address in memory
        return "empty, or no format that is known"
    if isinstance(error, OSError) and error.strerror:  # the message of the system holds the path
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
