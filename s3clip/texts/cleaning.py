"""Take out of a synonym set what the check finds wrong with single texts, and put it back on request.

The rules are those of `s3clip.texts.check`. They read texts, not meanings: a hypernym whose form says
nothing stays, and a right name goes where two classes were given it. So every removal is listed, and can be
undone.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from s3clip.files.json import checked, read_json
from s3clip.files.writing import write_atomically
from s3clip.texts.check import Entry, Reference, findings_of
from s3clip.texts.formats import KINDS, TextKind
from s3clip.texts.synonyms import SynonymClass, SynonymSet
from s3clip.texts.wording import known_scripts, without_markup

Rule = Literal[
    "markup",
    "chatter",
    "language",
    "repeated",
    "too_long",
    "other_name",
    "hypernym",
    "shared_text",
    "nearly_shared",
]

REMOVING: tuple[Rule, ...] = get_args(Rule)
"""In this order: a text is listed under the first rule that it breaks. `markup` mends."""


class Removal(BaseModel):
    """One text that was taken out or mended.

    Attributes:
        class_index: the class's position.
        class_name: its name.
        field: the list that the text stood in.
        place: its index there, before anything was removed.
        text: as it was.
        rule: of `REMOVING`.
        message: what is wrong with it.
        instead: what it was mended to; None where it was taken out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    class_index: int
    class_name: str
    field: TextKind
    place: Annotated[int, Field(ge=0)]
    text: Annotated[str, StringConstraints(pattern=r"\S")]
    rule: Rule
    message: str
    instead: str | None = None


class _Removals(BaseModel):
    removals: list[Removal]


def clean_synonyms(
    synonyms: SynonymSet,
    *,
    rules: Sequence[str] = REMOVING,
    scripts: Iterable[str] = (),
) -> tuple[SynonymSet, list[Removal]]:
    """Return the set without the texts that the rules find, and what was removed.

    A text that two classes share goes from both: no rule knows whose it is. Names stay as they are, and so
    do the number and the order of the classes. Cleaning a clean set changes nothing.

    Args:
        synonyms: the set.
        rules: some of `REMOVING`; their order is that of `REMOVING`.
        scripts: the writing systems wanted ("latin"), as `Reference.scripts`; empty: those of the names.

    Returns:
        The cleaned set, and the removals by class; a text that was mended and then removed is listed twice.

    Raises:
        ValueError: for a rule that is not of `REMOVING`, or an unknown writing system.
    """
    if unknown := sorted(set(rules) - set(REMOVING)):
        raise ValueError(f"rules: {', '.join(unknown)} not known; known are {', '.join(REMOVING)}")
    wanted = frozenset(each.upper() for each in scripts)
    if wanted and (unknown := sorted(wanted - known_scripts())):
        raise ValueError(
            f"scripts: {unknown[0].lower()!r} is not known to Unicode, as latin, cyrillic or cjk are"
        )
    reference = Reference(scripts=wanted)
    texts = _Texts(synonyms)
    removals: list[Removal] = []
    for rule in REMOVING:
        if rule not in rules:
            continue
        found = {each.entry: each for each in findings_of(rule, texts.as_set(), reference) if each.entry}
        # From behind, so that what is taken out moves nothing that is still to come.
        for entry in sorted(found, key=lambda entry: (entry.position, entry.field, -entry.place)):
            if entry.field == "name":
                continue
            mended = None
            if rule == "markup":
                mended = without_markup(entry.text, sentence=entry.field == "prompts") or None
            removals.append(
                Removal(
                    class_index=entry.position,
                    class_name=synonyms.classes[entry.position].name,
                    field=entry.field,
                    place=texts.replace(entry, mended),
                    text=entry.text,
                    rule=rule,
                    message=found[entry].message,
                    instead=mended,
                )
            )
    return texts.as_set(), sorted(removals, key=_order)


def restore_synonyms(synonyms: SynonymSet, removals: Iterable[Removal]) -> SynonymSet:
    """Put removed texts back.

    All removals of `clean_synonyms` give the set that was cleaned. Of some of them, each stands as near to
    its old place as the others allow; the order of a class's texts changes no space.

    Args:
        synonyms: a cleaned set, or that set edited since.
        removals: those to undo, of the same classes.

    Raises:
        ValueError: if a removal names a class that is not at its position in the set, or was mended to a text
            that is not there.
    """
    classes = list(synonyms.classes)
    # The last change of a text is undone first; then from the front, so that places are those of old.
    undone = sorted(removals, key=lambda each: (-REMOVING.index(each.rule), each.place))
    mended = [each for each in undone if each.instead is not None]
    taken = sorted((each for each in undone if each.instead is None), key=lambda each: each.place)
    for each in [*taken, *mended]:
        at, own = each.class_index, None
        if 0 <= at < len(classes):
            own = classes[at]
        if own is None or own.name != each.class_name:
            raise ValueError(
                f"removals: class {at} is {None if own is None else own.name!r} in the set, but "
                f"{each.class_name!r} in the list of removals; is it the list of another file?"
            )
        texts = list(getattr(own, each.field))
        if each.instead is None:
            texts.insert(each.place, each.text)
        elif each.instead in texts:
            here = each.place if texts[each.place : each.place + 1] == [each.instead] else None
            texts[texts.index(each.instead) if here is None else here] = each.text
        else:
            raise ValueError(
                f"removals: class {at} ({own.name!r}) has no {each.field} text {each.instead!r}, to which "
                f"{each.text!r} was mended; put back what was done to it later, too"
            )
        classes[at] = own.model_copy(update={each.field: tuple(texts)})
    return synonyms.model_copy(update={"classes": tuple(classes)})


def write_removals(path: str | os.PathLike[str], removals: Sequence[Removal]) -> None:
    """Write removals as a JSON list, one a line; lines that are deleted are not put back."""
    lines = ",\n".join(each.model_dump_json() for each in removals)
    write_atomically(Path(os.path.realpath(path)), f"[\n{lines}\n]\n".encode())


def read_removals(path: str | os.PathLike[str]) -> list[Removal]:
    """Read what `write_removals` wrote.

    Raises:
        ValueError: if the file is no such list.
    """
    return checked({"removals": read_json(path)}, _Removals, os.fspath(path)).removals


def _order(removal: Removal) -> tuple[int, int, int, int]:
    return removal.class_index, KINDS.index(removal.field), removal.place, REMOVING.index(removal.rule)


class _Texts:
    """The texts of a set, each with the place that it had at first."""

    def __init__(self, synonyms: SynonymSet) -> None:
        self.synonyms = synonyms
        self.lists: list[dict[str, list[tuple[int, str]]]] = [
            {name: list(enumerate(getattr(each, name))) for name in KINDS} for each in synonyms.classes
        ]

    def replace(self, entry: Entry, text: str | None) -> int:
        """Put another text there, or none; return the place of old."""
        texts = self.lists[entry.position][entry.field]
        place, _ = texts[entry.place]
        texts[entry.place : entry.place + 1] = [] if text is None else [(place, text)]
        return place

    def as_set(self) -> SynonymSet:
        classes: list[SynonymClass] = [
            each.model_copy(update={name: tuple(text for _, text in own[name]) for name in own})
            for each, own in zip(self.synonyms.classes, self.lists, strict=True)
        ]
        return self.synonyms.model_copy(update={"classes": tuple(classes)})
