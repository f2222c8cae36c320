"""All rows of a folder of results in another form: CSV, Lance, or parquet by class."""

import csv
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.dataset as ds

from s3clip.bulk.inputs import is_read
from s3clip.bulk.output import Output
from s3clip.files.addresses import is_address
from s3clip.files.writing import written_atomically
from s3clip.images.tables import lance_library
from s3clip.printing import as_in_spreadsheet, printable

Form = Literal["csv", "lance", "hive"]
FORMS: tuple[Form, ...] = ("csv", "lance", "hive")

_LONGEST_NAME = 255
"""Bytes of the name of a folder; what is no plain letter of ASCII takes three for each of its own."""


def check_export(results: str | os.PathLike[str], path: str | os.PathLike[str], form: str) -> Path:
    """Return the path of an export, after what can be found wrong before there are rows.

    Raises:
        ValueError: no such form, an address, a path inside of the results, whose readers would find every row
            twice, or a CSV file that is called as a picture or a table is: it might be an input.
        FileExistsError: of Lance and hive, a folder that is there already.
        ImportError: the extra `lance` is not installed.
    """
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    if is_address(path):
        raise ValueError(f"{form}: expected a path of this machine, got the address {path}")
    if form == "lance":
        lance_library()
    path = Path(path)
    if Output(results).holds(str(path.absolute() if form == "csv" else path.absolute() / "x")):
        raise ValueError(f"{form}: {path} lies in the results, which are to hold parts alone")
    if form == "csv" and is_read(str(path)):
        raise ValueError(f"csv: {path} is called as what is labelled; give another name, such as rows.csv")
    if form != "csv" and os.path.lexists(path):
        raise FileExistsError(f"{form}: {path} is there already; remove it, or give another folder")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{form}: there is no folder {path.absolute().parent}; make it first")
    return path


def export(results: str | os.PathLike[str], path: str | os.PathLike[str], form: Form) -> Path:
    """Write all rows of a folder of results in another form, whole or not at all, and return where.

    Args:
        results: the folder that `label` filled.
        path: where to.
        form: "csv": a file, over one that is there, without the columns of lists; "lance": a dataset of Lance
            (extra `lance`); "hive": parquet, in a folder `label=NAME` for each class, as Hive has it.

    Raises:
        FileNotFoundError: no results there.
        ValueError: of hive, a class whose name, escaped, is too long for a folder; and as for `check_export`.
        OSError, ImportError: as for `check_export`.
    """
    path, output = check_export(results, path, form), Output(results)
    if output.manifest() is None:
        raise FileNotFoundError(f"results: {output.address} holds none")
    folders = [f"label={quote(name, safe='')}" for name in output.class_names()]
    if form == "hive" and len(long := max(folders, key=len)) > _LONGEST_NAME:
        said = f"a folder would have a name of {len(long)} bytes, {printable(unquote(long))[:40]}..."
        raise ValueError(
            f"hive: {said}; systems take {_LONGEST_NAME}, so rename it, or export as CSV or Lance"
        )
    tables = output.tables()
    first = next(tables, None)
    if first is None:
        raise FileNotFoundError(f"results: {output.address} holds no rows")
    batches = chain.from_iterable(table.to_batches() for table in chain([first], tables))
    rows = pa.RecordBatchReader.from_batches(first.schema, batches)
    if form == "csv":
        _write_csv(rows, path)
        return path
    with _appearing(path) as unfinished:
        if form == "lance":
            lance_library().write_dataset(rows, str(unfinished))
        else:
            by_label = ds.partitioning(pa.schema([rows.schema.field("label")]), flavor="hive")
            most = {"max_partitions": len(output.class_names()) + 1}
            ds.write_dataset(rows, unfinished, format="parquet", partitioning=by_label, **most)
    return path


def _write_csv(rows: pa.RecordBatchReader, path: Path) -> None:
    names = [each.name for each in rows.schema if not pa.types.is_nested(each.type)]
    with written_atomically(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for batch in rows:
            columns = [batch.column(name).to_pylist() for name in names]
            writer.writerows([as_in_spreadsheet(cell) for cell in row] for row in zip(*columns, strict=True))
        text.flush()
        text.detach()


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Give a folder that gets its name when it is whole."""
    unfinished = path.absolute().with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
