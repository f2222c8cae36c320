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
        return ImageOps.exif_transpose(source).convert("RGB")
    if isinstance(source, str | os.PathLike):
        try:
            with Image.open(source) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BrokenImageError(f"{source}: not a readable image ({error})") from error
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
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
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
