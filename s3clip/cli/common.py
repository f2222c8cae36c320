"""What commands have in common: options, and how they print what they found."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from s3clip.printing import Table, say

HeadSource = Annotated[
    str,
    typer.Option("--head", help="Folder that `s3clip fit` wrote, or a class space on the Hub: user/name."),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the class space, where it is on the Hub.")
]


def _known_device(name: str | None) -> str | None:
    if name is not None:
        import torch

        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return name


Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.", callback=_known_device)
]
BatchSize = Annotated[int, typer.Option(help="How many texts or images go through the model at once.")]
Views = Annotated[int, typer.Option(help="How many views of an image to adapt to.")]


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Output = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def print_rows(header: list[str], rows: list[list[Any]], output: Format) -> None:
    """Print a table with its columns aligned, a JSON list of records, or CSV; None is "-" outside of JSON."""
    table = Table(header, rows)
    if output is Format.JSON:
        say(json.dumps(table.records(), indent=1, ensure_ascii=False))
    else:
        say(table.csv().removesuffix("\n") if output is Format.CSV else str(table))


def json_option(option: str, given: str) -> Any:
    """Read what an option gives: JSON, or the name of a file of it."""
    path = Path(given)
    text = given if given.lstrip().startswith("{") else path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"--{option}: not JSON ({error})") from error


def make_folder(option: str, folder: Path) -> None:
    """Make a folder to write into, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of its kind, but it names no option
        raise OSError(f"--{option}: {folder} cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--{option}: {folder} is not to be written to; choose another folder")
