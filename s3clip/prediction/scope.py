"""What is answered: which classes, or which groups of them, and in which language."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import did_you_mean, is_whole, plain
from s3clip.class_space import FittedClass
from s3clip.prediction.class_labels import class_positions
from s3clip.texts.groups import group_owners, levels_of, problem_of_language


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
    """Return what is answered.

    Args:
        classes: of a head.
        level: of the groups that are the answers; None: the classes are.
        among: the classes and groups among which is answered: one or several of the id of a class, a name of
            a class or a group, the position of a class, or {level: group}; None: all.
        language: in which a class is called, where it has a name in it.

    Warns:
        UserWarning: where some classes have no name in the language; those are called what they are.

    Raises:
        ValueError: an unknown level or group, a name of several, none to answer among, or a code that is not
            one of a language.
        TypeError: something else than these.
    """
    chosen = None if among is None else torch.tensor(_among(classes, among))
    names = [each.name for each in classes] if language is None else names_in(classes, language)
    if level is None:
        return Scope(chosen, names)
    owners, labels = group_owners(classes, level)
    if language is not None:
        warnings.warn("language: groups have one name each, which is given", stacklevel=3)
    members: list[list[Mapping[str, str]]] = [[] for _ in labels]
    for own, each in zip(owners, classes, strict=True):
        members[own].append(each.groups)
    shared = tuple(dict(_shared(own)) for own in members)
    return Scope(chosen, labels, torch.tensor(owners), shared)


def names_in(classes: Sequence[FittedClass], language: str) -> list[str]:
    """Return what each class is called in a language: its own name where it has none in that.

    Warns:
        UserWarning: where some have none.

    Raises:
        ValueError: a code that is not one of a language.
    """
    if not isinstance(language, str) or (problem := problem_of_language(language)):
        problem = "is no text" if not isinstance(language, str) else problem
        raise ValueError(f"language: {language!r} {problem}")
    without = sum(language not in each.names for each in classes)
    if without:
        known = sorted({code for each in classes for code in each.names})
        warnings.warn(
            f"language: {without} of {len(classes)} classes have no name in {language!r} and are called what "
            f"they are; there are names in {', '.join(known) or 'no language'}",
            stacklevel=4,
        )
    return [each.names.get(language, each.name) for each in classes]


def _shared(members: Sequence[Mapping[str, str]]) -> Iterable[tuple[str, str]]:
    """Return the groups that all members are in."""
    first, *others = members
    return ((level, name) for level, name in first.items() if all(o.get(level) == name for o in others))


def _among(classes: Sequence[FittedClass], among: Any) -> list[int]:
    """Return the positions of the classes that are named, ascending."""
    among = plain(among)
    if isinstance(among, Tensor):
        among = among.tolist()
    single = isinstance(among, str | Mapping) or not isinstance(among, Iterable)
    listed = [plain(which) for which in ([among] if single else among)]
    numbers = [which for which in listed if not isinstance(which, str | Mapping)]
    try:
        found = set(class_positions(numbers, [each.name for each in classes], [None] * len(classes)))
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("labels:", "among:")) from None
    readings = _readings(classes) if len(numbers) < len(listed) else {}
    for which in listed:
        if isinstance(which, Mapping):
            found |= _in_all(classes, which)
        elif isinstance(which, str):
            found |= _called(classes, which, readings)
    if not found:
        raise ValueError("among: expected classes or groups, got none")
    return sorted(position for position in found if position is not None)


def _in_all(classes: Sequence[FittedClass], groups: Mapping[str, str]) -> set[int]:
    """Return the positions of the classes that are in some groups at once."""
    groups = {str(level) if is_whole(level) else level: group for level, group in groups.items()}
    if found := {i for i, each in enumerate(classes) if groups and groups.items() <= each.groups.items()}:
        return found
    raise ValueError(f"among: no class is in {dict(groups)!r}; {_known(classes, '')}")


def _readings(classes: Sequence[FittedClass]) -> dict[str, dict[str, set[int]]]:
    """Return what each name may stand for: the positions of the classes that are meant, in words."""
    found: dict[str, dict[str, set[int]]] = {}
    for i, each in enumerate(classes):
        found.setdefault(each.name, {})[f"class {i}"] = {i}
        for level, group in each.groups.items():
            found.setdefault(group, {}).setdefault(f"{{{level!r}: {group!r}}}", set()).add(i)
    by_id: dict[str, dict[str, set[int]]] = {}
    for i, each in enumerate(classes):
        if each.id is not None:
            by_id.setdefault(str(each.id), {})[f"class {i}"] = {i}
    return found | by_id  # ids come first, as in labels


def _called(
    classes: Sequence[FittedClass], which: str, readings: Mapping[str, Mapping[str, set[int]]]
) -> set[int]:
    """Return the positions of the classes that a name or id stands for."""
    if which not in readings:
        raise ValueError(f"among: no class or group is called {which!r}; {_known(classes, which)}")
    if len(set(map(frozenset, readings[which].values()))) > 1:
        raise ValueError(
            f"among: {which!r} may be {' or '.join(readings[which])}; give the position of a class, or the "
            f"group with its level"
        )
    return next(iter(readings[which].values()))


def _known(classes: Sequence[FittedClass], which: str) -> str:
    names = list(dict.fromkeys([n for each in classes for n in (each.name, *each.groups.values())]))
    levels = levels_of(each.groups for each in classes)
    groups = f"groups at {', '.join(map(repr, levels))}" if levels else "no groups"
    there = f"there are {len(classes)} classes, such as {classes[0].name!r}, and {groups}"
    return did_you_mean(which, names, there)
