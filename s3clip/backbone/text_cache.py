"""Embeddings of texts, kept on disk: fitting again with one more synonym encodes one text.

One SQLite file, `texts.sqlite` in the folder that the environment variable `S3CLIP_CACHE` names, else in
`~/.cache/s3clip`; an empty `S3CLIP_CACHE` turns the cache off. The file stays below `LIMIT` bytes: what was
not used for longest goes first. Several processes may read and write it at once, and a file that others
share may be readable only. It holds nothing that cannot be encoded again, so a cache that fails, or is locked
for longer than two seconds, is a warning, and deleting the file is safe.
"""

import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from s3clip.backbone.backbone import Backbone

LIMIT = 1 << 30
"""Bytes of the file: half a million texts of 512 dimensions."""

_ROWS = 500
"""Texts of one statement; SQLite takes at least 999 values in one."""

_KEPT_SHARE = 0.75
"""Of `LIMIT`, after texts had to go: a new one does not make the next one go at once."""

_WAIT_SECONDS = 2.0
"""For a process that is writing; a write takes milliseconds."""

_CHECKSUM = 8
"""Bytes after each vector: what a disk or a crash damaged is not taken for an embedding."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON embeddings (used);
"""


class TextCache:
    """The embeddings that one backbone gave to texts.

    Attributes:
        failed: whether it has failed and is left alone.

    Args:
        path: the file; made if need be.
        encoder: `Backbone.text_key()`, by which it keeps the texts of backbones apart.
        limit: bytes that the file may hold.
    """

    def __init__(self, path: Path, encoder: bytes, *, limit: int = LIMIT) -> None:
        self.path = path
        self.encoder = encoder
        self.limit = limit
        self.failed = False

    def read(self, texts: Sequence[str], dim: int) -> dict[str, np.ndarray]:
        """Return the (dim,) float32 embeddings of those texts that are known."""
        text_of = {self._key(text): text for text in texts}
        found: dict[bytes, np.ndarray] = {}
        if self.failed:
            return {}
        with self._connection() as connection:
            listed = list(text_of)
            for keys in (listed[start : start + _ROWS] for start in range(0, len(listed), _ROWS)):
                marks = ",".join("?" * len(keys))
                rows = connection.execute(
                    f"SELECT key, vector FROM embeddings WHERE key IN ({marks})", keys
                ).fetchall()
                found |= {
                    key: np.frombuffer(kept[:-_CHECKSUM], dtype="<f4").astype(np.float32)
                    for key, kept in rows
                    if _is_whole(key, kept, dim)
                }
            if found:
                now = time.time_ns()
                with suppress(sqlite3.OperationalError):  # of a file that is locked, or read alone
                    connection.execute("PRAGMA busy_timeout = 0")
                    with _transaction(connection):
                        connection.executemany(
                            "UPDATE embeddings SET used = ? WHERE key = ?", [(now, key) for key in found]
                        )
        return {text_of[key]: vector for key, vector in found.items()}

    def write(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keep embeddings, (texts, dim) in float32; the oldest ones go where there is no room for them."""
        now = time.time_ns()
        keys = [self._key(text) for text in texts]
        rows = [
            (key, _checked(key, vector.tobytes()), now)
            for key, vector in zip(keys, np.asarray(vectors, dtype="<f4"), strict=True)
        ]
        if self.failed:
            return
        with self._connection() as connection, _unless_read_only():
            for start in range(0, len(rows), _ROWS):
                with _transaction(connection):
                    connection.executemany(
                        "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows[start : start + _ROWS]
                    )
                    self._make_room(connection)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        held = (pages - free) * size
        if held > self.limit:
            count = connection.execute("SELECT COUNT(*) FROM embeddings").fetchone()[0]
            gone = int(count * (1 - _KEPT_SHARE * self.limit / held)) + 1
            connection.execute(
                "DELETE FROM embeddings WHERE rowid IN (SELECT rowid FROM embeddings ORDER BY used LIMIT ?)",
                (gone,),
            )

    def _key(self, text: str) -> bytes:
        # Lone surrogates, which a broken file can hold, are text too.
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=32, key=self.encoder
        ).digest()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
            # A power cut may cost the cache, never an answer: no need to wait for the disk.
            connection.execute("PRAGMA synchronous = OFF")
            connection.text_factory = bytes  # what a damaged row holds may be no text
            with _unless_read_only():
                connection.executescript(_SCHEMA)
            yield connection


def text_cache(backbone: Backbone) -> TextCache | None:
    """Return the cache of a backbone's texts, None where `S3CLIP_CACHE` is empty or there is no home."""
    folder = os.environ.get("S3CLIP_CACHE")
    if folder == "":
        return None
    try:
        where = Path.home() / ".cache" / "s3clip" if folder is None else Path(folder)
    except RuntimeError:  # a container whose user is a mere number
        return None
    return TextCache(where / "texts.sqlite", backbone.text_key())


def _checked(key: bytes, vector: bytes) -> bytes:
    """Return a vector with a checksum of it and its key behind."""
    return vector + hashlib.blake2b(vector, digest_size=_CHECKSUM, key=key).digest()


def _is_whole(key: Any, kept: Any, dim: int) -> bool:
    """Whether what was found is a vector of this width with its checksum."""
    if not (isinstance(key, bytes) and isinstance(kept, bytes)) or len(kept) != 4 * dim + _CHECKSUM:
        return False
    return kept == _checked(key, kept[:-_CHECKSUM])


@contextmanager
def _unless_read_only() -> Iterator[None]:
    """Let a file that may be read only be so: a cache that others share."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise


@contextmanager
def never_fatal(cache: TextCache) -> Iterator[None]:
    """Turn what goes wrong with the cache into one warning; it is left alone from then on."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeError) as error:  # the last: words of a damaged file
        cache.failed = True
        warnings.warn(
            f"the cache of text embeddings at {cache.path} is not used: {error}; delete that file, or set "
            f"S3CLIP_CACHE to another folder, or to nothing to do without",
            stacklevel=2,
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE: a reader that turns writer in the middle is refused, and not made to wait, where two do so.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
