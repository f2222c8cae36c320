"""Labelled images and embeddings, from the files that people have them in."""

import csv
import io
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from s3clip.files.folders import beside
from s3clip.files.reach import Reach, allowed_places, below
from s3clip.files.text import read_text
from s3clip.images.walking import find_images
from s3clip.printing import from_spreadsheet
from s3clip.texts.labels import composed


@dataclass(frozen=True)
class Embedded:
    """Image embeddings, their labels, and, where the file has them, those of the texts.

    Attributes:
        images: (images, dim), or (images, views, dim), view 0 the plain image.
        labels: positions, or ids or names, of classes.
        texts: one (n_c, dim) tensor per class, or None.
        class_names: one per class where there are texts.
        logit_scale: the multiplier of the cosines where there are texts.
    """

    images: Tensor
    labels: list[int] | list[str]
    texts: list[Tensor] | None
    class_names: list[str]
    logit_scale: float


def labelled_images(
    folder: Path | None,
    labels: Path | None,
    file_column: str = "file",
    label_column: str = "label",
    *,
    is_class: Callable[[str], bool] = lambda name: False,
    allow_addresses: str | Iterable[str] = (),
) -> tuple[list[Path], list[str]]:
    """Return which image files there are, and what each shows.

    Args:
        folder: where the files of a CSV lie (beside it if None); without a CSV, the folders in it are the
            labels of the images below them, in a tree the one nearest to the image that is a class.
        labels: a CSV with a header.
        file_column: its column of files: paths from the folder, below it or below that of the CSV.
        label_column: its column of labels.
        is_class: whether a name is that of a class, to find them among folders of folders; images below none
            of them have the label of the first folder.
        allow_addresses: where else they may lie: "file" for anywhere on this machine, or "file:///folder".

    Raises:
        ValueError: neither is given, a column is missing or there twice, an image has two labels, or a file
            lies where it is not to be opened.
        FileNotFoundError: a file, or images in the folder, that are not there.
    """
    if labels is None:
        if folder is None:
            raise ValueError("expected --images, --labels or --embeddings, to have something to score")
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; without --labels it has a sub-folder a class{beside(folder)}"
            )
        inside = [file for file in find_images([folder]) if file.parent != folder]
        if not inside:
            raise FileNotFoundError(
                f"{folder}: no sub-folder with images; give --labels, or one for each class"
            )
        found = [folder_label(file.relative_to(folder).parts[:-1], is_class) for file in inside]
        shows: dict[str, str] = {}  # by what links lead to
        for file, label in zip(inside, found, strict=True):
            if is_class(label) and (before := shows.setdefault(os.path.realpath(file), label)) != label:
                raise ValueError(
                    f"{file}: is in the folder of {label!r}, and by a link in that of {before!r}; give each "
                    f"image one"
                )
        return inside, found
    rows = rows_of_labels(labels, file_column, label_column)
    return _listed_images(labels, rows, labels.parent if folder is None else folder, allow_addresses)


def _listed_images(
    labels: Path, rows: Sequence[Sequence[str]], folder: Path, allow_addresses: str | Iterable[str]
) -> tuple[list[Path], list[str]]:
    """Return the files of a CSV, each once, and their labels; see `labelled_images`."""
    if not rows:
        raise ValueError(f"{labels}: no images, only a header")
    own = below(labels.parent)
    reach = Reach(str(folder), (*allowed_places(allow_addresses), own))
    found: dict[str, tuple[Path, str]] = {}  # by what a path and links lead to
    for file, label in rows:
        try:
            place = reach.find(file)
        except ValueError as error:
            raise ValueError(f"{labels}: {error}") from None
        if not isinstance(place, Path):
            raise ValueError(f"{labels}: {file!r}: expected files of this machine")
        if not os.path.lexists(place):
            raise FileNotFoundError(
                f"{labels}: {file!r} is not there; its files lie in {folder} unless --images says otherwise"
            )
        path, label = Path(os.path.normpath(place)), composed(label)
        if (before := found.setdefault(os.path.realpath(place), (path, label))[1]) != label:
            raise ValueError(
                f"{labels}: {file!r} is listed twice, as {before!r} and as {label!r}; give each image one"
            )
    if again := len(rows) - len(found):
        warnings.warn(f"{labels}: images listed again are used once: {again:,}", stacklevel=2)
    return [path for path, _ in found.values()], [label for _, label in found.values()]


def folder_label(folders: Sequence[str], is_class: Callable[[str], bool]) -> str:
    """Return the label of the images in a folder of folders: the nearest one that is called as a class.

    Args:
        folders: that an image lies in, each in the one before.
        is_class: whether a name is that of a class.

    Returns:
        The last of them that is, or the first where none is, composed.
    """
    names = [composed(each) for each in folders]
    return next((each for each in reversed(names) if is_class(each)), names[0])


IMAGE_ARRAYS = {
    "image_embeds": ((2, 3), "fiu", "(images, dim) or (images, views, dim), numbers"),
    "labels": ((1,), "iuU", "(images,), whole numbers or texts"),
}
TEXT_ARRAYS = {
    "text_embeds": ((2,), "fiu", "(texts, dim), numbers"),
    "owners": ((1,), "iu", "(texts,), whole numbers"),
    "class_names": ((1,), "U", "(classes,), texts"),
    "logit_scale": ((0,), "iuf", "(), a number"),
}
"""What the arrays of a file of embeddings are: their dimensions, kinds of dtype, and both in words."""


def rows_of_labels(path: Path, *wanted: str) -> list[list[str]]:
    """Return the cells of the wanted columns of a CSV with a header."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        (_, header), *rows = [(reader.line_num, row) for row in reader if row] or [(0, [])]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not CSV ({error})") from None
    for column in wanted:
        if (count := header.count(column)) != 1:
            has = "no column" if not count else f"{count} columns are called"
            raise ValueError(f"{path}: {has} {column!r}; it has: {', '.join(header)}")
    found = []
    for line, row in rows:
        if len(row) > len(header):
            advice = 'a label with a comma stands in double quotes: "great white shark, shark"'
            raise ValueError(
                f"{path}: line {line}: {len(row)} cells, but {len(header)} columns, in {row}; {advice}"
            )
        cells = [from_spreadsheet(dict(zip(header, row, strict=False)).get(column, "")) for column in wanted]
        if not all(cells):
            advice = "fill it in, or leave the line out"
            raise ValueError(f"{path}: line {line}: expected a file and a label, got {cells}; {advice}")
        found.append(cells)
    return found


def read_embeddings(path: Path) -> Embedded:
    """Read a NumPy .npz of embeddings.

    Its arrays: `image_embeds` (images, dim), or (images, views, dim) to adapt to; `labels` (images,),
    positions or strings; and, all or none of them, `text_embeds` (texts, dim), the first of each class its
    own name, `owners` (texts,), the position of each text's class, ascending, `class_names` (classes,),
    `logit_scale` ().

    Raises:
        ValueError: an array is missing or does not fit.
    """
    arrays = _read_npz(path)
    with_texts = any(name in arrays for name in TEXT_ARRAYS)
    for name, (dimensions, kinds, words) in {**IMAGE_ARRAYS, **(TEXT_ARRAYS if with_texts else {})}.items():
        if name not in arrays:
            raise ValueError(f"{path}: no array {name!r}; it has: {', '.join(arrays) or 'none'}")
        if arrays[name].ndim not in dimensions or arrays[name].dtype.kind not in kinds:
            found = f"{arrays[name].shape} of {arrays[name].dtype}"
            raise ValueError(f"{path}: {name}: expected shape {words}, got {found}")
    images = torch.from_numpy(arrays["image_embeds"])
    labels = arrays["labels"].tolist()
    if not with_texts:
        return Embedded(images, labels, None, [], 0.0)
    owners, names = arrays["owners"], [str(name) for name in arrays["class_names"]]
    texts = torch.from_numpy(arrays["text_embeds"])
    present, counts = np.unique(owners, return_counts=True)
    ascending = len(owners) == len(texts) and (owners[1:] >= owners[:-1]).all()
    if not ascending or not np.array_equal(present, np.arange(len(names))):
        raise ValueError(
            f"{path}: owners: expected the class of each of {len(texts)} texts, ascending from 0 to "
            f"{len(names) - 1} without a gap"
        )
    return Embedded(images, labels, list(texts.split(counts.tolist())), names, float(arrays["logit_scale"]))


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, NpzFile) else {}
    except OSError:
        raise
    except Exception as error:  # whatever zip, its compressions, and the headers of arrays have to say
        raise ValueError(f"{path}: not a readable .npz ({error})") from error
