"""The ways in which data sets lie on disk or on the Hub, each read into shards and class names."""

import csv
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import RootModel, StrictInt

from s3clip.evaluation.benchmarks.masks import masked_images
from s3clip.evaluation.benchmarks.table import (
    AircraftLists,
    Convention,
    CoopSplit,
    Csv,
    FlatImageNet,
    Folders,
    Layout,
    Masks,
    Parquet,
    WebDataset,
)
from s3clip.evaluation.inputs import folder_label, rows_of_labels
from s3clip.files.addresses import is_address, open_binary
from s3clip.files.hub import hub_connection
from s3clip.files.json import checked, parse_json
from s3clip.files.reach import Reach, below
from s3clip.images.sources import BrokenShardError, Listed, Shard, file_shards, natural
from s3clip.images.table_shards import TableShard
from s3clip.images.tables import require_pyarrow
from s3clip.images.tars import TarShard
from s3clip.images.walking import images_below
from s3clip.printing import counted

IsClass = Callable[[str], bool]
IMAGENET_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


@dataclass(frozen=True)
class Found:
    """A data set that is there.

    Attributes:
        layout: in which it lies.
        shards: its pictures.
        class_names: one for each number that labels them; None where they are labelled otherwise.
        problems: what is wrong with it, in sentences for people.
    """

    layout: Layout
    shards: tuple[Shard, ...]
    class_names: list[str] | None = None
    problems: tuple[str, ...] = ()


_Opener = Callable[[Any, str, Any, tuple[str, ...]], Found]


class _NotThere(FileNotFoundError):
    """A layout that a data set does not have; says what was looked for."""


def open_layout(
    name: str,
    convention: Convention,
    root: Path | str,
    allowed: tuple[str, ...] = (),
    is_class: IsClass = lambda name: False,
) -> Found:
    """Open the first layout of a convention that is there.

    Args:
        name: of the benchmark, for messages.
        convention: of the benchmark.
        root: the folder that the paths of its layouts begin at, or "hf://datasets".
        allowed: where the paths in its lists and tables may lead beside their folders; see
            `s3clip.files.reach`.
        is_class: whether a folder is called as a class, to tell its folder from those above it.

    Raises:
        FileNotFoundError: none is; says what was looked for.
        ValueError: one is, but contradicts itself.
    """
    on_hub = isinstance(root, str)
    openers: dict[str, _Opener] = {**_OPENERS, "folders": partial(_folders, is_class=is_class)}
    looked_for = []
    for layout in convention.layouts:
        if on_hub and getattr(layout, "hub", None) is None:
            continue
        try:
            found = openers[layout.kind](layout, convention.split, root, allowed)
        except _NotThere as error:
            looked_for.append(str(error))
            continue
        if not found.shards:
            raise FileNotFoundError(f"{name}: there are no pictures in {layout}")
        return found
    if not looked_for:
        raise ValueError(f"{name}: these pictures are not on the Hub; give the folder that they are in")
    raise FileNotFoundError(
        f"{name}: not found; looked for {'; '.join(dict.fromkeys(looked_for))}; see docs/benchmarks.md for "
        f"where it has to be"
    )


class _CoopParts(RootModel[dict[str, list[tuple[str, StrictInt, str]]]]):
    """The pictures of each split: file, label, name of the class."""


def _coop_split(layout: CoopSplit, split: str, root: Path, allowed: tuple[str, ...]) -> Found:
    folder = root / layout.folder
    file = folder / layout.file
    content = _read_text(file)
    try:
        parts = checked(parse_json(content, str(file)), _CoopParts, str(file)).root
        reach = Reach(str(folder / layout.images), allowed)
        files = [Listed(path, label, reach) for path, label, _ in parts[split]]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{file}: expected {{split: [[file, label, class name], ...]}} with {split!r} ({error})"
        ) from error
    names: dict[int, str] = {}
    for path, label, name in (row for part in parts.values() for row in part):
        if names.setdefault(label, name) != name:
            raise ValueError(f"{file}: label {label} is {names[label]!r}, and {name!r} at {path}")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{file}: expected labels 0 to {len(names) - 1} without a gap, got {sorted(names)}")
    shards = file_shards(folder / layout.images, files)
    return Found(layout, tuple(shards), [names[label].replace("_", " ") for label in range(len(names))])


def _aircraft_lists(layout: AircraftLists, split: str, root: Path, allowed: tuple[str, ...]) -> Found:
    folder = root / layout.folder
    names = _read_text(folder / "variants.txt").splitlines()
    positions = {name.strip(): position for position, name in enumerate(names)}
    file = folder / f"images_variant_{split}.txt"
    reach = Reach(str(folder / "images"), allowed)
    files = []
    for number, line in enumerate(_read_text(file).splitlines(), 1):
        image, _, name = line.strip().partition(" ")
        if name not in positions:
            raise ValueError(f"{file}: line {number}: {name!r} is not in variants.txt")
        files.append(Listed(f"{image}.jpg", positions[name], reach))
    return Found(layout, tuple(file_shards(folder / "images", files)), list(positions))


def _folders(
    layout: Folders, split: str, root: Path, allowed: tuple[str, ...], *, is_class: IsClass
) -> Found:
    folder = root / layout.folder
    inside, outside = _pictures(folder)
    if not inside:
        raise _NotThere(f"sub-folders with pictures in {folder}")
    own = str.isdecimal if layout.labels == "positions" else is_class
    files = [Listed(path, folder_label(path.split("/")[:-1], own)) for path in inside]
    if layout.labels == "positions":
        if wrong := next((file for file in files if not str(file.label).isdecimal()), None):
            raise ValueError(f"{folder}: expected folders with numbers for names, got {wrong.label!r}")
        files = [Listed(file.path, int(str(file.label))) for file in files]
    problems = (f"left out: {counted(len(outside), 'picture')} outside of class folders",) if outside else ()
    return Found(layout, tuple(file_shards(folder, files)), problems=problems)


def _pictures(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths of pictures in sub-folders, and of those beside them, sorted."""
    below = images_below(folder) if folder.is_dir() else []
    found = [path.relative_to(folder).as_posix() for path in below]
    return [path for path in found if "/" in path], [path for path in found if "/" not in path]


def _flat_imagenet(layout: FlatImageNet, split: str, root: Path, allowed: tuple[str, ...]) -> Found:
    folder = root / layout.folder
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    numbered = {name: int(match[1]) for name in names if (match := IMAGENET_VAL.fullmatch(name))}
    if not numbered:
        raise _NotThere(f"ILSVRC2012_val_*.JPEG in {folder}")
    labels = _imagenet_truth(root / layout.truth)
    if outside := [name for name, number in numbered.items() if number not in labels]:
        raise ValueError(f"{root / layout.truth}: no label for {outside[0]}")
    # Those that have a label and are not there are listed too, and are found to be missing when opened.
    files = [Listed(f"ILSVRC2012_val_{number:08d}.JPEG", labels[number]) for number in sorted(labels)]
    return Found(layout, tuple(file_shards(folder, files)))


def _imagenet_truth(file: Path) -> dict[int, str]:
    """Return the WordNet id of each validation picture, by its number.

    Three files have them: Kaggle's `LOC_val_solution.csv`, a list of WordNet ids, and the development kit's
    list of numbers. The numbers are the kit's own, in an order that is not that of the WordNet ids: its
    `meta.mat`, beside the list, says which is which.
    """
    lines = _read_text(file).splitlines()
    if lines and lines[0].startswith("ImageId"):
        rows = csv.DictReader(lines)
        try:
            return {int(row["ImageId"].rsplit("_", 1)[1]): row["PredictionString"].split()[0] for row in rows}
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{file}: line {rows.line_num}: expected ILSVRC2012_val_00000001,n01440764 1 2 ({error!r})"
            ) from error
    values = [line.strip() for line in lines if line.strip()]
    if not values:
        raise ValueError(f"{file}: expected a label a line, got an empty file")
    if all(value.isdecimal() for value in values):
        ids = _devkit_ids(file.parent / "meta.mat")
        if unknown := set(map(int, values)) - ids.keys():
            raise ValueError(f"{file}: {min(unknown)} is no number of a class in meta.mat")
        values = [ids[int(value)] for value in values]
    return dict(enumerate(values, 1))


def _devkit_ids(file: Path) -> dict[int, str]:
    from scipy.io import loadmat  # scikit-learn brings it

    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: not found; the development kit's numbers mean nothing without the table in it"
        )
    try:
        synsets = loadmat(file, squeeze_me=True)["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not int(row["num_children"])
        }
    except Exception as error:  # scipy's reader lets many kinds through
        raise ValueError(f"{file}: not the table of the development kit ({error!r})") from error


def _csv(layout: Csv, split: str, root: Path, allowed: tuple[str, ...]) -> Found:
    file, folder = root / layout.file, root / layout.folder
    if not file.is_file():
        raise _NotThere(str(file))
    reach = Reach(str(folder), (*allowed, below(file.parent)))
    files = []
    for name, label in rows_of_labels(file, layout.file_column, layout.label_column):
        if not is_address(name):  # the same path in other words is the same key
            path = folder / name
            name = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        files.append(Listed(name, label, reach))
    return Found(layout, tuple(file_shards(folder, files)))


def _masks(layout: Masks, split: str, root: Path, allowed: tuple[str, ...]) -> Found:
    try:
        return Found(layout, tuple(masked_images(layout, root / layout.folder, allowed)))
    except FileNotFoundError as error:
        raise _NotThere(str(error)) from error


def _webdataset(layout: WebDataset, split: str, root: Path | str, allowed: tuple[str, ...]) -> Found:
    folder = _place(layout, root)
    count = _text_or_none(_join(folder, split, "nshards.txt"))
    if count is not None:
        if not count.strip().isdecimal():
            raise ValueError(f"{folder}: nshards.txt: expected a number, got {count.strip()!r}")
        names = [f"{split}/{number}.tar" for number in range(int(count))]
    else:
        names = _list(folder, f"{split}/*.tar")
    if not names:
        raise _NotThere(f"{_join(folder, split)}/*.tar")
    shards = tuple(TarShard(name, _join(folder, name)) for name in names)
    listed = _text_or_none(_join(folder, "classnames.txt"))
    if listed is None:
        return Found(
            layout, shards, problems=("there is no classnames.txt: the order of classes was not checked",)
        )
    return Found(layout, shards, [line.strip() for line in listed.splitlines() if line.strip()])


def _parquet(layout: Parquet, split: str, root: Path | str, allowed: tuple[str, ...]) -> Found:
    folder = _place(layout, root)
    patterns = (f"{split}-*.parquet", f"data/{split}-*.parquet", f"{split}.parquet", f"{split}/*.parquet")
    names = next((names for pattern in patterns if (names := _list(folder, pattern))), [])
    if not names:
        raise _NotThere(f"{' or '.join(patterns)} in {folder}")
    require_pyarrow()
    columns = (layout.image_column, layout.label_column)
    shards = tuple(TableShard(name, _join(folder, name), *columns, allowed=allowed) for name in names)
    class_names = None
    for shard in shards:  # the first that can be read
        try:
            class_names = shard.class_names()
        except BrokenShardError:
            continue
        break
    return Found(layout, shards, class_names)


def _place(layout: WebDataset | Parquet, root: Path | str) -> Path | str:
    """Return the folder of a data set, on the Hub at its commit of now: all of it is to be of one."""
    if isinstance(root, Path) and layout.folder is not None:
        return root / layout.folder
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        with hub_connection():
            commit = HfApi().dataset_info(str(layout.hub)).sha
    except RepositoryNotFoundError as error:
        raise _NotThere(f"the data set {layout.hub} on the Hub") from error
    return f"hf://datasets/{layout.hub}@{commit}"


def _join(folder: Path | str, *parts: str) -> Any:
    return folder.joinpath(*parts) if isinstance(folder, Path) else "/".join((folder, *parts))


def _list(folder: Path | str, pattern: str) -> list[str]:
    """Return the files that match, by their paths below the folder, 2 before 10."""
    if isinstance(folder, Path):
        found = [path.relative_to(folder).as_posix() for path in folder.glob(pattern)]
    else:
        from huggingface_hub import HfFileSystem

        # The file system writes the revision its own way: the pattern says how much of the end to take.
        depth = pattern.count("/") + 1
        with hub_connection():
            found = [
                "/".join(str(path).split("/")[-depth:]) for path in HfFileSystem().glob(f"{folder}/{pattern}")
            ]
    return sorted(found, key=natural)


def _text_or_none(path: Path | str) -> str | None:
    try:
        with open_binary(path) as file:
            return file.read().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text file in UTF-8 ({error})") from error


def _read_text(path: Path) -> str:
    text = _text_or_none(path)
    if text is None:
        raise _NotThere(str(path))
    return text


_OPENERS: dict[str, _Opener] = {
    "coop_split": _coop_split,
    "aircraft_lists": _aircraft_lists,
    "flat_imagenet": _flat_imagenet,
    "csv": _csv,
    "masks": _masks,
    "webdataset": _webdataset,
    "parquet": _parquet,
}
"""What opens a layout, by its kind; folders, which are told apart by the classes, `open_layout` adds."""
