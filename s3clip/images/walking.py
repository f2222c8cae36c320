"""Pictures found: files, folders searched to the bottom, and globs."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


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
