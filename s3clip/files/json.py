"""JSON from outside: read within a bound, checked by pydantic models; errors name the file."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from s3clip.files.addresses import regular_file
from s3clip.files.problems import first_problem

LARGEST = 256 << 20
"""Bytes of JSON that are read. Parsed, they take about ten times that."""

Model = TypeVar("Model", bound=BaseModel)


def parse_json(content: bytes | str, name: str) -> Any:
    """Return what a JSON text holds.

    Args:
        content: the text, at most `LARGEST` bytes (characters of a str); bytes are UTF-8.
        name: what an error calls it: the file's path.

    Raises:
        ValueError: no JSON, nested too deeply, too long, or an object that has a key twice.
    """
    if len(content) > LARGEST:
        raise ValueError(f"{name}: {len(content):,} bytes of JSON, more than is read ({LARGEST:,})")
    try:
        return json.loads(content, object_pairs_hook=unique)
    except RepeatedKeyError as error:
        raise ValueError(f"{name}: {error}") from None
    except RecursionError:
        raise ValueError(f"{name}: not JSON that is read (nested too deeply)") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{name}: not JSON ({error}{_advice(error)})") from error


def _advice(error: ValueError) -> str:
    """Say what is right, where people write what other languages allow."""
    rest = error.doc[error.pos :].lstrip() if isinstance(error, json.JSONDecodeError) else ""
    if rest.startswith(("//", "/*", "#")):
        return "; JSON has no comments"
    if rest.startswith("'"):
        return "; JSON has double quotes"
    return "; JSON has no comma before ] or }" if rest.lstrip(", \n\t\r")[:1] in ("]", "}") else ""


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON file holds. For the errors see `parse_json`; and OSError."""
    path = Path(path)
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path}: {size:,} bytes of JSON, more than is read ({LARGEST:,})")
    try:
        with regular_file(path).open("rb") as file:  # else a pipe would be waited for
            content = file.read(LARGEST + 1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path}: more bytes of JSON than is read ({LARGEST:,})")
    return parse_json(content, str(path))


def checked(content: Any, model: type[Model], name: str, *, strict: bool | None = None) -> Model:
    """Return parsed JSON as a pydantic model.

    Args:
        content: parsed.
        model: that it has to fit.
        name: what an error calls it.
        strict: whether true and "1" are no numbers; None: as the model says.

    Raises:
        ValueError: it does not fit; the first field that does not is named, in one line.
    """
    try:
        return model.model_validate(content, strict=strict)
    except ValidationError as error:
        raise ValueError(f"{name}: {first_problem(error, model)}") from error


class RepeatedKeyError(ValueError):
    """Plain parsing would keep the last of two values, silently."""


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return these pairs as a record; RepeatedKeyError names a key that is given twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        within = f" in the record of class {record['name']!r}" if "name" in record else ""
        raise RepeatedKeyError(f"the key {twice!r} is given twice{within}")
    return record
