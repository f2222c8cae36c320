"""Pictures found: files, folders searched to the bottom, and globs, by one rule for every reader."""

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from s3clip.files.addresses import checked_path, is_address
from s3clip.files.folders import beside
from s3clip.images.opening import image_suffixes


def find_images(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the image files that the sources name: files, folders (searched to the bottom) and globs.

    Each file once, in the order of the sources, sorted inside a folder or a glob. A file that is named is
    taken whatever it is called; of folders and globs, those that `images_below` describes.

    Raises:
        FileNotFoundError: a source that is neither, or a folder or glob without images.
        OSError: a folder that may not be read.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(checked_path(source, "images"))
        if path.is_dir():
            files = images_below(path)
            if not files:
                raise FileNotFoundError(f"{source}: no images in this folder ({', '.join(_COMMON)}, ...)")
        elif path.exists():
            files = [path]
        else:
            matching = [path for path in glob_paths(str(source)) if not os.path.isdir(path)]
            files = [Path(path) for path in matching if is_image(path) and _is_file(path)]
            warn_of_passed_over(source, sorted({*matching} - {str(path) for path in files}))
            if not files:
                raise FileNotFoundError(
                    f"{source}: no such file, folder or matching glob of images{beside(path)}"
                )
        found.update(dict.fromkeys(files))
    return list(found)


def find_images_and_addresses(sources: Iterable[str]) -> list[Path | str]:
    """Return what `find_images` finds, and addresses and data URIs as they are, for `open_image` to read.

    Raises:
        FileNotFoundError, OSError: as `find_images`.
    """
    found: dict[Path | str, None] = {}
    for source in sources:
        is_elsewhere = is_address(source) or source.startswith("data:image/")
        found.update(dict.fromkeys([source] if is_elsewhere else find_images([source])))
    return list(found)


_COMMON = (".jpg", ".png", ".webp", ".tif", ".gif", ".bmp")


def images_below(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted by their paths as texts; none is left out silently.

    They are what Pillow opens, by their suffixes. Links are followed. A link that leads nowhere is among
    them: it is to fail when it is opened, not to be missing. Hidden files and folders, such as
    `.ipynb_checkpoints` and `._001.png`, are passed over; one warning counts what was.
    """
    files, left_out = walk(str(folder))
    warn_of_passed_over(folder, [*left_out, *(file for file in files if not is_image(file))])
    return [Path(file) for file in files if is_image(file)]


def is_image(path: str) -> bool:
    """Whether a file is a picture by its suffix."""
    return PurePosixPath(path).suffix.lower() in image_suffixes()


def walk(folder: str) -> tuple[list[str], list[str]]:
    """Return all files below a folder, sorted, and what is left out: all with "/", and the folder before it.

    Links are followed, but for those to a folder that they lie in. Left out are hidden files and folders
    (these end in "/"), and what is no file, such as a pipe.

    Raises:
        OSError: a folder that may not be read.
    """
    found, left_out = [], []
    start = folder.replace(os.sep, "/")
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(start.rstrip("/") or "/", ())]
    while waiting:
        where, above = waiting.pop()
        status = os.stat(where)
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        with os.scandir(where) as entries:
            for entry in entries:
                path = f"{where.rstrip('/')}/{entry.name}"
                is_folder = os.path.isdir(path) if entry.is_symlink() else entry.is_dir()
                if entry.name.startswith("."):
                    left_out.append(f"{path}/" if is_folder else path)
                elif is_folder:
                    waiting.append((path, (*above, here)))
                elif _is_file(path) if entry.is_symlink() else entry.is_file():
                    found.append(path)
                else:
                    left_out.append(path)
    return sorted(found), left_out


def _is_file(path: str) -> bool:
    """Whether a path is that of a file, or of a link to nothing."""
    return os.path.isfile(path) or not os.path.exists(path)


def glob_paths(pattern: str) -> list[str]:
    """Return what a glob matches, sorted: a star nothing that is hidden, two of them no loop of links."""
    matching = sorted(glob.glob(pattern, recursive=True))
    if "**" not in pattern:
        return matching
    real: dict[str, str] = {}

    def is_in_loop(path: str) -> bool:
        above = [str(folder) for folder in PurePosixPath(path).parents]
        for folder in above:
            if folder not in real:
                real[folder] = os.path.realpath(folder)
        return len({real[folder] for folder in above}) < len(above)

    return [path for path in matching if not is_in_loop(path)]


def warn_of_passed_over(place: object, paths: Iterable[str]) -> None:
    """Say in one line, by suffix, how many files were passed over; of hidden ones, those that look read."""
    counts = Counter(kind for path in paths if (kind := _kind(path)) is not None)
    if counts:
        ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
        said = ", ".join(f"{count:,} {kind}" for kind, count in ordered[:8])
        rest = sum(count for _, count in ordered[8:])
        said += f", {rest:,} of other kinds" if rest else ""
        warnings.warn(f"{place}: passed over: {said}", stacklevel=3)


def _kind(path: str) -> str | None:
    name = PurePosixPath(path).name
    if path.endswith("/"):
        return f"{name}/" if name.startswith(".") else None
    if name.startswith("."):  # of the system, such as .DS_Store, but for the likes of ._001.png
        return f"hidden {PurePosixPath(name).suffix.lower()}" if is_image(name) else None
    return PurePosixPath(name).suffix.lower() or "without a suffix"
