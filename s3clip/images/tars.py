"""Tars of web datasets, and of pictures alone, read from their start to their end wherever they lie."""

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from s3clip.files.addresses import is_address, open_binary
from s3clip.images.sources import Sample, Span, breaking_off
from s3clip.images.walking import SUFFIXES


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
