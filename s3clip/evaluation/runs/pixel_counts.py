"""The pixels of pictures, counted by what they are and what methods took them for, on disk.

A folder has a file for each process that wrote there, which is only appended to: one line of JSON for each
picture, with the part of every method's confusion matrix that is not 0. A line that is cut off by a kill
is not there, and neither is what follows it, so that the most that a kill costs is the picture at hand.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from s3clip.evaluation.benchmarks.masks import MaskedImage
from s3clip.files.writing import lock


@dataclass(frozen=True)
class CountedPicture:
    """What became of the pixels of a picture.

    Attributes:
        key: of the picture.
        sizes: of its two files, in bytes.
        opened_at: when they were, in seconds since 1970.
        cells: by method, (cells, 2) int32: the position of a cell in the confusion matrix, row by row, and
            its count, where that is not 0.
    """

    key: str
    sizes: tuple[int, int]
    opened_at: float
    cells: Mapping[str, Tensor]

    def is_of(self, pair: MaskedImage) -> bool:
        """Say whether the files have the sizes that they had, and were not written since.

        Machines that have copies of their own agree on that, too.
        """
        try:
            changed_at = max(path.stat().st_mtime for path in (pair.image, pair.mask))
            return self.sizes == file_sizes(pair) and changed_at <= self.opened_at
        except OSError:
            return False


class PixelCounts:
    """The counts of a set, by one model with one choice of settings.

    Args:
        folder: where they are; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> dict[str, CountedPicture]:
        """Return what is there and whole, by key; of a picture that was counted again, the newest."""
        found: dict[str, CountedPicture] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for picture in _whole(path)[0]:
                before = found.get(picture.key)
                if before is None or before.opened_at <= picture.opened_at:
                    found[picture.key] = picture
        return found

    @contextmanager
    def writer(self, process: int) -> Iterator["CountsWriter"]:
        """Cut off what a kill left of a line in the file of a process, and append to it.

        Raises:
            ValueError: another process is writing it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{process}.jsonl"
        with path.open("ab") as file:
            if not lock(file):
                raise ValueError(
                    f"{path}: another process is writing these counts; wait for it, or give another --cache"
                )
            os.truncate(file.fileno(), _whole(path)[1])
            yield CountsWriter(file)


class CountsWriter:
    """Appends pictures to a file; made by `PixelCounts.writer`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, picture: CountedPicture) -> None:
        """Write a picture."""
        cells = {name: own.flatten().tolist() for name, own in picture.cells.items()}
        line = {"key": picture.key, "sizes": picture.sizes, "opened_at": picture.opened_at, "cells": cells}
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()


def file_sizes(pair: MaskedImage) -> tuple[int, int]:
    """Return the sizes of a picture and of its mask, in bytes.

    Raises:
        OSError: one of them is not there.
    """
    return pair.image.stat().st_size, pair.mask.stat().st_size


def _whole(path: Path) -> tuple[list[CountedPicture], int]:
    """Return the pictures of a file whose lines are whole, and where the last of them ends, in bytes."""
    found, end = [], 0
    with path.open("rb") as file:
        for line in file:
            try:
                content = json.loads(line) if line.endswith(b"\n") else {}
                picture = CountedPicture(
                    content["key"],
                    tuple(content["sizes"]),
                    content["opened_at"],
                    {
                        name: torch.tensor(own, dtype=torch.int32).reshape(-1, 2)
                        for name, own in content["cells"].items()
                    },
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            end += len(line)
            found.append(picture)
    return found, end
