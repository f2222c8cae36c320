"""Class names as a benchmark's files have them, matched with the classes of a synonym file."""

import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from s3clip.printing import counted
from s3clip.texts.labels import NameIndex, composed
from s3clip.texts.synonyms import SynonymClass, SynonymSet

SAME_ORDER = 0.9
"""Share of the names that have to be those of the synonym file, place by place, for the order to be taken as
the same, and a name that the file does not have as another one for the class in its place."""


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in alphabetical order, without case and signs.

    Conventions write the same words in other orders: "2012 Acura RL Sedan", "indoor_church", "church/indoor".
    """
    plain = composed(name).casefold().replace("'", "").replace("_", " ")
    return tuple(sorted(re.findall(r"\w+", plain)))


def match_classes(
    names: Sequence[str], synonyms: SynonymSet, aliases: Mapping[str, str]
) -> tuple[SynonymSet, list[str]]:
    """Return the classes with these names, in this order, each with the words that the file has for it.

    The name of the convention comes first, since its plain prompt is what others report; the file's own is a
    synonym where it is another text. A class that the file does not have has its name alone.

    Args:
        names: one per class.
        synonyms: the file, in its own order.
        aliases: what the file calls a name; the others are compared by their words.

    Returns:
        The classes, and what is to be said about them.
    """
    known = {words_of(alias): name for alias, name in aliases.items()}
    theirs = [words_of(known.get(words_of(name), name)) for name in names]
    ours = [words_of(each.name) for each in synonyms.classes]
    left: dict[tuple[str, ...], deque[int]] = defaultdict(
        deque
    )  # of classes of ours with the same words, in order
    for position, words in enumerate(ours):
        left[words].append(position)
    found: list[int | None] = [left[words].popleft() if left[words] else None for words in theirs]
    problems = []
    agree = sum(position == place for place, position in enumerate(found))
    if len(theirs) == len(ours) and agree >= SAME_ORDER * len(ours):
        for place in set(range(len(ours))).difference(found):
            if found[place] is None:
                found[place] = place
                name, own = names[place], synonyms.classes[place].name
                problems.append(
                    f"class {place}: {name!r} there, {own!r} in the synonym file: taken as the same"
                )
    if alone := [name for name, position in zip(names, found, strict=True) if position is None]:
        problems.append(
            f"the synonym file has no words for {counted(len(alone), 'class')}: {', '.join(alone)}"
        )
    classes = tuple(
        SynonymClass(name=name) if position is None else _renamed(synonyms.classes[position], name)
        for name, position in zip(names, found, strict=True)
    )
    return synonyms.model_copy(update={"classes": classes}), problems


def _renamed(each: SynonymClass, name: str) -> SynonymClass:
    others = [text for text in (each.name, *each.synonyms) if text.casefold() != name.casefold()]
    return each.model_copy(update={"name": name, "synonyms": tuple(others)})


def class_lookup(synonyms: SynonymSet, aliases: Mapping[str, str]) -> NameIndex:
    """Return which class a label means, by its id, its name or its alias; `position_of` reads it.

    Args:
        synonyms: the classes.
        aliases: what the file calls a name.
    """
    ids = [(str(each.id), i) for i, each in enumerate(synonyms.classes) if each.id is not None]
    names = [(each.name, i) for i, each in enumerate(synonyms.classes)]
    own = NameIndex(ids, names)
    meant = [(alias, own.find(name)) for alias, name in aliases.items()]
    return NameIndex(ids, names, [(alias, found[0]) for alias, found in meant if len(found) == 1])


def position_of(label: int | str | None, lookup: NameIndex) -> int | None:
    """Return the class that a label says: a number is its position, a text means one class or none."""
    if not isinstance(label, str):
        return None if isinstance(label, bool) else label
    found = lookup.find(label)
    return found[0] if len(found) == 1 else None
