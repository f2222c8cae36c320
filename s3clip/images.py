"""Pictures as users have them: PIL images, paths, arrays, tensors; files, folders and globs."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


class BrokenImageError(ValueError):
    """A file that is there but is not a picture that can be read."""


def open_image(source: Any) -> Image.Image:
    """Return a picture as an RGB PIL image, turned upright as its EXIF tag says.

    Args:
        source: a PIL image, a path, a uint8 array of shape (height, width) or (height, width, 3 or 4), or a
            uint8 tensor of shape (1 or 3 or 4, height, width).

    Raises:
        FileNotFoundError: no such file.
        BrokenImageError: a file that cannot be read as a picture; it is named.
        TypeError: anything else.
    """
    if isinstance(source, Image.Image):
        return _as_rgb(source, "the PIL image given")
    if isinstance(source, str | os.PathLike):
        try:
            image = Image.open(source)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise BrokenImageError(f"{source}: not a readable image ({error})") from error
        with image:
            return _as_rgb(image, str(source))
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
    except Exception as error:  # Pillow's readers let many kinds through: struct.error, SyntaxError, ...
        raise BrokenImageError(f"{name}: not a readable image ({error})") from error


def find_images(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the image files that the sources name: files, folders (searched to the bottom) and globs.

    Each file once, in the order of the sources, sorted inside a folder or a glob.

    Raises:
        FileNotFoundError: a source that is neither, or a folder or glob without images.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
            if not files:
                raise FileNotFoundError(f"{source}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        elif path.is_file():
            files = [path]
        else:
            files = [
                Path(file) for file in sorted(glob.glob(str(source), recursive=True)) if Path(file).is_file()
            ]
            if not files:
                raise FileNotFoundError(f"{source}: no such file, folder or matching glob")
        found.update(dict.fromkeys(files))
    return list(found)
