"""A folder to write into is empty, or filled by what writes there now: nobody's files are mixed with ours."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from s3clip.arguments import did_you_mean
from s3clip.files.writing import in_utf8

MARK = ".s3clip"
"""A file in folders of ours that hold pictures alone, which say nothing of who wrote them."""

_MARK_CONTENT = b"The pictures here were written by s3clip, which goes on with this folder.\n"


def check_own(
    folder: str | os.PathLike[str], argument: str, is_ours: Callable[[Path], bool], what: str
) -> None:
    """Refuse a folder that holds something else.

    Args:
        folder: that is to be written into; it may be missing, empty, or hold hidden files alone.
        argument: what named it, for errors.
        is_ours: whether one with files in it was filled by what is to write there.
        what: that is, for errors.

    Raises:
        ValueError: it holds something else.
        NotADirectoryError, PermissionError: see `check_writable`.
    """
    place = Path(folder)
    check_writable(place, argument)
    if not place.exists():
        return
    if (names := visible(os.listdir(place))) and not is_ours(place):
        raise ValueError(holds_others(argument, place, names, what))


def check_writable(folder: Path, argument: str) -> None:
    """Refuse a folder that cannot be made or written to, before the work and not after it; makes nothing.

    Raises:
        NotADirectoryError: it is a file, or would lie in one.
        PermissionError: it, or where it would be made, is not to be written to.
    """
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise NotADirectoryError(f"{argument}: expected a folder, {there} is a file")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{argument}: {there} is not to be written to; choose another folder")


def holds_others(argument: str, folder: object, names: Iterable[str], what: str) -> str:
    """Return what is said of a folder that holds something else."""
    listed = sorted(names)
    shown = in_utf8(", ".join(listed[:3])) + (", ..." if len(listed) > 3 else "")
    return f"{argument}: {folder} holds {shown} and no {what}; give a new folder, or an empty one"


def visible(names: Iterable[str]) -> list[str]:
    """Return the names that are not hidden: what systems and tools leave in a folder is nobody's."""
    return [name for name in names if not name.startswith(".")]


def beside(path: str | os.PathLike[str], others: Mapping[str, str] | None = None) -> str:
    """Return the names near one that leads to nothing, to end an error; "" if there are none.

    Args:
        path: that is not there.
        others: what else could be meant, by what it is called, as it has to be written.
    """
    place, meant = Path(path), dict(others or {})
    with suppress(OSError):  # there is no such folder either
        meant |= {name: in_utf8(str(place.with_name(name))) for name in visible(os.listdir(place.parent))}
    near = did_you_mean(place.name, meant, written=meant)
    return f"; {near}" if near else ""


def check_pictures(folder: str | os.PathLike[str], argument: str) -> None:
    """Refuse a folder for pictures of ours that holds something else, as `check_own` does."""
    check_own(folder, argument, lambda place: (place / MARK).is_file(), "pictures that s3clip wrote")


def make_for_pictures(folder: Path) -> None:
    """Make a folder for pictures of ours, and mark it.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        (folder / MARK).write_bytes(_MARK_CONTENT)
