"""The folder of results: parts of parquet, written whole or not at all, here or in an object store.

Beside each other lie parts alone, so that whatever reads parquet reads the folder as one table. What is kept
for the next run lies in `_s3clip/`, which most readers pass over for its underscore, and none of it ends in
.parquet.
"""

import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, NonNegativeInt

from s3clip.bulk.decoding import EMBEDDING_BATCH
from s3clip.files.addresses import checked_path, is_address
from s3clip.files.folders import holds_others, visible
from s3clip.files.json import checked, parse_json
from s3clip.files.writing import lock, write_atomically

FORMAT = "s3clip-labels/2"
SCORE_BINS = 20
"""Bins of the histogram of scores."""
_FOOTER = b"s3clip"
_READERS = 16


class Layout(NamedTuple):
    """Where in a folder of results the next run finds what it needs.

    Attributes:
        format: its number.
        books: the folder of what is no part, with its slash; "" where that lies among the parts.
        manifest: what the folder says of its results.
        listing: the inputs; parquet, whatever it is called.
        lock: what a run holds.
        plain: whether texts are plain columns. Those that are Arrow dictionaries few readers take.
        embedding_batch: embeddings that go through the head at once, by which shards are cut.
    """

    format: str
    books: str
    manifest: str
    listing: str
    lock: str
    plain: bool = True
    embedding_batch: int = EMBEDDING_BATCH


BOOKS = "_s3clip/"
LAYOUT = Layout(FORMAT, BOOKS, f"{BOOKS}manifest.json", f"{BOOKS}listing", f"{BOOKS}lock")
OLDER_LAYOUT = Layout("s3clip-labels/1", "", "manifest.json", "listing.parquet", ".lock", False, 2048)
"""Folders that were begun so go on so."""


class Counts(BaseModel, frozen=True):
    """What a summary needs of the rows of a part.

    Attributes:
        rows: how many there are.
        errors: of them with an error.
        rejected: of them whose best class is not accepted.
        classes: position of a class -> rows that it is the best of.
        scores: histogram of their scores from 0 to 1, in bins of equal width.
        examples: a few errors.
    """

    rows: NonNegativeInt = 0
    errors: NonNegativeInt = 0
    rejected: NonNegativeInt = 0
    classes: dict[NonNegativeInt, NonNegativeInt] = {}
    scores: list[NonNegativeInt] = Field([0] * SCORE_BINS, min_length=SCORE_BINS, max_length=SCORE_BINS)
    examples: list[str] = []


class Part(BaseModel, frozen=True):
    """What a part's file says of itself, in its footer.

    Attributes:
        shard: the name of its shard.
        start: the number of its first row in the shard.
        settings: the digest of the settings it was made with.
        version: of the shard's files when they were listed.
        ends_shard: whether it is the shard's last.
        broken: why the shard breaks off in this part; such a part is made again by the next run.
        counts: of its rows.
    """

    shard: str
    start: NonNegativeInt
    settings: str
    version: str
    ends_shard: bool
    broken: str | None
    counts: Counts = Counts()

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.shard}-{self.start:012d}.parquet"


class Manifest(BaseModel, frozen=True):
    """What a folder says of its results.

    Attributes:
        settings: by which they were made; a run with others is refused.
        s3clip: the version that wrote it.
        fingerprint: of the backbone's image tower, None where there is none.
        image_key: of that tower and its image processor, once pictures have been labelled.
        classes: names and ids.
        columns: of the rows, with their types.
    """

    settings: dict[str, Any]
    s3clip: str = ""
    fingerprint: list[float] | None = None
    image_key: str | None = None
    classes: list[dict[str, str | int | None]] = []
    columns: dict[str, str] = {}


def address_of(path: str | os.PathLike[str]) -> str:
    """Return an address as it is, and a path, also one that is written as an address, absolute.

    Raises:
        ValueError: it is empty, which would be the folder one is in.
    """
    address = checked_path(path, "inputs, out")
    protocol, mark, rest = address.partition("://")
    if mark and protocol not in ("file", "local"):
        return address
    return Path(os.path.abspath(rest if mark else address)).as_posix()


class Output:
    """A folder of results.

    Args:
        folder: a path, or an address that fsspec writes to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.address = address_of(folder)
        self.is_local = not is_address(self.address)
        self._fs, self._root = fsspec.core.url_to_fs(self.address)

    @cached_property
    def layout(self) -> Layout:
        """That of the folder as it was when this was first asked; that of new ones where there is none."""
        if not self._fs.exists(f"{self._root}/{LAYOUT.manifest}"):
            if self._fs.exists(f"{self._root}/{OLDER_LAYOUT.listing}"):
                return OLDER_LAYOUT
            if self._is_manifest(self.read(OLDER_LAYOUT.manifest)):  # of a run that was killed very early
                return OLDER_LAYOUT
        return LAYOUT

    def columns(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns of rows as the parts hold them."""
        return plain_columns(schema) if self.layout.plain else schema

    def check(self) -> None:
        """Refuse a folder that would be in the place of a file, or that holds something else.

        Raises:
            NotADirectoryError, ValueError: it does.
        """
        if self.is_local and Path(self.address).exists() and not Path(self.address).is_dir():
            raise NotADirectoryError(f"out: expected a folder, {self.address} is a file")
        names = visible(os.path.basename(name) for name in self._listed())
        if names and BOOKS.rstrip("/") not in names and self.layout is not OLDER_LAYOUT:
            raise ValueError(holds_others("out", self.address, names, "results of s3clip label"))

    def make(self) -> None:
        """Make the folder, where there is none.

        Raises:
            OSError: it cannot be made.
        """
        try:
            self._fs.makedirs(f"{self._root}/{self.layout.books}".rstrip("/"), exist_ok=True)
        except OSError as error:
            raise self._unwritable(error, "making the folder") from error

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out of the folder while this one lasts. A process that dies holds nothing.

        There is no such lock in an object store, on Windows, and on some file systems.

        Raises:
            ValueError: another run has it.
            OSError: nothing can be written there.
        """
        if not self.is_local:
            yield
            return
        try:
            file = open(os.path.join(self.address, self.layout.lock), "ab")
        except OSError as error:
            raise self._unwritable(error, f"opening {self.layout.lock}") from error
        with file:
            if not lock(file):
                raise ValueError(
                    f"out: another run is writing to {self.address}; wait for it, or give another folder"
                )
            yield

    def holds(self, path: str) -> bool:
        """Whether a file lies in the folder or below."""
        if is_address(path) == self.is_local:
            return False
        if self.is_local:
            folder = os.path.join(_real(os.path.dirname(path)), "")
            return folder.startswith(os.path.join(_real(self.address), ""))
        fs, name = fsspec.core.url_to_fs(path)
        return isinstance(fs, type(self._fs)) and str(name).startswith(f"{self._root.rstrip('/')}/")

    def manifest(self) -> Manifest | None:
        """Return what the folder says of its results; None if there are none of ours.

        Raises:
            ValueError: it is damaged, or a newer s3clip wrote it.
        """
        name = self.layout.manifest
        content = self.read(name)
        if content is None:
            return None
        try:
            found = parse_json(content, name)
            manifest = checked(found, Manifest, name) if _is_ours(found) else None
        except ValueError as error:
            if not self._fs.exists(f"{self._root}/{self.layout.listing}"):
                return None
            raise ValueError(
                f"{self.address}/{name} is damaged ({error}); remove it, and a run with the same "
                f"settings writes it anew"
            ) from error
        if manifest is not None and manifest.settings["format"] != self.layout.format:
            raise ValueError(
                f"{self.address}: expected results of format {self.layout.format!r}, got "
                f"{str(manifest.settings['format'])[:40]!r}; a newer s3clip reads them"
            )
        return manifest

    def class_names(self) -> list[str]:
        """Return the names of the classes; none where there are no results."""
        manifest = self.manifest()
        return [] if manifest is None else [str(each["name"]) for each in manifest.classes]

    @staticmethod
    def _is_manifest(content: bytes | None) -> bool:
        try:
            return content is not None and _is_ours(parse_json(content, OLDER_LAYOUT.manifest))
        except ValueError:
            return False

    def listing(self) -> bytes | None:
        """Return the listing of the inputs as it is, None where there is none."""
        return self.read(self.layout.listing)

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
            raise self._unwritable(error, f"writing {name}") from error

    def write_part(self, part: Part, table: pa.Table) -> None:
        """Write a part, over one of the same name."""
        table = table.cast(self.columns(table.schema))
        footer = {_FOOTER: json.dumps(part.model_dump(mode="json")).encode()}
        schema = table.schema.with_metadata({**(table.schema.metadata or {}), **footer})
        sink = io.BytesIO()
        with pq.ParquetWriter(
            sink, schema, compression="zstd", use_dictionary=["shard", "label", "text", "group"]
        ) as writer:
            if len(table):  # `datasets` cannot read a group of no rows
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        self.write(part.file, sink.getvalue())

    def parts(self) -> Iterator[Part]:
        """Give what the parts say of themselves.

        Raises:
            ValueError: a parquet file that no run of ours wrote.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self._footer, self._names())

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Give the rows, part by part in the order of their names, in plain columns.

        Args:
            columns: which; None: all of them.
        """
        for name in self._names():
            with self._fs.open(name, "rb") as file:
                table = pq.read_table(file, columns=None if columns is None else list(columns))
            yield table.cast(plain_columns(table.schema))

    def _listed(self) -> list[str]:
        try:
            self._fs.invalidate_cache(self._root)
            found = [str(name).rstrip("/") for name in self._fs.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        return [name for name in found if name != self._root.rstrip("/")]  # some stores list the folder too

    def _names(self) -> list[str]:
        older = f"/{OLDER_LAYOUT.listing}"
        return sorted(
            name for name in self._listed() if name.endswith(".parquet") and not name.endswith(older)
        )

    def _unwritable(self, error: OSError, doing: str) -> OSError:
        number, said = error.errno or errno.EIO, error.strerror or str(error)
        if self.is_local and doing.startswith("writing") and not Path(self.address).is_dir():
            number, said = errno.ENOENT, "the folder is gone"
        return OSError(number, f"out: {said}, {doing}", self.address)  # of the kind of its number

    def _footer(self, path: str) -> Part:
        try:
            with self._fs.open(path, "rb") as file:
                metadata = pq.read_metadata(file).metadata or {}
            return checked(parse_json(metadata[_FOOTER], "its footer"), Part, "its footer")
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            if getattr(error, "errno", None) is not None:  # of the file system, and not of what pyarrow reads
                raise
            raise ValueError(
                f"out: {path} is no part that s3clip wrote ({error}); take it away, or give another folder"
            ) from error


def plain_columns(schema: pa.Schema) -> pa.Schema:
    """Return a schema without what it says beside, with texts in the place of dictionaries of them."""
    return pa.schema(
        [
            pa.field(each.name, each.type.value_type, each.nullable)
            if pa.types.is_dictionary(each.type)
            else each
            for each in schema
        ]
    )


def _is_ours(content: Any) -> bool:
    settings = content.get("settings") if isinstance(content, dict) else None
    return isinstance(settings, dict) and "format" in settings


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
