"""Shards that hold many pictures in a file: tars of web datasets and parquet, on this machine or on the Hub.

On the Hub they are read through its file system a few MB at a time: nothing is stored, and what is skipped
is not fetched.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from s3clip.images import SUFFIXES
from s3clip.sources import BrokenShardError, Sample, Span
from s3clip.transport import hub_connection

_HUB_BLOCK = 16 * 2**20  # bytes that one request fetches
_ROWS = 64  # of a parquet file at a time


def open_binary(path: Path | str) -> BinaryIO:
    """Open a file, or "hf://datasets/user/name@revision/file", for reading anywhere in it.

    Raises:
        FileNotFoundError: there is none.
        ConnectionError: the Hub cannot be reached.
    """
    if isinstance(path, Path):
        return path.open("rb")
    from huggingface_hub import HfFileSystem

    # The next block is fetched while this one is read; some are kept, since a tar is read a header ahead of
    # its pictures.
    cache = {"cache_type": "background", "cache_options": {"maxblocks": 4}}
    with hub_connection():
        return cast(BinaryIO, HfFileSystem().open(path, "rb", block_size=_HUB_BLOCK, **cache))


@dataclass
class _Group:
    """Successive members of a tar whose names are alike up to the dot."""

    key: str
    label: int | str | None = None
    has_label: bool = False
    picture: tarfile.TarInfo | None = None

    @property
    def is_sample(self) -> bool:
        return self.has_label or self.picture is not None


@dataclass(frozen=True)
class TarShard:
    """An uncompressed tar: for each sample a picture, and its label in a `.cls`, with names alike to the dot.

    What has neither is passed over; a label without a picture is a sample that fails to open.

    Attributes:
        name: of the shard.
        path: a file, or "hf://datasets/user/name@revision/test/0.tar".
    """

    name: str
    path: Path | str

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the samples in the order of the tar."""
        position = 0
        try:
            with open_binary(self.path) as file, hub_connection():
                for group in _groups(file):
                    if position >= start:
                        yield self._sample(group, file)
                    position += 1
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BrokenShardError(f"{self.name}: no such file", position) from error
        except tarfile.TarError as error:
            raise BrokenShardError(
                f"{self.name}: not a whole tar: {error} after {position:,} samples", position
            ) from error

    def _sample(self, group: _Group, file: BinaryIO) -> Sample:
        key = f"{self.name}/{group.key}"
        if group.picture is None:
            return Sample(key, group.label, b"")
        offset, size = group.picture.offset_data, group.picture.size
        if isinstance(self.path, Path):
            return Sample(key, group.label, Span(self.path, offset, size))
        file.seek(offset)
        return Sample(key, group.label, file.read(size))


def _groups(file: BinaryIO) -> Iterator[_Group]:
    """Give the samples of a tar.

    Raises:
        tarfile.TarError: it is none, or is cut off. Of the sample that was cut nothing is given.
    """
    group = _Group("")
    try:
        for member in _members(file):
            path = PurePosixPath(member.name)
            stem, _, extension = path.name.partition(".")
            if not stem or not member.isfile():  # hidden files, folders
                continue
            key = str(path.parent / stem)
            if key != group.key:
                if group.is_sample:
                    yield group
                group = _Group(key)
            if extension.lower() == "cls":
                file.seek(member.offset_data)
                group.label, group.has_label = _label(file.read(member.size)), True
            elif PurePosixPath(path.name).suffix.lower() in SUFFIXES:
                group.picture = member
    except tarfile.TarError:
        if group.has_label and group.picture is not None:  # it had been read whole
            yield group
        raise
    if group.is_sample:
        yield group


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Give the members of a tar, none of which is cut off.

    `TarFile.next` takes any block that is no header, and the end of the file, for the end of the tar: what
    had been cut off would be missing silently. The reader below tells those from the mark that ends a tar.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if not size:
        raise tarfile.ReadError("an empty file")
    with tarfile.TarFile(fileobj=file) as tar:
        tar.offset = 0  # the constructor has read the first member
        while True:
            start = file.seek(tar.offset)
            try:
                member = tarfile.TarInfo.fromtarfile(tar)
            except tarfile.HeaderError as error:
                file.seek(start)
                if file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
                    return
                raise tarfile.ReadError(f"{error} at byte {start:,} of {size:,}") from error
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"{member.name} is cut off")
            yield member


def _label(content: bytes) -> int | str:
    text = content.decode("utf-8", "replace").strip()
    return int(text) if text.isdecimal() else text


@dataclass(frozen=True)
class ParquetShard:
    """A parquet file as Hugging Face `datasets` writes it. It takes pyarrow: `pip install 's3clip[parquet]'`.

    Attributes:
        name: of the shard.
        path: a file, or "hf://datasets/user/name@revision/data/test-0.parquet".
        image_column: of the encoded pictures: bytes, or records of `bytes` and `path`.
        label_column: of numbers or strings.
    """

    name: str
    path: Path | str
    image_column: str = "image"
    label_column: str = "label"

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the rows in order."""
        import pyarrow

        position = start
        try:
            with open_binary(self.path) as file, hub_connection():
                for row in self._rows(file, start):
                    yield self._sample(row, position)
                    position += 1
        except FileNotFoundError as error:
            raise BrokenShardError(f"{self.name}: no such file", 0) from error
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise BrokenShardError(
                f"{self.name}: not a whole parquet file: {reason} after {position:,} rows", position
            ) from error

    def _rows(self, file: BinaryIO, start: int) -> Iterator[dict[str, Any]]:
        parquet = _parquet_file(file)
        columns = [self.image_column, self.label_column]
        if missing := [column for column in columns if column not in parquet.schema_arrow.names]:
            raise ValueError(
                f"{self.name}: no column {missing[0]!r}; it has: {', '.join(parquet.schema_arrow.names)}"
            )
        for number in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(number).num_rows
            if start < rows:
                for batch in parquet.iter_batches(_ROWS, row_groups=[number], columns=columns):
                    listed = batch.slice(start).to_pylist()
                    start -= batch.num_rows - len(listed)
                    yield from listed
            else:
                start -= rows

    def _sample(self, row: dict[str, Any], position: int) -> Sample:
        image, label = row[self.image_column], row[self.label_column]
        key = f"{self.name}#{position}"
        content = image.get("bytes") if isinstance(image, dict) else image
        if content is None and isinstance(image, dict) and image.get("path") and isinstance(self.path, Path):
            return Sample(key, label, self.path.parent / image["path"])
        return Sample(key, label, content if isinstance(content, bytes) else b"")

    def class_names(self) -> list[str] | None:
        """Return the names of the labels where the file has them, as `datasets` writes them.

        Raises:
            BrokenShardError: it is not there, or no parquet file.
        """
        import pyarrow

        try:
            with open_binary(self.path) as file, hub_connection():
                metadata = _parquet_file(file).schema_arrow.metadata or {}
        except FileNotFoundError as error:
            raise BrokenShardError(f"{self.name}: no such file") from error
        except pyarrow.ArrowException as error:
            raise BrokenShardError(f"{self.name}: not a parquet file ({error})") from error
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names: list[str] | None = features.get(self.label_column, {}).get("names")
        return names


def _parquet_file(file: BinaryIO) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file)


def require_parquet() -> None:
    """Check that pyarrow is there.

    Raises:
        ImportError: it is not; the message says what to install.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError("parquet files take pyarrow: pip install 's3clip[parquet]'") from error
