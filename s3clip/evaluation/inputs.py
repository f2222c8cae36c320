"""Labelled images and embeddings, from the files that people have them in."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from s3clip.files.text import read_text
from s3clip.images.walking import find_images


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
    folder: Path | None, labels: Path | None, file_column: str = "file", label_column: str = "label"
) -> tuple[list[Path], list[str]]:
    """Return which image files there are, and what each shows.

    Args:
        folder: where the files of a CSV lie (beside it if None); without a CSV, the name of each of its
            sub-folders is the label of the images in it.
        labels: a CSV with a header.
        file_column: its column of files, relative to the folder or absolute.
        label_column: its column of labels.

    Raises:
        ValueError: neither is given, or a column is missing.
        FileNotFoundError: a file, or images in the folder, that are not there.
    """
    if labels is None:
        if folder is None:
            raise ValueError("expected --images, --labels or --embeddings, to have something to score")
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; without --labels it has a sub-folder a class")
        inside = [file for file in find_images([folder]) if file.parent != folder]
        if not inside:
            raise FileNotFoundError(
                f"{folder}: no sub-folder with images; give --labels, or one for each class"
            )
        return inside, [file.relative_to(folder).parts[0] for file in inside]
    rows = _rows_of_labels(labels, file_column, label_column)
    root = labels.parent if folder is None else folder
    return [root / file for file, _ in rows], [label for _, label in rows]


def _rows_of_labels(path: Path, *wanted: str) -> list[list[str]]:
    """Return the cells of the wanted columns of a CSV with a header."""
    header, *rows = list(csv.reader(io.StringIO(read_text(path), newline=""))) or [[]]
    for column in wanted:
        if column not in header:
            raise ValueError(f"{path}: no column {column!r}; it has: {', '.join(header)}")
    found = []
    for record, row in enumerate(filter(None, rows), 1):
        if len(row) > len(header):
            advice = 'a label with a comma stands in double quotes: "great white shark, shark"'
            raise ValueError(
                f"{path}: record {record}: {len(row)} cells, but {len(header)} columns, in {row}; {advice}"
            )
        cells = [dict(zip(header, row, strict=False)).get(column, "") for column in wanted]
        if not all(cells):
            raise ValueError(f"{path}: record {record}: expected a file and a label, got {cells}")
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
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, NpzFile) else {}
    except (ValueError, BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz ({error})") from error
    wanted = ["image_embeds", "labels"]
    with_texts = bool({"text_embeds", "owners", "class_names", "logit_scale"} & arrays.keys())
    wanted += ["text_embeds", "owners", "class_names", "logit_scale"] if with_texts else []
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(f"{path}: no array {missing[0]!r}; it has: {', '.join(arrays) or 'none'}")
    if arrays["image_embeds"].ndim not in (2, 3):
        shape = arrays["image_embeds"].shape
        raise ValueError(
            f"{path}: image_embeds: expected shape (images, dim) or (images, views, dim), got {shape}"
        )
    images = torch.from_numpy(arrays["image_embeds"])
    labels = arrays["labels"].tolist()
    if not with_texts:
        return Embedded(images, labels, None, [], 0.0)
    owners, names = arrays["owners"], [str(name) for name in arrays["class_names"]]
    texts = torch.from_numpy(arrays["text_embeds"])
    counts = np.bincount(owners, minlength=len(names))
    if (
        len(owners) != len(texts)
        or len(counts) != len(names)
        or (np.diff(owners) < 0).any()
        or not counts.all()
    ):
        raise ValueError(
            f"{path}: owners: expected the class of each of {len(texts)} texts, ascending from 0 to "
            f"{len(names) - 1} without a gap"
        )
    return Embedded(images, labels, list(texts.split(counts.tolist())), names, float(arrays["logit_scale"]))
