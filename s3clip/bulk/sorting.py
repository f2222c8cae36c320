"""Labelled pictures in a folder for each class, to look at and to correct."""

import errno
import filecmp
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from s3clip.bulk.inputs import read_listing
from s3clip.bulk.output import Output
from s3clip.files.addresses import is_address
from s3clip.files.folders import check_pictures, make_for_pictures
from s3clip.files.writing import in_utf8
from s3clip.images.walking import is_image, walk

How = Literal["symlink", "hardlink", "copy"]
WAYS: tuple[How, ...] = ("symlink", "hardlink", "copy")

_LONGEST = 120
"""Bytes of the name of a class that the name of its folder has; file systems take 255, and numbers follow."""


class LabelledPicture(NamedTuple):
    """A row of results whose picture is a file of this machine.

    Attributes:
        path: of the file.
        class_index: the best class.
        score: its probability.
        accepted: whether it reaches the threshold.
    """

    path: str
    class_index: int
    score: float
    accepted: bool


@dataclass
class Sorted:
    """What became of the pictures.

    Attributes:
        new: links or copies made.
        there: that an earlier call had made.
        elsewhere: of these, in a folder that is not of the class that the results say.
        rejected: pictures that no class accepts, which are in no folder.
        errors: why others are in none.
    """

    new: int = 0
    there: int = 0
    elsewhere: int = 0
    rejected: int = 0
    errors: list[str] = field(default_factory=list)


def sort_into(
    results: str | os.PathLike[str], folder: str | os.PathLike[str], how: How = "symlink"
) -> Sorted:
    """Put every labelled picture into a folder named after its class, by a link or a copy.

    Symbolic links are the default: they take no room, lead to other disks too, and to move or to delete one
    in a file browser, which is what corrects a label, leaves the picture where it is. Hard links outlive the
    picture's own name, on the same disk; copies outlive everything, and can be taken elsewhere.

    What is in the folder is never written over: of pictures with the same name the next gets a number. A
    second call adds what is missing. A picture that lies in another folder in it, since somebody corrected
    its label or another head sorted it, stays there alone.

    Args:
        results: the folder that `label` filled.
        folder: is made where there is none; one that is there is empty, or one that was sorted into.
        how: "symlink", "hardlink" or "copy".

    Raises:
        FileNotFoundError: no results there.
        ValueError: another `how`, an address, a folder inside of the results, or one of something else.
        OSError: the folder cannot be made.
    """
    output, root = Output(results), check_sorting(results, folder, how)
    if output.manifest() is None:
        raise FileNotFoundError(f"results: {output.address} holds none")
    folders = [root / name for name in folder_names(output.class_names())]
    done, taken = Sorted(), Counter[Path]()
    make_for_pictures(root)
    placed: dict[object, list[Path]] = {}
    for path in map(Path, walk(str(root))[0]):
        mark = os.readlink(path) if path.is_symlink() else _mark(path.lstat(), how)
        placed.setdefault(mark, []).append(path)
    for key, found in labelled_pictures(output):
        if found is None:
            done.errors.append(f"{key}: no file of its own, but a part of another one")
        elif not found.accepted:
            done.rejected += 1
        else:
            source = Path(found.path)
            target = folders[found.class_index] / source.name
            try:
                if _lies_elsewhere(source, target, how, placed):
                    done.there, done.elsewhere = done.there + 1, done.elsewhere + 1
                    continue
                target.parent.mkdir(exist_ok=True)
                is_new, taken[target] = _place(source, target, how, taken[target])
            except OSError as error:
                other = "; --sort-with symlink leads to other disks" if error.errno == errno.EXDEV else ""
                done.errors.append(f"{key}: {error.strerror or error}{other}")
            else:
                done.new += is_new
                done.there += not is_new
    return done


def check_sorting(results: str | os.PathLike[str], folder: str | os.PathLike[str], how: str) -> Path:
    """Return the folder to sort into; for the errors see `sort_into`."""
    if how not in WAYS:
        raise ValueError(f"how: expected one of {', '.join(WAYS)}, got {how!r}")
    if is_address(folder) or is_address(str(results)):
        raise ValueError(f"sort_into: expected folders of this machine, got {results} and {folder}")
    root = Path(os.path.abspath(folder))
    check_pictures(root, "sort_into")
    if Output(results).holds(str(root / "x")):
        raise ValueError(f"sort_into: {root} lies in the results, which are to hold parts alone")
    return root


def labelled_pictures(output: Output) -> Iterator[tuple[str, LabelledPicture | None]]:
    """Give key and picture of every row with a label, in order; None of one that is no file of its own."""
    files = {in_utf8(file.path): file.path for file in read_listing(output) if is_image(file.path)}
    for table in output.tables(["key", "class_index", "score", "accepted"]):
        for key, *rest in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if rest[0] is not None:
                path = files.get(key)
                is_local = path is not None and not is_address(path)
                yield key, LabelledPicture(str(path), *rest) if is_local else None


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Return a name for the folder of every class; no two are the same, in whatever case they are written."""
    names: list[str] = []
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # by stem the last one that is taken: thousands of classes may have one name
    for each in class_names:
        allowed = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', "_", each)
        stem = allowed.encode()[:_LONGEST].decode(errors="ignore").strip(" .") or "class"
        name, number = stem, numbers.get(stem, 1)
        while name.casefold() in taken:
            name, number = f"{stem}-{number + 1}", number + 1
        names.append(name)
        taken.add(name.casefold())
        numbers[stem] = number
    return names


def _place(source: Path, target: Path, how: How, taken: int) -> tuple[bool, int]:
    """Link or copy a file, unless it is there; the name is not one of the first `taken` of its kind.

    Returns:
        Whether it is new, and how many names of this kind are taken then.
    """
    while True:
        name = target if taken == 0 else target.with_name(f"{target.stem}-{taken + 1}{target.suffix}")
        taken += 1
        if os.path.lexists(name):
            if _is_there(source, name, how):
                return False, taken
            continue
        try:
            _make(source, name, how)
        except FileExistsError:
            continue
        return True, taken


def _mark(status: os.stat_result, how: How) -> object:
    """Return what a picture and its hard link or copy have in common."""
    return status.st_size if how == "copy" else (status.st_dev, status.st_ino)


def _lies_elsewhere(source: Path, target: Path, how: How, placed: Mapping[object, Sequence[Path]]) -> bool:
    """Whether a picture lies in another folder than that of the target, and not in that one."""
    same = placed.get(str(source) if how == "symlink" else _mark(source.stat(), how), ())
    if how == "copy":
        same = [
            path
            for path in same
            if path.name.startswith(source.stem) and filecmp.cmp(source, path, shallow=False)
        ]
    return bool(same) and all(path.parent != target.parent for path in same)


def _is_there(source: Path, target: Path, how: How) -> bool:
    if how == "symlink":
        return target.is_symlink() and os.readlink(target) == str(source)
    if target.is_symlink() or not target.is_file():
        return False
    return target.samefile(source) if how == "hardlink" else filecmp.cmp(source, target, shallow=False)


def _make(source: Path, target: Path, how: How) -> None:
    if how == "symlink":
        os.stat(source)  # a link to nothing helps nobody
        target.symlink_to(source)
    elif how == "hardlink":
        target.hardlink_to(source.resolve())
    else:
        with source.open("rb") as content, target.open("xb") as file:
            try:
                shutil.copyfileobj(content, file)
            except BaseException:
                target.unlink()
                raise
        shutil.copystat(source, target)
