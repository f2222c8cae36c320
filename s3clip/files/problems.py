"""What pydantic found wrong, in words of ours: the field, what was expected, what came."""

import reprlib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from s3clip.arguments import did_you_mean


def first_problem(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return the first thing that pydantic found wrong, as "field.0.name: why", without its own words.

    Args:
        error: what it raised.
        model: of which; the fields that it has are said where one is not known.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(part if len(part) < 200 else shown(part) for part in map(str, first["loc"]))
    why = problem_in_words(first)
    if model is not None and first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        known = f"expected {', '.join(model.model_fields)}"
        why += f"; {did_you_mean(where, model.model_fields, known)}"
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
    "string_unicode": "a text that UTF-8 can hold",
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
