"""Append-only logs that a kill at any moment leaves whole: lines of JSON, each with the bytes that it is of.

A log is two files. `NAME.bin` holds bytes. `NAME.jsonl` holds a line of JSON for each entry, which says how
many of these bytes are its own, and the CRC-32 of them and of the line. The bytes are written before it. An
entry whose line is cut off, or that does not have that sum, is not there, and neither is what follows. So the
most that a kill costs is what was not written yet.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from s3clip.files.json import parse_json
from s3clip.files.writing import lock

_END = re.compile(rb',"bytes":(\d{1,19}),"crc32":(\d{1,10})\}\n')


class Entry(NamedTuple):
    """A whole entry of a log.

    Attributes:
        content: of its line.
        data: the file that its bytes are in.
        start: where they begin.
        size: how many they are.
    """

    content: dict[str, Any]
    data: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Return its bytes."""
        with self.data.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


class Store:
    """The logs in a folder. Each has one writer at a time; all are read as one.

    Args:
        folder: where they are; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[int, int]] = {}

    def new_entries(self) -> Iterator[Entry]:
        """Give what is whole and was not given before, log by log, in the order of writing."""
        for lines in sorted(self.folder.glob("*.jsonl")):
            for entry, ends in _whole(lines, *self._read.get(lines, (0, 0))):
                self._read[lines] = ends
                yield entry

    @contextmanager
    def writer(self, name: str) -> Iterator["Writer"]:
        """Cut off what a kill left of an entry in a log, and append to it.

        Raises:
            ValueError: another process is writing it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.jsonl"
        with path.with_suffix(".bin").open("ab") as data, path.open("ab") as lines:
            if not lock(lines):
                raise ValueError(
                    f"{path}: another process is writing what it makes of these images; wait for it, or give "
                    f"another --cache"
                )
            # The lines first: a kill between the two leaves bytes without a line, which count for nothing.
            ends = (0, 0)
            for _, ends in _whole(path, *ends):  # noqa: B020, B007
                pass
            os.truncate(lines.fileno(), ends[0])
            os.truncate(data.fileno(), ends[1])
            yield Writer(data, lines)


class Writer:
    """Appends entries to a log; made by `Store.writer`."""

    def __init__(self, data: BinaryIO, lines: BinaryIO) -> None:
        self._data, self._lines = data, lines

    def append(self, content: dict[str, Any], data: bytes = b"") -> None:
        """Write an entry: what its line says, which is not empty, and its bytes."""
        line = json.dumps(content, separators=(",", ":"))[:-1].encode() + b',"bytes":%d' % len(data)
        self._data.write(data)
        self._data.flush()
        self._lines.write(line + b',"crc32":%d}\n' % zlib.crc32(line, zlib.crc32(data)))
        self._lines.flush()


def _whole(path: Path, end: int, data_end: int) -> Iterator[tuple[Entry, tuple[int, int]]]:
    """Give the entries of a log from these places in its two files on, and where each ends in both."""
    data = path.with_suffix(".bin")
    if not data.exists():
        return
    with path.open("rb") as lines, data.open("rb") as file:
        lines.seek(end)
        file.seek(data_end)
        for line in lines:
            if (marks := _END.search(line)) is None or marks.end() != len(line):
                return
            size, checksum = int(marks[1]), int(marks[2])
            if (
                size > os.fstat(file.fileno()).st_size - data_end
            ):  # a damaged number would be memory asked for
                return
            found = file.read(size)
            without = line[: line.rindex(b',"crc32"')]
            if zlib.crc32(without, zlib.crc32(found)) != checksum:
                return
            entry = Entry(parse_json(line, str(path)), data, data_end, size)
            end, data_end = end + len(line), data_end + size
            yield entry, (end, data_end)
