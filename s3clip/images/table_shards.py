"""Tables of pictures. Opening tables of any kind is in `s3clip.images.tables`, wherever they lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from s3clip.files.addresses import is_address
from s3clip.files.json import parse_json
from s3clip.files.reach import Named, Reach
from s3clip.images.sources import BrokenShardError, Sample, breaking_off
from s3clip.images.tables import missing_column, open_table

_ROWS = 64  # of a table at a time


@dataclass(frozen=True)
class TableShard:
    """A parquet or Arrow file, as Hugging Face `datasets` writes it: `pip install 's3clip[parquet]'`.

    Attributes:
        name: of the shard.
        path: where it is.
        image_column: of the encoded pictures: bytes, paths from the folder of the table, addresses, or
            records of `bytes` and `path`.
        label_column: of numbers or strings.
        key_column: of keys; None: a key is the name of the shard, `mark` and the number of the row.
        mark: see there.
        allowed: what paths and addresses in the cells may lead to beside the folder of the table; see
            `s3clip.files.reach`.
    """

    name: str
    path: Path | str
    image_column: str = "image"
    label_column: str | None = "label"
    key_column: str | None = None
    mark: str = "#"
    allowed: tuple[str, ...] = ()

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
        described: Any = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), self.name)
        for key in ("info", "features", self.label_column, "names"):
            described = described.get(key) if isinstance(described, dict) else None
        is_names = isinstance(described, list) and all(isinstance(name, str) for name in described)
        return described if is_names else None

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
        return Sample(key, label, Named(image, self._reach) if isinstance(image, str) else image or b"")

    @cached_property
    def _reach(self) -> Reach:
        folder = str(self.path).rpartition("/")[0] if is_address(self.path) else str(Path(self.path).parent)
        return Reach(folder, self.allowed)


_ENCODED = {
    f"{size}{kind}{view}"
    for kind in ("binary", "string")
    for size, view in (("", ""), ("large_", ""), ("", "_view"))
} | {"null"}
"""Types of columns that hold encoded pictures, or their paths."""
