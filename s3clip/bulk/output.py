"""The folder of results: parts of parquet, written whole or not at all, here or in an object store."""

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from s3clip.files import write_atomically

FORMAT = "s3clip-labels/1"
_FOOTER = b"s3clip"
_READERS = 16


@dataclass(frozen=True)
class Part:
    """What a part's file says of itself, in its footer.

    Attributes:
        shard: the name of its shard.
        start: the number of its first row in the shard.
        settings: the digest of the settings it was made with.
        version: of the shard's files when they were listed.
        ends_shard: whether it is the shard's last.
        broken: why the shard breaks off in this part; such a part is made again by the next run.
        counts: for the summary: see `s3clip.bulk.labelling.part_counts`.
    """

    shard: str
    start: int
    settings: str
    version: str
    ends_shard: bool
    broken: str | None
    counts: dict[str, Any]

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.shard}-{self.start:012d}.parquet"


class Output:
    """A folder of results.

    Args:
        folder: a path, or an address that fsspec writes to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.address = os.fspath(folder)
        self.is_local = "://" not in self.address
        if self.is_local:
            self.address = os.path.abspath(self.address)
        self._fs, self._root = fsspec.core.url_to_fs(self.address)

    def check(self) -> None:
        """Raise NotADirectoryError where the folder would be in the place of a file."""
        if self.is_local and Path(self.address).exists() and not Path(self.address).is_dir():
            raise NotADirectoryError(f"out: expected a folder, {self.address} is a file")

    def make(self) -> None:
        """Make the folder, where there is none.

        Raises:
            OSError: it cannot be made.
        """
        self._fs.makedirs(self._root, exist_ok=True)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none."""
        try:
            content: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is there whole or not at all, and stays after a power cut.

        Raises:
            OSError: it cannot be written; what was there before is there still.
        """
        try:
            if self.is_local:
                write_atomically(Path(self.address) / name, content)
            else:
                self._fs.pipe_file(f"{self._root}/{name}", content)  # an object appears when it is whole
        except OSError as error:
            said = f"{error.strerror or error}, writing {name}"
            raise type(error)(error.errno, said, self.address) from error

    def write_part(self, part: Part, table: pa.Table) -> None:
        """Write a part, over one of the same name."""
        footer = {_FOOTER: json.dumps(asdict(part)).encode()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **footer})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", use_dictionary=["shard", "label", "text"])
        self.write(part.file, sink.getvalue())

    def parts(self) -> Iterator[Part]:
        """Give what the parts say of themselves.

        Raises:
            ValueError: a parquet file that no run of ours wrote.
        """
        try:
            names = sorted(
                name for name in self._fs.ls(self._root, detail=False) if name.endswith(".parquet")
            )
        except FileNotFoundError:
            return
        names = [name for name in names if not name.endswith("/listing.parquet")]
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self._footer, names)

    def part_files(self) -> list[str]:
        """Return the addresses of the parts, sorted by name."""
        return [self._fs.unstrip_protocol(f"{self._root}/{part.file}") for part in self.parts()]

    def _footer(self, path: str) -> Part:
        try:
            with self._fs.open(path, "rb") as file:
                metadata = pq.read_metadata(file).metadata or {}
            return Part(**json.loads(metadata[_FOOTER]))
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"out: {path} is no part that s3clip wrote ({error}); take it away, or give another folder"
            ) from error
