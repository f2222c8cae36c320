"""JSON from outside: read within a bound, checked by pydantic models; errors name the file."""

import json
import os
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from s3clip.files.addresses import regular_file

LARGEST = 256 << 20
"""Bytes of JSON that are read. Parsed, they take about ten times that."""

Model = TypeVar("Model", bound=BaseModel)


def parse_json(content: bytes | str, name: str, *, largest: int = LARGEST) -> Any:
    """Return what a JSON text holds.

    Args:
        content: the text; bytes are UTF-8.
        name: what an error calls it: the file's path.
        largest: bytes (characters of a str) that are parsed at most.

    Raises:
        ValueError: no JSON, nested too deeply, too long, or an object that has a key twice.
    """
    if len(content) > largest:
        raise ValueError(f"{name}: {len(content):,} bytes of JSON, more than is read ({largest:,})")
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


def read_json(path: str | os.PathLike[str], *, largest: int = LARGEST) -> Any:
    """Return what a JSON file holds. For the errors see `parse_json`; and OSError."""
    path = Path(path)
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path}: {size:,} bytes of JSON, more than is read ({largest:,})")
    try:
        with regular_file(path).open("rb") as file:  # else a pipe would be waited for
            content = file.read(largest + 1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(content) > largest:
        raise ValueError(f"{path}: more bytes of JSON than is read ({largest:,})")
    return parse_json(content, str(path), largest=largest)


def checked(content: Any, model: type[Model], name: str) -> Model:
    """Return parsed JSON as a pydantic model.

    Raises:
        ValueError: it does not fit; the first field that does not is named, in one line.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        unknown = error.errors(include_url=False)[0]
        advice = ""
        if unknown["type"] == "extra_forbidden" and len(unknown["loc"]) == 1:
            advice = f"; expected {', '.join(model.model_fields)}"
        raise ValueError(f"{name}: {first_problem(error)}{advice}") from error


def first_problem(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong, as "field.0.name: why", without its own words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    why = problem_in_words(first)
    return f"{where}: {why}" if where else why


def problem_in_words(problem: ErrorDetails) -> str:
    """Return what was expected and what came, to follow the name of a field."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in ("missing", "extra_forbidden"):
        return "is missing" if kind == "missing" else "is not known"
    if kind == "literal_error":
        expected = f"one of {context['expected']}"
    elif (bound := _BOUNDS.get(kind)) is not None:
        expected = bound.format(**context)
    else:
        expected = next((words for begin, words in _EXPECTED.items() if kind.startswith(begin)), "")
    if not expected:
        return f"is not what it has to be ({problem['msg']}): {shown(problem['input'])}"
    return f"must be {expected}, not {shown(problem['input'])}"


def shown(value: Any) -> str:
    """Return what came, for an error that says what was expected."""
    return "nothing" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"


_EXPECTED = {
    "string_type": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a record",
    "mapping": "a record",
    "model": "a record",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "none_required": "null",
}
"""What the types of pydantic's errors begin with, and what was expected there."""

_BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or less",
    "string_too_short": "a text of {min_length} characters or more",
    "string_too_long": "a text of {max_length} characters or less",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "union_tag_not_found": "a record with {discriminator}",
    "union_tag_invalid": "a record whose {discriminator} is one of {expected_tags}",
}


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
