"""Tars of web datasets, and of pictures alone, read from their start to their end wherever they lie."""

import gzip
import re
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from s3clip.files.addresses import LARGEST_FILE, is_address, open_binary
from s3clip.images.sources import BrokenShardError, Sample, Span, breaking_off
from s3clip.images.walking import is_image

LARGEST_HEADER = 1 << 20
"""Bytes of all that says what a member of a tar is: its header, long names, records of pax."""
_HEADER_READS = 100  # of those bytes, each header two; what follows a header is read by recursion
_LONGEST_NAME = 4096  # characters; no system has longer paths
_LONGEST_LABEL = 4096  # bytes; names of classes are shorter
_DIGITS = re.compile(rb"\d{256}")
_FIRST = 16  # samples that tell whether names are cut in the wrong place
_SHOWN = 3  # names of files that are passed over


@dataclass(frozen=True)
class TarShard:
    """A tar, plain or in gzip: for each sample a picture, and its label in a `.cls`, named alike to the dot.

    That is the convention of web datasets: a sample is what has one name up to the first dot. Of several
    pictures the one is taken that has no second dot, else the first; a warning counts and names the others.
    What is neither picture nor label is passed over; a label without a picture is a sample that fails to
    open.

    Attributes:
        name: of the shard; a key is the name and the path in the tar.
        path: where it is.
        grouped: False: each picture is a sample of its own, without a label; its key has the ending too.
    """

    name: str
    path: Path | str
    grouped: bool = True

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the samples in the order of the tar.

        Raises:
            BrokenShardError: as any shard does; and before the first, where all at the beginning are torn.
        """
        lost = _Lost()
        with breaking_off(self.name, "tar") as reading, open_binary(self.path) as file:
            members = _members(file, self.path)
            rows = _untorn(_groups(members, start), self.name) if self.grouped else _pictures(members, start)
            for row in rows:
                lost.add(row.lost)
                if reading.position >= start:
                    yield Sample(f"{self.name}/{row.key}", row.label, row.picture or b"")
                reading.position += 1
        if lost.count:
            more = ", ..." * (lost.count > len(lost.names))
            warnings.warn(
                f"{self.name}: {lost.count:,} files passed over, since the name of a sample ends at its "
                f"first dot and it has one picture and label: {', '.join(lost.names)}{more}",
                stacklevel=2,
            )


@dataclass
class _Lost:
    """Files that are passed over: how many, the first names, and whether labels are among them."""

    count: int = 0
    names: list[str] = field(default_factory=list)
    has_label: bool = False

    def add(self, others: "_Lost") -> None:
        self.count += others.count
        self.names += others.names[: _SHOWN - len(self.names)]
        self.has_label |= others.has_label

    def add_file(self, name: str) -> None:
        self.add(_Lost(1, [name], name.lower().endswith(".cls")))


@dataclass
class _Row:
    """What is to be a sample. The picture is None where there is none.

    Attributes:
        key: its path up to the first dot.
        label: what its `.cls` says.
        has_label: whether it has one.
        picture: its content, or where that is.
        picture_name: what it is called in the tar.
        is_plain: whether that has no second dot.
        lost: other pictures and labels that have its key.
    """

    key: str
    label: int | str | None = None
    has_label: bool = False
    picture: Span | bytes | None = None
    picture_name: str = ""
    is_plain: bool = False
    lost: _Lost = field(default_factory=_Lost)

    def take(self, member: "_Member", path: PurePosixPath, *, with_content: bool) -> None:
        """Take a file that has the key: as the label, as the picture, among the lost, or not at all."""
        extension = path.name.partition(".")[2].lower()
        is_plain = "." not in extension
        if extension == "cls":
            self.label, self.has_label = member.label(), True
        elif is_image(path.name) and (self.picture is None or is_plain > self.is_plain):
            if self.picture is not None:
                self.lost.add_file(self.picture_name)
            self.picture = member.data() if with_content else b""
            self.picture_name, self.is_plain = member.info.name, is_plain
        elif is_image(path.name) or extension.endswith(".cls"):
            self.lost.add_file(member.info.name)

    @property
    def is_sample(self) -> bool:
        return self.has_label or self.picture is not None or self.lost.count > 0

    @property
    def is_torn(self) -> bool:
        """Whether it lost what nothing else of it stands for: a picture, or its label."""
        if not self.lost.count:
            return False
        return not (self.is_plain and (self.has_label or not self.lost.has_label))


def _untorn(rows: Iterator[_Row], shard: str) -> Iterator[_Row]:
    """Give the rows; raise where all of the first are torn, since the names mean something else by dots."""
    held, error = [], None
    try:
        for row in rows:
            held.append(row)
            if not row.is_torn or len(held) == _FIRST:
                break
    except (tarfile.TarError, EOFError) as caught:  # those before it are not lost
        error = caught
    if held and all(row.is_torn for row in held):
        name = PurePosixPath(held[0].lost.names[0]).name
        stem, _, extension = name.rpartition(".")
        raise BrokenShardError(
            f"{shard}: the name of a sample ends at its first dot, so {name} belongs to the sample "
            f"{PurePosixPath(held[0].key).name!r} and is no picture or label of its own, and so on; give "
            f"each name one dot: {stem.replace('.', '_')}.{extension}"
        )
    yield from held
    if error is not None:
        raise error
    yield from rows


@dataclass(frozen=True)
class _Member:
    """A file in a tar. Its content is to be had until the next one is asked for.

    Attributes:
        info: its header.
        file: the tar, decompressed.
        path: of the tar.
        is_seekable: whether its content can be read there at any time.
    """

    info: tarfile.TarInfo
    file: BinaryIO
    path: Path | str
    is_seekable: bool

    def read(self) -> bytes:
        self.file.seek(self.info.offset_data)
        content = self.file.read(self.info.size)
        if len(content) < self.info.size:
            raise tarfile.ReadError(f"{self.info.name} is cut off")
        return content

    def data(self) -> Span | bytes:
        if self.is_seekable or self.info.size > LARGEST_FILE:  # which says so when it is opened
            return Span(self.path, self.info.offset_data, self.info.size)
        return self.read()

    def label(self) -> int | str | None:
        """What a `.cls` says; None of one that is too long to be the name of a class."""
        if self.info.size > _LONGEST_LABEL:
            return None
        text = self.read().decode("utf-8", "replace").strip()
        return int(text) if text.isdecimal() else text


def _groups(members: Iterator[_Member], start: int) -> Iterator[_Row]:
    """Give the samples of a tar, with their pictures from number `start` on.

    Where it is cut off, nothing is given of the sample that was cut.
    """
    row, position = _Row(""), 0
    try:
        for member in members:
            path = PurePosixPath(member.info.name)
            key = str(path.parent / path.name.partition(".")[0])
            if key != row.key:
                if row.is_sample:
                    yield row
                    position += 1
                row = _Row(key)
            row.take(member, path, with_content=position >= start)
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
        if is_image(member.info.name):
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
    is_seekable = not is_compressed and not is_address(path)
    headers = _Headers(file)
    with tarfile.TarFile(fileobj=cast(BinaryIO, headers)) as tar:
        tar.offset = 0  # the constructor has read the first member
        while True:
            start = tar.offset
            file.seek(start)
            headers.begin(tar.pax_headers)
            try:
                info = tarfile.TarInfo.fromtarfile(tar)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark, a block of zeros
                return
            except tarfile.HeaderError as error:
                of = "" if size is None else f" of {size:,}"
                raise tarfile.ReadError(f"{error} at byte {start:,}{of}") from error
            if size is not None and info.offset_data + info.size > size:
                raise tarfile.ReadError(f"{info.name} is cut off")
            if len(info.name) > _LONGEST_NAME:
                raise tarfile.ReadError(f"a name of {len(info.name):,} characters at byte {start:,}")
            if info.isfile() and not PurePosixPath(info.name).name.startswith("."):
                yield _Member(info, file, path, is_seekable)


class _Headers:
    """A tar as tarfile reads it, which is headers alone; one that is longer than any real one is refused.

    tarfile reads as many bytes as a header claims to have, and follows one header to the next by recursion.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.begin({})

    def begin(self, kept: Mapping[str, str]) -> None:
        """Begin with the headers of a member; what those of the whole tar have said is counted with them."""
        self._left = LARGEST_HEADER - sum(len(key) + len(value) for key, value in kept.items())
        self._reads = 0

    def read(self, size: int) -> bytes:
        self._left -= size
        self._reads += 1
        if self._left < 0 or self._reads > _HEADER_READS:
            raise tarfile.ReadError(
                f"a header of more than {LARGEST_HEADER:,} bytes, or one of too many parts"
            )
        content = self._file.read(size)
        if _DIGITS.search(content):  # tarfile looks for numbers in time that grows with the square of theirs
            raise tarfile.ReadError("a header with a number of more than 255 digits")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
