"""What a job reads: files, folders, globs and addresses, listed once, with what tells that one changed."""

import io
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from s3clip.bulk import arrays
from s3clip.bulk.embedding_shards import ArrayShard, EmbeddingFile, EmbeddingTable
from s3clip.bulk.output import BOOKS, LAYOUT, OLDER_LAYOUT, Output, address_of
from s3clip.files.addresses import is_address
from s3clip.files.folders import beside
from s3clip.files.json import checked
from s3clip.files.reach import Reach
from s3clip.files.state import FileState, file_state, store_state
from s3clip.files.writing import in_utf8
from s3clip.images import tables
from s3clip.images.sources import FileShard, Listed, Shard
from s3clip.images.table_shards import TableShard
from s3clip.images.tables import LANCE, lance_state, open_table
from s3clip.images.tars import TarShard
from s3clip.images.walking import glob_paths, is_image, walk, warn_of_passed_over

TARS = (".tar", ".tar.gz", ".tgz")
_READERS = 16
DATA_COLUMNS = ("image", "embedding", "image_embeds")


@dataclass(frozen=True)
class InputFile:
    """A file that is read.

    Attributes:
        path: absolute, or the address.
        state: when it was listed.
        shard: the name of the shard that it is, or is a part of.
    """

    path: str
    state: FileState
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


def list_files(inputs: Iterable[str | os.PathLike[str]], out: Output | None = None) -> list[InputFile]:
    """Return the files that inputs name, each once: those of folders and globs in the order of their names.

    Of a folder of results its parts alone are taken; those that lie in a folder which is not one are passed
    over, and so is what lies in `out`.

    Raises:
        FileNotFoundError: an input that is not there, or names no file that can be read.
        ValueError: no input at all, an empty one, or one that lies in `out`.
        OSError: a folder that may not be read.
        ImportError: the package for such addresses, or for Lance, is not installed.
    """
    found: dict[str, InputFile] = {}
    for given in inputs:
        if not isinstance(given, str | os.PathLike):
            raise TypeError(
                f"inputs: expected paths or addresses, got {type(given).__name__}; pictures in memory go to "
                f"head.predict"
            )
        place = address_of(given)
        folder, infos, left_out = _named_by(place)
        named = _without_results(folder, infos)
        own = {path: info for path, info in named.items() if out is None or not out.holds(path)}
        wanted = [path for path in own if is_read(path)]
        with ThreadPoolExecutor(_READERS) as pool:  # each file is read at both ends
            states = pool.map(_as_it_is, wanted, [own[path] for path in wanted])
            read = [file for file in states if file is not None]
        if not read and len(own) < len(named):
            raise ValueError(
                f"inputs: {place} lies in out ({out and out.address}); give another folder for results"
            )
        if not read:
            suffixes = ", ".join((*TARS, *sorted(tables.SUFFIXES | arrays.SUFFIXES), LANCE))
            raise FileNotFoundError(
                f"{place}: nothing there that can be labelled; expected pictures, {suffixes}, or a folder or "
                f"glob of them{'' if is_address(place) else beside(place)}"
            )
        paths = {file.path for file in read}
        warn_of_passed_over(place, [*left_out, *(path for path in own if path not in paths)])
        for file in read:
            found.setdefault(file.path, file)
    if not found:
        raise ValueError("inputs: none were given")
    return list(found.values())


def state_now(file: InputFile) -> FileState:
    """Return the state of a file as it is now; for the errors see `file_state`."""
    return lance_state(file.path) if file.path.endswith(LANCE) else file_state(file.path)


def result_folders(files: Iterable[InputFile]) -> list[Output]:
    """Return the folders of results that tables lie in."""
    folders = {file.path.rpartition("/")[0]: None for file in files if _suffix(file.path) == ".parquet"}
    return [output for output in map(Output, folders) if output.manifest() is not None]


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
    names = _ShardNames(file.shard for file in listed)
    new = [file for file in files if file.path not in known]
    now = {file.path: file for file in files}
    kept = [now.get(file.path, file) for file in listed]
    out = [replace(file, shard=known[file.path].shard) for file in kept]
    loose = [file for file in new if is_image(file.path)]
    for start in range(0, len(loose), run):
        chosen = loose[start : start + run]
        name = names.unused(f"{PurePosixPath(chosen[0].path).parent.name or 'files'}-files")
        out += [replace(file, shard=name) for file in chosen]
    for file in new:
        if not is_image(file.path):
            path = PurePosixPath(file.path)
            name = names.unused(f"{path.parent.name}-{path.name.split('.')[0]}")
            out.append(replace(file, shard=name))
    return out


def make_shards(
    files: Sequence[InputFile], columns: Columns, given: Container[str], listing: Reach
) -> dict[str, Shard | EmbeddingFile]:
    """Return the shards by the names of the listing; their own, which keys begin with, are their paths.

    Args:
        files: with their shards.
        columns: of tables.
        given: the paths of those files that the inputs name; the others stand in the listing alone.
        listing: where the names in that may lead to; those in tables lead as far beyond their own folders.

    Returns:
        Those of which a file is given. Beside it other files of its shard may be gone, or not meant any more.
    """
    open_as = _table_kind(columns, listing.allowed)
    shards: dict[str, Shard | EmbeddingFile] = {}
    for name, group in groupby(files, key=lambda file: file.shard):
        own = [file.path for file in group]
        suffix = _suffix(own[0])
        if not any(path in given for path in own):
            continue
        if is_image(own[0]):
            listed = (Listed(path, None, None if path in given else listing) for path in own)
            shards[name] = FileShard(name, None, tuple(listed))
        elif suffix in arrays.SUFFIXES:
            shards[name] = ArrayShard(own[0], columns.data)
        elif suffix in tables.SUFFIXES or suffix == LANCE:
            shards[name] = open_as(own[0])
        else:
            shards[name] = TarShard(own[0], own[0], grouped=False)
    return shards


class _Row(BaseModel):
    """A row of the listing; `raw` is a path that is no UTF-8, as it is; older runs kept no `ends`."""

    path: str
    size: int
    version: str
    shard: str
    raw: bytes | None = None
    ends: str | None = None


class _Listing(BaseModel):
    rows: list[_Row]


def read_listing(output: Output) -> list[InputFile]:
    """Return what an earlier run listed.

    Raises:
        ValueError: it is damaged.
    """
    content = output.listing()
    if content is None:
        return []
    try:
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
        return [
            InputFile(
                row.path if row.raw is None else os.fsdecode(row.raw),
                FileState(row.size, row.version, row.ends),
                row.shard,
            )
            for row in checked({"rows": rows}, _Listing, output.layout.listing).rows
        ]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"out: {output.address}/{output.layout.listing} is damaged ({error}); remove it, and a run with "
            f"the same inputs writes it anew"
        ) from error


def write_listing(output: Output, files: Sequence[InputFile]) -> None:
    """Write the listing anew. A path that is no UTF-8 is there twice: to be read, and as it is."""
    sink = io.BytesIO()
    shown = [in_utf8(file.path) for file in files]
    raw = [
        None if path == file.path else os.fsencode(file.path) for path, file in zip(shown, files, strict=True)
    ]
    columns = {
        "path": shown,
        "size": [file.state.size for file in files],
        "version": [file.state.version for file in files],
        "shard": [file.shard for file in files],
        "raw": pa.array(raw, pa.binary()),
        "ends": pa.array([file.state.ends for file in files], pa.string()),
    }
    pq.write_table(pa.table(columns), sink, compression="zstd")
    output.write(output.layout.listing, sink.getvalue())


def _named_by(place: str) -> tuple[str | None, dict[str, dict[str, Any] | None], list[str]]:
    """Return the folder that a place is, if it is one, the files that it names, and what is left out of them.

    With the files of a store comes what it says of them.
    """
    if not is_address(place):
        if os.path.isdir(place):
            files, left_out = walk(place)
            return place, dict.fromkeys(_with_lance(files)), left_out
        matching = [place] if os.path.exists(place) else glob_paths(place)
        named = [path for path in matching if path.endswith(LANCE) or not os.path.isdir(path)]
        return None, dict.fromkeys(_with_lance(named)), []
    fs, path = fsspec.core.url_to_fs(place)
    prefix = f"{place.split('://')[0]}://"
    folder = f"{prefix}{path}" if fs.isdir(path) else None
    if folder is not None:
        details = fs.find(path, detail=True)
    elif fs.exists(path):
        details = {path: fs.info(path)}
    else:
        details = {
            name: info
            for name, info in fs.glob(path, detail=True).items()
            if info["type"] != "directory" or name.endswith(LANCE)
        }
    before_star = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
    fixed = len(path if folder is not None else before_star)
    hidden = {name for name in details if "/." in name[fixed:] and "/." not in path[fixed:]}
    shown = {name: info for name, info in details.items() if name not in hidden}
    # Of the web the name is the whole address.
    infos = {name if is_address(name) else f"{prefix}{name}": info for name, info in shown.items()}
    return folder, {path: infos.get(path) for path in _with_lance(sorted(infos))}, list(hidden)


def _with_lance(paths: Sequence[str]) -> Iterator[str]:
    """Give each Lance dataset, of which paths are the files, in their place."""
    inside = re.compile(rf"(.*?{re.escape(LANCE)})/", re.DOTALL)
    datasets = {match[1] for path in paths if "/_versions/" in path and (match := inside.match(path))}
    seen: set[str] = set()
    for path in paths:
        match = inside.match(path)
        name = match[1] if match and match[1] in datasets else path
        if name not in seen:
            seen.add(name)
            yield name


def _without_results(
    place: str | None, named: dict[str, dict[str, Any] | None]
) -> dict[str, dict[str, Any] | None]:
    """Leave out the folders of results below a folder; of one that was asked for, leave its parts."""
    begun = {
        path.removesuffix(f"/{layout.manifest}")
        for layout in (LAYOUT, OLDER_LAYOUT)
        for path in named
        if path.endswith(f"/{layout.manifest}")
        and path.removesuffix(layout.manifest) + layout.listing in named
    }
    results = {folder for folder in begun if Output(folder).manifest()}
    kept = {}
    for path, info in named.items():
        folder, _, name = path.rpartition("/")
        folder = folder.removesuffix(f"/{BOOKS.rstrip('/')}") if folder not in results else folder
        is_asked_for = place in (None, folder)
        is_part = path == f"{folder}/{name}" and name.endswith(".parquet") and name != OLDER_LAYOUT.listing
        if folder not in results or (is_asked_for and is_part):
            kept[path] = info
    return kept


def _as_it_is(path: str, info: dict[str, Any] | None) -> InputFile | None:
    """Return a file as it is now, of a store as it says; None if it is a folder, a pipe or the like."""
    if info is not None and info["type"] != "directory":
        return None if path.endswith(LANCE) else InputFile(path, store_state(info))
    file = InputFile(path, FileState(0))
    try:
        if not is_address(path) and not (os.path.isdir if path.endswith(LANCE) else os.path.isfile)(path):
            return None if os.path.exists(path) else file  # a link to nothing
        return replace(file, state=state_now(file))
    except (OSError, ValueError):  # a dataset of Lance that is damaged; it is named when it is read
        return file


def _table_kind(columns: Columns, allowed: tuple[str, ...]) -> Callable[[str], Shard | EmbeddingFile]:
    """Return what makes a shard of a table; the first of a folder that can be opened speaks for all in it."""
    decided: dict[str, tuple[bool, str, str | None]] = {}

    def make(path: str) -> Shard | EmbeddingFile:
        folder = path if path.endswith(LANCE) else path.rpartition("/")[0]
        if folder not in decided:
            try:
                with open_table(path) as table:
                    decided[folder] = _what_is_in(table.schema, columns)
            except (OSError, ValueError):  # a broken one is named when it is read
                pass
        embeds, data, key = decided.get(folder, (False, columns.data or "image", columns.key))
        if embeds:
            return EmbeddingTable(path, data, key)
        return TableShard(path, path, data, None, key, mark="/", allowed=allowed)

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


def is_read(path: str) -> bool:
    """Whether a file is labelled where it lies among the inputs, by its name."""
    name = PurePosixPath(path).name.lower()
    if name == OLDER_LAYOUT.listing:
        return False
    known = tables.SUFFIXES | arrays.SUFFIXES | {LANCE}
    return is_image(name) or _suffix(name) in known or name.endswith(TARS)


class _ShardNames:
    """Names of shards, and so of their parts, none of them twice. Of runs of pictures there are many alike.

    Args:
        taken: those that there are.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}  # by stem, the last one that is taken

    def unused(self, wanted: str) -> str:
        """Return a new name like the one wanted. Readers pass over those that begin with "_" or "."."""
        stem = re.sub(r"[^\w.-]+", "_", wanted)[:120].strip("._") or "input"
        name, number = f"{stem}-0000" if stem.endswith("-files") else stem, self._numbers.get(stem, 0)
        while name in self._taken:
            number += 1
            name = f"{stem}-{number:04d}"
        self._taken.add(name)
        self._numbers[stem] = number
        return name
