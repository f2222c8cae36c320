"""What a job reads: files, folders, globs and addresses, listed once, with what tells that one changed."""

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from s3clip import tables
from s3clip.bulk.output import Output
from s3clip.bulk.shards import EmbeddingFile
from s3clip.images import SUFFIXES
from s3clip.shards import TableShard, TarShard
from s3clip.sources import FileShard, Listed, Shard
from s3clip.tables import open_table

TABLES = tuple(sorted(tables.SUFFIXES, reverse=True))
ARRAYS = (".npy",)
DATA_COLUMNS = ("image", "embedding", "image_embeds")
LISTING = "listing.parquet"


@dataclass(frozen=True)
class InputFile:
    """A file that is read.

    Attributes:
        path: absolute, or the address.
        size: in bytes.
        version: changes with the content: the time of the last change, or what the store says.
        shard: the name of the shard that it is, or is a part of.
    """

    path: str
    size: int
    version: str
    shard: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns tables are read from; None: found by their names.

    Attributes:
        data: of pictures or embeddings.
        key: of the keys.
    """

    data: str | None = None
    key: str | None = None


def list_files(inputs: Iterable[str | os.PathLike[str]]) -> list[InputFile]:
    """Return the files that inputs name, each once: those of folders and globs in the order of their names.

    Raises:
        FileNotFoundError: an input that is not there, or names no file that can be read.
    """
    found: dict[str, InputFile] = {}
    for given in inputs:
        address = os.fspath(given)
        if "://" not in address:
            address = os.path.abspath(address)
        fs, path = fsspec.core.url_to_fs(address)
        prefix = "" if "://" not in address else address.split("://")[0] + "://"
        if fs.isdir(path):
            details = fs.find(path, detail=True)
        elif fs.exists(path):
            details = {path: fs.info(path)}
        else:
            details = {
                name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"
            }
        read = {name: details[name] for name in sorted(details) if _is_read(name)}
        if not read:
            raise FileNotFoundError(
                f"{os.fspath(given)}: nothing there that can be labelled; expected pictures, .tar, "
                f"{', '.join((*TABLES, *ARRAYS))}, or a folder or glob of them"
            )
        for name, info in read.items():
            where = f"{prefix}{name}"
            found.setdefault(where, InputFile(where, int(info["size"] or 0), _version(info)))
    return list(found.values())


def version_now(file: InputFile) -> tuple[int, str]:
    """Return size and version of a file as it is now.

    Raises:
        FileNotFoundError: it is gone.
    """
    fs, path = fsspec.core.url_to_fs(file.path)
    info = fs.info(path)
    return int(info["size"] or 0), _version(info)


def into_shards(files: Sequence[InputFile], listed: Sequence[InputFile], run: int) -> list[InputFile]:
    """Give every file a shard: the one it had, else a new one. Image files go into runs of `run`.

    Args:
        files: found now.
        listed: those of an earlier run of the job, which keep their shards.
        run: image files in a shard.

    Returns:
        The earlier ones in their order, then the new ones.
    """
    known = {file.path: file for file in listed}
    names = {file.shard for file in listed}
    new = [file for file in files if file.path not in known]
    now = {file.path: file for file in files}
    kept = [now.get(file.path, file) for file in listed]
    out = [InputFile(file.path, file.size, file.version, known[file.path].shard) for file in kept]
    loose = [file for file in new if _suffix(file.path) in SUFFIXES]
    for start in range(0, len(loose), run):
        chosen = loose[start : start + run]
        name = _unused(f"{PurePosixPath(chosen[0].path).parent.name or 'files'}-files", names)
        out += [InputFile(file.path, file.size, file.version, name) for file in chosen]
    for file in new:
        if _suffix(file.path) not in SUFFIXES:
            path = PurePosixPath(file.path)
            name = _unused(f"{path.parent.name}-{path.name.split('.')[0]}", names)
            out.append(InputFile(file.path, file.size, file.version, name))
    return out


def make_shards(files: Sequence[InputFile], columns: Columns) -> dict[str, Shard | EmbeddingFile]:
    """Return the shards by the names of the listing; their own, which keys begin with, are their paths."""
    open_as = _table_kind(columns)
    shards: dict[str, Shard | EmbeddingFile] = {}
    for name, group in groupby(files, key=lambda file: file.shard):
        own = [file.path for file in group]
        suffix = _suffix(own[0])
        if suffix in SUFFIXES:
            shards[name] = FileShard(name, None, tuple(Listed(path, None) for path in own))
        elif suffix in ARRAYS:
            shards[name] = EmbeddingFile(own[0])
        elif suffix in TABLES:
            shards[name] = open_as(own[0])
        else:
            shards[name] = TarShard(own[0], own[0], grouped=False)
    return shards


def read_listing(output: Output) -> list[InputFile]:
    """Return what an earlier run listed."""
    content = output.read(LISTING)
    if content is None:
        return []
    return [InputFile(**row) for row in pq.read_table(io.BytesIO(content)).to_pylist()]


def write_listing(output: Output, files: Sequence[InputFile]) -> None:
    """Write the listing anew."""
    sink = io.BytesIO()
    columns = {name: [getattr(file, name) for file in files] for name in ("path", "size", "version", "shard")}
    pq.write_table(pa.table(columns), sink, compression="zstd")
    output.write(LISTING, sink.getvalue())


def _table_kind(columns: Columns) -> Callable[[str], Shard | EmbeddingFile]:
    """Return what makes a shard of a table; the first of a folder that can be opened speaks for all in it."""
    decided: dict[str, tuple[bool, str, str | None]] = {}

    def make(path: str) -> Shard | EmbeddingFile:
        folder = path.rpartition("/")[0]
        if folder not in decided:
            try:
                with open_table(path) as table:
                    decided[folder] = _what_is_in(table.schema, columns)
            except (OSError, ValueError):  # a broken one is named when it is read
                pass
        embeds, data, key = decided.get(folder, (False, columns.data or "image", columns.key))
        return EmbeddingFile(path, data, key) if embeds else TableShard(path, path, data, None, key, mark="/")

    return make


def _what_is_in(schema: pa.Schema, columns: Columns) -> tuple[bool, str, str | None]:
    """Return whether a table holds embeddings, the column of those or of pictures, and that of keys."""
    data = columns.data or next((name for name in DATA_COLUMNS if name in schema.names), "image")
    key = columns.key or ("key" if "key" in schema.names else None)
    if data not in schema.names:  # named when it is read
        return False, data, key
    kind = schema.field(data).type
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists), data, key


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _is_read(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    if name == LISTING or name.startswith("."):
        return False
    known = (*SUFFIXES, *TABLES, *ARRAYS, ".tar")
    return _suffix(name) in known or name.endswith((".tar.gz", ".tgz"))


def _version(info: dict[str, object]) -> str:
    for key in (
        "etag",
        "ETag",
        "oid",
        "blob_id",
        "md5Hash",
        "mtime",
        "last_modified",
        "LastModified",
    ):
        if info.get(key) is not None:
            return str(info[key])
    return ""


def _unused(wanted: str, names: set[str]) -> str:
    stem = re.sub(r"[^\w.-]+", "_", wanted)[:120].strip(".") or "input"
    name, number = f"{stem}-0000" if stem.endswith("-files") else stem, 1
    while name in names:
        name, number = f"{stem}-{number:04d}", number + 1
    names.add(name)
    return name
