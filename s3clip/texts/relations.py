"""What groups and negatives say of classes together, and seldom is meant: rules of `s3clip.texts.check`."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.wording import singular

_SAYS_NO = re.compile(
    r"(?<![\w-])(?:no|not|without|never|lacks|lacking|absent|absence of|free of|\w+n['’]t)(?![\w-])",
    re.IGNORECASE,
)


class Told(NamedTuple):
    """A class, what was found of it, and what is to be said of that."""

    position: int
    text: str
    message: str


def shared_negatives(synonyms: SynonymSet) -> Iterator[Told]:
    """Find negatives of several classes; the name of another class is one that is meant."""
    holders: dict[str, dict[int, str]] = defaultdict(dict)
    for position, each in enumerate(synonyms.classes):
        for text in each.negatives:
            holders[text.casefold()].setdefault(position, text)
    for own in holders.values():
        for position, text in own.items():
            if others := [other for other in own if other != position]:
                first = f"class {others[0]} {synonyms.class_names[others[0]]!r}"
                more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                yield Told(position, text, f"is a negative of {first}{more} too; it takes from all of them")


def own_negatives(synonyms: SynonymSet) -> Iterator[Told]:
    """Find negatives that are a text of the class itself but for the plural."""
    for position, each in enumerate(synonyms.classes):
        own = {singular(text.casefold()): text for text in (*each.prompts, *each.synonyms, each.name)}
        for text in each.negatives:
            if (same := own.get(singular(text.casefold()))) is not None:
                yield Told(position, text, f"is {same!r}, a text of the class itself, but for the plural")


def negations(synonyms: SynonymSet) -> Iterator[Told]:
    """Find negatives that say what is not there, in English."""
    if synonyms.language not in (None, "en"):
        return
    for position, each in enumerate(synonyms.classes):
        for text in each.negatives:
            if found := _SAYS_NO.search(text):
                message = (
                    f"says {found[0]!r}, which CLIP models hardly read: such texts measured useless "
                    "(docs/absence.md); write what is there instead, such as 'an empty sofa'"
                )
                yield Told(position, text, message)


def two_parents(synonyms: SynonymSet) -> Iterator[Told]:
    """Find groups whose classes lie in several groups of the next wider level.

    Levels that cross, where that is so of more than half of the groups, are no tree, and are left alone.
    """
    above: dict[str, dict[str, dict[tuple[str, str], int]]] = defaultdict(lambda: defaultdict(dict))
    for position, each in enumerate(synonyms.classes):
        wider: tuple[str, str] | None = None
        for level, group in each.groups.items():
            parents = above[level][group]
            if wider is not None:
                parents.setdefault(wider, position)
            wider = level, group
    for level, groups in above.items():
        torn = {group: parents for group, parents in groups.items() if len(parents) > 1}
        if 2 * len(torn) > len(groups):
            continue
        for group, parents in torn.items():
            (_, one), (_, other), *_ = parents
            position = list(parents.values())[1]
            message = (
                f"is one group at level {level!r}, below {one!r} and {other!r}; two groups need two names"
            )
            yield Told(position, group, message)


def missing_levels(synonyms: SynonymSet) -> Iterator[Told]:
    """Find classes that lack a level that others have."""
    levels = synonyms.levels
    for position, each in enumerate(synonyms.classes):
        if missing := [level for level in levels if level not in each.groups]:
            listed = ", ".join(map(repr, missing))
            yield Told(position, each.name, f"has no group at {listed}, and is a group of its own there")
