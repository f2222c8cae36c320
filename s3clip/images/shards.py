"""Shards that hold many pictures in a file: tars of web datasets and tables, wherever they lie.

A path is one of this machine or an address that fsspec reads: "hf://datasets/user/name@revision/test/0.tar".
"""

import gzip
import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from s3clip.files.addresses import is_address, open_binary
from s3clip.images.sources import BrokenShardError, Sample, Span
from s3clip.images.tables import missing_column, open_table
from s3clip.images.walking import SUFFIXES

_ROWS = 64  # of a table at a time


@dataclass
class Reading:
    """How many samples of a shard have been given."""

    position: int


@contextmanager
def breaking_off(name: str, what: str, start: int = 0) -> Iterator[Reading]:
    """Say of a shard that it breaks off, whatever the errors are that its reader raises.

    Args:
        name: of the shard.
        what: it should be.
        start: the number of its first sample to be given; whoever reads counts on from there.

    Raises:
        BrokenShardError: for any error of a file but these two.
        ConnectionError: the store cannot be reached.
    """
    reading = Reading(start)
    try:
        yield reading
    except (ConnectionError, BrokenShardError):
        raise
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            said = "no such file"
        elif isinstance(error, PermissionError):
            said = "it may not be read"
        else:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            said = f"not a readable {what}: {reason} after {reading.position:,} samples"
        raise BrokenShardError(f"{name}: {said}", reading.position) from error


@dataclass(frozen=True)
class TarShard:
    """A tar, plain or in gzip: for each sample a picture, and its label in a `.cls`, named alike to the dot.

    What has neither is passed over; a label without a picture is a sample that fails to open.

    Attributes:
        name: of the shard; a key is the name and the path in the tar.
        path: where it is.
        grouped: False: each picture is a sample of its own, without a label; its key has the ending too.
    """

    name: str
    path: Path | str
    grouped: bool = True

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the samples in the order of the tar."""
        with breaking_off(self.name, "tar") as reading, open_binary(self.path) as file:
            members = _members(file, self.path)
            for row in _groups(members, start) if self.grouped else _pictures(members, start):
                if reading.position >= start:
                    yield Sample(f"{self.name}/{row.key}", row.label, row.picture or b"")
                reading.position += 1


@dataclass
class _Row:
    """What is to be a sample. The picture is None where there is none."""

    key: str
    label: int | str | None = None
    has_label: bool = False
    picture: Span | bytes | None = None

    @property
    def is_sample(self) -> bool:
        return self.has_label or self.picture is not None


@dataclass(frozen=True)
class _Member:
    """A file in a tar. Its content is to be had until the next one is asked for.

    Attributes:
        info: its header.
        file: the tar, decompressed.
        path: of the tar, if its content can be read there at any time.
    """

    info: tarfile.TarInfo
    file: BinaryIO
    path: Path | None

    def read(self) -> bytes:
        self.file.seek(self.info.offset_data)
        content = self.file.read(self.info.size)
        if len(content) < self.info.size:
            raise tarfile.ReadError(f"{self.info.name} is cut off")
        return content

    def data(self) -> Span | bytes:
        if self.path is None:
            return self.read()
        return Span(self.path, self.info.offset_data, self.info.size)


def _groups(members: Iterator[_Member], start: int) -> Iterator[_Row]:
    """Give the samples of a tar, with their pictures from number `start` on.

    Where it is cut off, nothing is given of the sample that was cut.
    """
    row, position = _Row(""), 0
    try:
        for member in members:
            path = PurePosixPath(member.info.name)
            stem, _, extension = path.name.partition(".")
            key = str(path.parent / stem)
            if key != row.key:
                if row.is_sample:
                    yield row
                    position += 1
                row = _Row(key)
            if extension.lower() == "cls":
                row.label, row.has_label = _label(member.read()), True
            elif path.suffix.lower() in SUFFIXES:
                row.picture = member.data() if position >= start else b""
    except (tarfile.TarError, EOFError):
        if row.has_label and row.picture is not None:  # it had been read whole
            yield row
        raise
    if row.is_sample:
        yield row


def _pictures(members: Iterator[_Member], start: int) -> Iterator[_Row]:
    """Give every picture of a tar, with its content from number `start` on."""
    position = 0
    for member in members:
        if PurePosixPath(member.info.name).suffix.lower() in SUFFIXES:
            yield _Row(member.info.name, picture=member.data() if position >= start else b"")
            position += 1


def _members(file: BinaryIO, path: Path | str) -> Iterator[_Member]:
    """Give the files of a tar but for hidden ones.

    `TarFile.next` takes any block that is no header, and the end of the file, for the end of the tar: what
    had been cut off would be missing silently. The reader below tells those from the mark that ends a tar.
    """
    size: int | None = file.seek(0, 2)
    if not size:
        raise tarfile.ReadError("an empty file")
    file.seek(0)
    is_compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if is_compressed:  # nobody knows its length before its end, and going back means to begin again
        file, size = cast(BinaryIO, gzip.GzipFile(fileobj=file)), None
    with tarfile.TarFile(fileobj=file) as tar:
        tar.offset = 0  # the constructor has read the first member
        while True:
            start = tar.offset
            file.seek(start)
            try:
                info = tarfile.TarInfo.fromtarfile(tar)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark, a block of zeros
                return
            except tarfile.HeaderError as error:
                of = "" if size is None else f" of {size:,}"
                raise tarfile.ReadError(f"{error} at byte {start:,}{of}") from error
            if size is not None and info.offset_data + info.size > size:
                raise tarfile.ReadError(f"{info.name} is cut off")
            if info.isfile() and not PurePosixPath(info.name).name.startswith("."):
                yield _Member(info, file, None if is_compressed or is_address(path) else Path(path))


def _label(content: bytes) -> int | str:
    text = content.decode("utf-8", "replace").strip()
    return int(text) if text.isdecimal() else text


@dataclass(frozen=True)
class TableShard:
    """A parquet or Arrow file, as Hugging Face `datasets` writes it: `pip install 's3clip[parquet]'`.

    Attributes:
        name: of the shard.
        path: where it is.
        image_column: of the encoded pictures: bytes, paths from the folder of the table, or records of
            `bytes` and `path`.
        label_column: of numbers or strings.
        key_column: of keys; None: a key is the name of the shard, `mark` and the number of the row.
        mark: see there.
    """

    name: str
    path: Path | str
    image_column: str = "image"
    label_column: str | None = "label"
    key_column: str | None = None
    mark: str = "#"

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the rows in order."""
        with breaking_off(self.name, "table", start) as reading, open_table(self.path) as table:
            if (problem := self._problem(table.schema)) is not None:
                raise BrokenShardError(f"{self.name}: {problem}", start)
            for batch in table.batches(self._columns, _ROWS, start):
                for row in batch.to_pylist():
                    yield self._sample(row, reading.position)
                    reading.position += 1

    def class_names(self) -> list[str] | None:
        """Return the names of the labels where the file has them, as `datasets` writes them.

        Raises:
            BrokenShardError: it is not there, or no table.
            ValueError: it is one without the columns.
        """
        with breaking_off(self.name, "table"), open_table(self.path) as table:
            schema = table.schema
        if (problem := self._problem(schema)) is not None:
            raise ValueError(f"{self.name}: {problem}")
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features", {})
        names: list[str] | None = features.get(self.label_column, {}).get("names")
        return names

    @property
    def _columns(self) -> list[str]:
        columns = (self.image_column, self.label_column, self.key_column)
        return [column for column in columns if column is not None]

    def _problem(self, schema: Any) -> str | None:
        """Why its pictures cannot be read."""
        import pyarrow as pa

        if (missing := missing_column(schema, self._columns)) is not None:
            return missing
        kind = schema.field(self.image_column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        parts = {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
        if str(kind) in _ENCODED or {"bytes", "path"} & parts:
            return None
        return f"column {self.image_column!r}: expected bytes, paths, or records of the two, got {kind}"

    def _sample(self, row: dict[str, Any], position: int) -> Sample:
        label = None if self.label_column is None else row[self.label_column]
        key = f"{self.name}{self.mark}{position}" if self.key_column is None else str(row[self.key_column])
        image = row[self.image_column]
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        return Sample(key, label, _beside(self.path, image) if isinstance(image, str) else image or b"")


_ENCODED = {
    f"{size}{kind}{view}"
    for kind in ("binary", "string")
    for size, view in (("", ""), ("large_", ""), ("", "_view"))
} | {"null"}
"""Types of columns that hold encoded pictures, or their paths."""


def _beside(table: Path | str, name: str) -> Path | str:
    """Return a file that is named in a table, by an address or by the path from its folder."""
    if is_address(name):
        return name
    return f"{str(table).rpartition('/')[0]}/{name}" if is_address(table) else Path(table).parent / name
