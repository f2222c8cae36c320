"""What arguments must be: numbers, and the options of a metric or a scale rule; a wrong one is named."""

import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
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
        listed = f"it takes: {', '.join(sorted(options)) or 'none'}"
        known = did_you_mean(unknown[0], options, listed)
        raise ValueError(f"{owner} takes no option {unknown[0]!r}; {known}")
    resolved = {name: plain(given.get(name, option.default)) for name, option in options.items()}
    for name, value in resolved.items():
        if not options[name].valid(value):
            raise ValueError(f"option {name!r} of {owner}: expected {options[name].expected}, got {value!r}")
    return resolved


def refuse_unless_pictures(some: bool, **given: object) -> None:
    """Refuse what says how pictures are encoded, where none is.

    Args:
        some: whether there are pictures to encode.
        given: such arguments, by name.

    Raises:
        ValueError: there are none, and one of the arguments has a value, which would be passed over.
    """
    named = [name for name, value in given.items() if value]
    if named and not some:
        it, they = ("it", "says") if len(named) == 1 else ("them", "say")
        raise ValueError(
            f"{', '.join(named)}: {they} how pictures are encoded, and none is here; leave {it} out"
        )


def did_you_mean(
    given: str, known: Iterable[str], otherwise: str = "", *, written: Mapping[str, str] | None = None
) -> str:
    """Return "did you mean 'a' or 'b'?", to end an error about a name that is not known.

    Letters and digits count, in whatever case: "Food-101" is nearly called food101, and "pets" a part of
    oxford_pets.

    Args:
        given: the name.
        known: those that there are; three of them at most are said.
        otherwise: what is said where none is near.
        written: how names have to be written that are not written as they are called.
    """
    names: dict[str, list[str]] = {}
    for each in known:
        names.setdefault(_plain_name(each), []).append(each)
    wanted = _plain_name(given)
    parts = [key for key in names if len(wanted) >= _SHORTEST_PART and wanted in key]
    found = (*get_close_matches(wanted, names), *parts) if wanted else ()
    near = list(dict.fromkeys(each for key in found for each in names[key]))[:3]
    listed = " or ".join(repr((written or {}).get(each, each)) for each in near)
    return f"did you mean {listed}?" if near else otherwise


_SHORTEST_PART = 2  # letters: one alone is in most names


def _plain_name(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def whole_number(value: object, argument: str, *, least: int = 1) -> int:
    """Return a whole number of any type that is one (numpy's, a tensor's; True is not a number).

    Raises:
        ValueError: another value, or one below `least`.
    """
    if not (is_whole(value) and operator.index(value) >= least):  # type: ignore[arg-type]  # it is one
        raise ValueError(f"{argument}: expected a whole number >= {least}, got {value!r}")
    return operator.index(value)  # type: ignore[arg-type]


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number, by what it says of itself (True is not a number)."""
    value = plain(value)
    try:
        return not isinstance(value, bool) and isinstance(operator.index(value), int)  # type: ignore[arg-type]
    except TypeError:
        return False


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of 1 or more."""
    return is_whole(value) and operator.index(value) >= 1  # type: ignore[arg-type]


def is_number(value: object) -> bool:
    """Whether `value` is a real number, of Python, numpy or torch (True is not a number, nor is NaN)."""
    value = plain(value)
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value


MOST_TEXTS = 50_000
"""Of one class: time grows with their square, to about a minute of one core at 512 dimensions."""


def check_text_count(name: str, count: int) -> None:
    """Raise ValueError where a class has more than `MOST_TEXTS` texts."""
    if count > MOST_TEXTS:
        raise ValueError(
            f"class {name!r}: {count:,} texts, and time grows with their square; give it {MOST_TEXTS:,} at "
            f"most, or raise s3clip.arguments.MOST_TEXTS"
        )


LARGEST_SCALE = 1e12
"""Of what multiplies scores: logits stay finite in float32, also divided by the least temperature."""


def is_scale(value: object) -> bool:
    """Whether `value` can multiply scores: a number above 0 and not over `LARGEST_SCALE`."""
    return is_number(value) and 0 < plain(value) <= LARGEST_SCALE


def plain(value: Any) -> Any:
    """Return a number of numpy or torch as one of Python, which JSON can hold; anything else as it is.

    So is what a numpy scalar, or an array or tensor of no dimensions, holds: True or a text.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)
