"""What is answered: which classes, or which groups of them, and in which language."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import did_you_mean, is_whole, plain
from s3clip.class_space import FittedClass
from s3clip.prediction.class_labels import class_positions
from s3clip.texts.groups import group_owners, levels_of, problem_of_language
from s3clip.texts.labels import alike, composed

_Readings = dict[str, dict[str, set[int]]]
"""By name what it may stand for, in words, and the positions of the classes that are meant."""


@dataclass(frozen=True)
class Scope:
    """What is answered.

    Attributes:
        classes: (n,) int64 ascending, the positions of the classes among which is answered; None: all.
        labels: what each class of the head is called, or each group where groups are the answers.
        owners: (classes,) int64, the group of each class of the head; None where classes are the answers.
        shared: of each group, the groups that all of its classes are in, by level.
    """

    classes: Tensor | None
    labels: list[str]
    owners: Tensor | None = None
    shared: tuple[Mapping[str, str], ...] = ()

    @property
    def answers(self) -> list[int]:
        """Positions among `labels` of what may be answered, ascending."""
        if self.owners is None:
            return list(range(len(self.labels))) if self.classes is None else self.classes.tolist()
        owners = self.owners if self.classes is None else self.owners[self.classes]
        return sorted(set(owners.tolist()))

    def taken(self, classes: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of some classes, (c,), and of their (images, c) logits, among which is answered."""
        if self.classes is None:
            return classes, logits
        inside = torch.isin(classes, self.classes.to(classes.device))
        return classes[inside], logits[:, inside]


def scope_of(
    classes: Sequence[FittedClass], level: str | None = None, among: Any = None, language: str | None = None
) -> Scope:
    """Return what is answered, with a warning for each thing that is to be said of it: see `read_scope`."""
    scope, notes = read_scope(classes, level, among, language)
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return scope


def read_scope(
    classes: Sequence[FittedClass], level: str | None = None, among: Any = None, language: str | None = None
) -> tuple[Scope, list[str]]:
    """Return what is answered, and what is to be said of it.

    Args:
        classes: of a head.
        level: of the groups that are the answers; None: the classes are.
        among: the classes and groups among which is answered: one or several of the id of a class, a name of
            a class or a group, the position of a class, {level: group} or "level=group"; None: all.
        language: in which a class is called, where it has a name in it.

    Returns:
        The scope, and sentences: that some classes have no name in the language, and are called what they
        are; that groups have no names in languages; that a class without a group is called as a group is.

    Raises:
        ValueError: an unknown level or group, a name of several, none to answer among, or a code that is not
            one of a language.
        TypeError: something else than these.
    """
    chosen = None if among is None else torch.tensor(_among(classes, among), device="cpu")
    names = [each.name for each in classes]
    notes: list[str] = []
    if language is not None:
        names, notes = names_in(classes, language)
    if level is None:
        return Scope(chosen, names), notes
    owners, labels = group_owners(classes, level)
    if language is not None:
        notes = ["language: groups have one name each, which is given"]
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        notes.append(
            f"level: a class without a group at {level!r} is called {twice[0]!r}, as a group or another such "
            f"class is, and is another answer; give it its group, or another name"
        )
    members: list[list[Mapping[str, str]]] = [[] for _ in labels]
    for own, each in zip(owners, classes, strict=True):
        members[own].append(each.groups)
    shared = tuple(dict(_shared(own)) for own in members)
    return Scope(chosen, labels, torch.tensor(owners, device="cpu"), shared), notes


def names_in(classes: Sequence[FittedClass], language: str) -> tuple[list[str], list[str]]:
    """Return what each class is called in a language, else its own name, and what is to be said of those.

    Raises:
        ValueError: a code that is not one of a language.
    """
    if problem := problem_of_language(language) if isinstance(language, str) else "is no text":
        raise ValueError(f"language: {language!r} {problem}")
    notes = []
    if without := sum(language not in each.names for each in classes):
        known = sorted({code for each in classes for code in each.names})
        notes.append(
            f"language: {without} of {len(classes)} classes have no name in {language!r} and are called what "
            f"they are; there are names in {', '.join(known) or 'no language'}"
        )
    return [each.names.get(language, each.name) for each in classes], notes


def _shared(members: Sequence[Mapping[str, str]]) -> Iterable[tuple[str, str]]:
    """Return the groups that all members are in."""
    first, *others = members
    return ((level, name) for level, name in first.items() if all(o.get(level) == name for o in others))


def _among(classes: Sequence[FittedClass], among: Any) -> list[int]:
    """Return the positions of the classes that are named, ascending."""
    among = plain(among)
    if isinstance(among, Tensor):
        among = among.tolist()
    single = isinstance(among, str | bytes | Mapping) or not isinstance(among, Iterable)
    listed = [plain(which) for which in ([among] if single else among)]
    numbers = [which for which in listed if not isinstance(which, str | Mapping)]
    found = set(class_positions(numbers, [each.name for each in classes], [None] * len(classes), "among"))
    readings = _readings(classes) if len(numbers) < len(listed) else {}
    in_other_forms = cache(partial(_in_other_forms, readings))  # for all names at once, where one needs it
    for which in listed:
        if isinstance(which, Mapping):
            found |= _in_all(classes, which)
        elif isinstance(which, str):
            found |= _called(classes, which, readings, in_other_forms)
    if not found:
        raise ValueError("among: expected classes or groups, got none")
    return sorted(position for position in found if position is not None)


def _in_all(classes: Sequence[FittedClass], groups: Mapping[str, str]) -> set[int]:
    """Return the positions of the classes that are in some groups at once."""
    groups = {_form(str(level) if is_whole(level) else level): _form(own) for level, own in groups.items()}
    if found := {i for i, each in enumerate(classes) if groups and groups.items() <= each.groups.items()}:
        return found
    raise ValueError(f"among: no class is in {dict(groups)!r}; {_known(classes, '')}")


def _form(text: Any) -> Any:
    return composed(text) if isinstance(text, str) else text


def _readings(classes: Sequence[FittedClass]) -> _Readings:
    """Return what each name may stand for: the positions of the classes that are meant, in words."""
    found: _Readings = {}
    for i, each in enumerate(classes):
        found.setdefault(composed(each.name), {})[f"class {i}"] = {i}
        for level, group in each.groups.items():
            found.setdefault(composed(group), {}).setdefault(f"{{{level!r}: {group!r}}}", set()).add(i)
    by_id: _Readings = {}
    for i, each in enumerate(classes):
        if each.id is not None:
            by_id.setdefault(composed(str(each.id)), {})[f"class {i}"] = {i}
    return found | by_id  # ids come first, as in labels


def _called(
    classes: Sequence[FittedClass], which: str, readings: _Readings, in_other_forms: Callable[[], _Readings]
) -> set[int]:
    """Return the positions of the classes that a name or id stands for."""
    found = readings.get(composed(which)) or in_other_forms().get(alike(which))
    level, mark, group = which.partition("=")
    if not found and mark:
        return _in_all(classes, {level: group})
    if not found:
        raise ValueError(f"among: no class or group is called {which!r}; {_known(classes, which)}")
    if len(set(map(frozenset, found.values()))) > 1:
        raise ValueError(
            f"among: {which!r} may be {' or '.join(found)}; give the position of a class, or the "
            f"group with its level"
        )
    return next(iter(found.values()))


def _in_other_forms(readings: _Readings) -> _Readings:
    """Return what names may stand for in whatever way they are written, by what is `alike` in all of them."""
    found: _Readings = {}
    for name, meant in readings.items():
        found.setdefault(alike(name), {}).update(meant)
    return found


def _known(classes: Sequence[FittedClass], which: str) -> str:
    names = list(dict.fromkeys([n for each in classes for n in (each.name, *each.groups.values())]))
    levels = levels_of(each.groups for each in classes)
    groups = f"groups at {', '.join(map(repr, levels))}" if levels else "no groups"
    there = f"there are {len(classes)} classes, such as {classes[0].name!r}, and {groups}"
    return did_you_mean(which, names, there)
