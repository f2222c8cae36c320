"""How a metric and a scale rule declare their options, so that a wrong one is named where it is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One keyword of a metric or a scale rule.

    Attributes:
        default: the value when none is given.
        expected: what a value must be, in words that finish the sentence "expected ...".
        valid: whether a value is allowed.
    """

    default: Any
    expected: str
    valid: Callable[[Any], bool]


def resolve_options(owner: str, options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of `owner` with its value, the defaults filled in.

    Raises:
        ValueError: an unknown option (the known ones are listed) or a value that is not allowed.
    """
    if unknown := sorted(set(given) - set(options)):
        known = ", ".join(sorted(options)) or "none"
        raise ValueError(f"{owner} takes no option {unknown[0]!r}; it takes: {known}")
    resolved = {name: given.get(name, option.default) for name, option in options.items()}
    for name, value in resolved.items():
        if not options[name].valid(value):
            raise ValueError(f"option {name!r} of {owner}: expected {options[name].expected}, got {value!r}")
    return resolved


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of 1 or more (True is not a number)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: object) -> bool:
    """Whether `value` is an int or a float (True is not a number, nor is NaN)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
