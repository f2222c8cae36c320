"""What commands have in common: options, and how they print what they found."""

import json
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.printing import Table, say

if TYPE_CHECKING:
    from s3clip.config import HeadConfig

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
AllowAddresses = Annotated[
    list[str] | None,
    typer.Option(
        help="Where the paths and addresses that stand in a table may lead, beside its own folder: https, "
        "s3, file (all of this machine), or what they begin with, as file:///data/; several times for more."
    ),
]
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


def head_config(given: str) -> "HeadConfig":
    """Read what --config gives: settings as JSON, or the name of a file of them."""
    from s3clip.config import HeadConfig
    from s3clip.files.json import checked, parse_json, read_json

    if given.lstrip().startswith("{"):
        return checked(parse_json(given, "--config"), HeadConfig, "--config")
    if not Path(given).is_file():
        raise FileNotFoundError(
            f"--config: {given}: no such file; expected JSON, or the name of a file of it"
        )
    return checked(read_json(given), HeadConfig, f"--config {given}")


def keep_inputs(inputs: Iterable[Path], written: Mapping[str, Iterable[Path]]) -> None:
    """Refuse to write over what is read, or two results into one file.

    Args:
        inputs: the files that are read.
        written: by option, the files that it would write.
    """
    read = {os.path.realpath(file) for file in inputs}  # unlike `resolve`, also of a link to itself
    seen: dict[str, str] = {}
    for option, files in written.items():
        for place in map(os.path.realpath, files):
            if place in read:
                raise ValueError(f"{option}: {place} is read, and would be lost; give another place")
            if place in seen:
                raise ValueError(f"{seen[place]}, {option}: both would write {place}; give two places")
            seen[place] = option


def make_folder(option: str, folder: Path) -> None:
    """Make a folder to write into, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of its kind, but it names no option
        raise OSError(f"--{option}: {folder} cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--{option}: {folder} is not to be written to; choose another folder")
