"""Embeddings in files, which are read in blocks. Shards of pictures are in `s3clip.images`.

A shard can be pickled, gives the same rows in the same order every time, and is read once, from one end
to the other: memory does not grow with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s3clip.bulk.arrays import open_array
from s3clip.files.writing import in_utf8
from s3clip.images.sources import BrokenShardError, breaking_off
from s3clip.images.tables import missing_column, open_table

Block = tuple[pa.Array, np.ndarray, dict[int, str]]
"""Keys, (rows, dim) floats, and why some of the rows, by their place in the block, have no embedding."""


@dataclass(frozen=True)
class ArrayShard:
    """Embeddings in an array of shape (rows, dim); a key is the path and the number of the row.

    Attributes:
        name: the path.
        array: which of them, in a .npz or .safetensors; None: the only one.
        dim: how many numbers a row should have; None: any.
    """

    name: str
    array: str | None = None
    dim: int | None = None

    def blocks(self, size: int, start: int = 0) -> Iterator[Block]:
        """Give `size` rows at a time from row `start` on.

        Raises:
            BrokenShardError: the file is no such file, or ends before it should.
        """
        with (
            breaking_off(self.name, "array", start) as reading,
            open_array(self.name, self.array) as array,
        ):
            _check_dim(self.dim, array.dim)
            for rows in array.blocks(size, start):
                yield _numbered(self.name, reading.position, len(rows)), rows, {}
                reading.position += len(rows)


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings in a column of lists. A row without one keeps its text in a column `error`, as ours have.

    Attributes:
        name: the path.
        column: of lists of floats.
        key_column: None: a key is the path and the number of the row.
        dim: how many numbers a row should have; None: any.
    """

    name: str
    column: str = "embedding"
    key_column: str | None = None
    dim: int | None = None

    def blocks(self, size: int, start: int = 0) -> Iterator[Block]:
        """Give `size` rows at a time from row `start` on; zeros where a row has no embedding.

        Raises:
            BrokenShardError: the file is no such file, or ends before it should.
        """
        with breaking_off(self.name, "table", start) as reading, open_table(self.name) as table:
            columns = [self.column, *([] if self.key_column is None else [self.key_column])]
            if (problem := missing_column(table.schema, columns)) is not None:
                raise BrokenShardError(f"{self.name}: {problem}", start)
            has_errors = "error" in table.schema.names
            for batch in table.batches([*columns, *(["error"] if has_errors else [])], size, start):
                if self.key_column is None:
                    keys = _numbered(self.name, reading.position, batch.num_rows)
                else:
                    keys = _as_texts(batch.column(self.key_column))
                said = batch.column("error") if has_errors else None
                rows, errors = _as_rows(batch.column(self.column), said)
                if len(errors) < len(rows):
                    _check_dim(self.dim, rows.shape[1])
                yield keys, rows, errors
                reading.position += batch.num_rows


EmbeddingFile = ArrayShard | EmbeddingTable


def _check_dim(expected: int | None, got: int) -> None:
    if expected not in (None, got):
        raise ValueError(f"expected rows of {expected} numbers, as the head has, got {got}")


def _numbered(path: str, first: int, count: int) -> pa.Array:
    numbers = pa.array(np.arange(first, first + count)).cast(pa.string())
    return pc.binary_join_element_wise(pa.scalar(in_utf8(path)), numbers, "/")


def _as_texts(keys: pa.Array) -> pa.Array:
    if pa.types.is_string(keys.type) and not keys.null_count:
        return keys
    return pa.array([str(key) for key in keys.to_pylist()], pa.string())


def _as_rows(values: Any, said: Any) -> tuple[np.ndarray, dict[int, str]]:
    """Return (rows, dim) floats of a column of lists, and why rows have none."""
    kind = values.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ValueError(f"expected a column of lists of numbers, got {kind}")
    present = np.asarray(values.is_valid())
    flat = values.drop_null().flatten()
    numbers = flat.to_numpy(zero_copy_only=False)
    count = int(present.sum())
    if count and (len(numbers) % count or not np.issubdtype(numbers.dtype, np.floating)):
        raise ValueError(f"expected lists of floats of one length, got {kind}")
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    else:
        dim = len(numbers) // count if count else 0
        lengths = values.drop_null().value_lengths().to_numpy(zero_copy_only=False)
        if (lengths != dim).any():
            raise ValueError(f"expected lists of one length, got {sorted(set(lengths.tolist()))[:4]}")
    rows = np.zeros((len(values), dim), numbers.dtype if count else np.float32)
    rows[present] = numbers.reshape(count, dim)
    texts = [None] * len(values) if said is None else said.to_pylist()
    return rows, {int(i): str(texts[i] or "no embedding in this row") for i in np.flatnonzero(~present)}
