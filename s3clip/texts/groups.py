"""Groups of classes, such as the families of animals, and names by language: what a file may say of both.

A class has one group at each of some levels, from the widest to the narrowest: `{"kingdom": "animal",
"family": "dog"}`. Classes are in one group where level and name are the same. A class that lacks a level
stands there for itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from s3clip.arguments import is_whole
from s3clip.texts.labels import composed


class Grouped(Protocol):
    """What is known of a class here."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def groups(self) -> Mapping[str, str]:
        """Its group at each of its levels."""


_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def levels_of(groups: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Return the levels of some classes, each once, the wider before the narrower.

    Args:
        groups: of each class the group at each of its levels, the widest first.

    Raises:
        ValueError: of two levels one class has the first above, another the second.
    """
    above: dict[str, dict[str, None]] = {}
    for own in groups:
        before: str | None = None
        for level in own:
            above.setdefault(level, {})
            if before is not None:
                above[level][before] = None
            before = level
    try:
        return tuple(TopologicalSorter(above).static_order())
    except CycleError as error:
        circle = " above ".join(map(repr, error.args[1]))
        raise ValueError(
            f"groups: the levels run in a circle, {circle}; every class lists the wider level first"
        ) from None


def checked_level(level: str | int) -> str:
    """Return the name of a level, which may be a number where levels have no names. Raises TypeError."""
    level = str(level) if is_whole(level) else level
    if not isinstance(level, str):
        raise TypeError(f"level: expected the name of a level, got {type(level).__name__}: {level!r}")
    return composed(level)


def group_owners(classes: Sequence[Grouped], level: str | int) -> tuple[list[int], list[str]]:
    """Return the group of each class at a level, and the names of the groups, in the order of their classes.

    A class that has none at this level is a group of its own, of its own name.

    Raises:
        ValueError: no class has a group at this level.
        TypeError: no text.
    """
    level = checked_level(level)
    known = levels_of(each.groups for each in classes)
    if level not in known:
        listed = f"there are {', '.join(map(repr, known))}" if known else "no class is in a group"
        raise ValueError(f"level: no class has a group at {level!r}; {listed}")
    group_of: dict[tuple[bool, str | int], int] = {}
    labels: list[str] = []
    owners = []
    for position, each in enumerate(classes):
        key = (True, each.groups[level]) if level in each.groups else (False, position)
        if key not in group_of:
            group_of[key] = len(labels)
            labels.append(each.groups.get(level, each.name))
        owners.append(group_of[key])
    return owners, labels


def problem_of_language(code: str) -> str:
    """Return what is wrong with the code of a language, to follow what it is called; "" if nothing."""
    if _LANGUAGE.fullmatch(code):
        return ""
    return "is no code of a language, such as de, zh or pt-BR"
