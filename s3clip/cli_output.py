"""How the commands print what they found: a table for people, JSON or CSV for programs."""

import csv
import io
import json
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Output = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def print_rows(header: list[str], rows: list[list[Any]], output: Format) -> None:
    """Print a table with its columns aligned, a JSON list of records, or CSV; None is "-" outside of JSON."""
    if output is Format.JSON:
        records = [dict(zip(header, row, strict=True)) for row in rows]
        typer.echo(json.dumps(records, indent=1, ensure_ascii=False))
        return
    rows = [["-" if cell is None else cell for cell in row] for row in rows]
    if output is Format.CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        typer.echo(text.getvalue(), nl=False)
        return
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
