"""The edits of a class space: each returns a new one, whole, or raises and leaves the old one as it was."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import is_number, is_whole, plain
from s3clip.backbone.identity import check_fingerprint
from s3clip.class_space.examples import Examples, LearnedResidual, merged
from s3clip.class_space.shares import ROUNDING, SMALLEST_SHARE
from s3clip.class_space.value import ClassSpace, FittedClass
from s3clip.space.residual import Residual
from s3clip.texts.labels import NameIndex, checked_name


def class_position(class_names: Sequence[str], which: int | str, argument: str = "classes") -> int:
    """Return the position of a class: the one place that reads a class's name or position.

    Args:
        class_names: of all classes.
        which: a position, counted from 0, or a name that no other class has.
        argument: what an error calls it.

    Raises:
        TypeError: neither a number nor a name.
        ValueError: a position out of range (negative ones are), or a name of no class or of several.
    """
    return _finder(class_names, argument)(which)


def _finder(class_names: Sequence[str], argument: str) -> Callable[[int | str], int]:
    """Return what `class_position` does, for many classes: names are listed once."""
    index = NameIndex((name, position) for position, name in enumerate(class_names))

    def find(which: int | str) -> int:
        if not isinstance(which, str):
            if not is_whole(which):
                raise TypeError(
                    f"{argument}: expected positions or names, got {type(which).__name__}: {which!r}"
                )
            which = operator.index(which)
            if not 0 <= which < len(class_names):
                raise ValueError(
                    f"{argument}: position {which} is out of range for {len(class_names)} classes"
                )
            return which
        positions = index.find(which)
        if len(positions) != 1:
            what = f"at positions {positions}; give the position" if positions else "no class"
            raise ValueError(f"{argument}: {which!r} names {what}")
        return positions[0]

    return find


def add(
    space: ClassSpace, classes: Iterable[FittedClass], raw: Tensor, negatives: Tensor | None = None
) -> ClassSpace:
    """Append classes with their raw embeddings; calibration and shares, of other classes, go.

    Args:
        space: the class space.
        classes: to be appended.
        raw: (texts, dim) of their texts.
        negatives: (texts, dim) of their negatives; None where they have none.

    Raises:
        ValueError: levels of groups in another order than here, or what was learned of labelled images that
            are not kept.
    """
    kept = [each.to(space.raw) for each in (space.negatives, negatives) if each is not None]
    return replace(
        space,
        raw=torch.cat([space.raw, raw.to(space.raw)]),
        negatives=torch.cat(kept) if kept else None,
        classes=(*space.classes, *classes),
        calibration=None,
        class_shares=None,
        few_shot=_unchosen(space, "add_classes"),
    )


def drop(space: ClassSpace, classes: int | str | Iterable[int | str]) -> ClassSpace:
    """Take classes out, by position or by name; the shares of the others are divided by their sum.

    Labelled images of these classes go with them.

    Raises:
        ValueError: a name that no class or several classes have, a position out of range, no class left, or
            what was learned of labelled images that are not kept.
    """
    classes = plain(classes)
    single = isinstance(classes, str) or not isinstance(classes, Iterable)
    listed: Iterable[Any] = [classes] if single else classes  # type: ignore[assignment]
    gone = set(map(_finder(space.class_names, "classes"), listed))
    if not gone:
        return space
    left = [i for i in range(len(space.classes)) if i not in gone]
    if not left:
        raise ValueError("remove_classes: at least one class must be left")
    staying = torch.tensor(left, device=space.owners.device)
    rows = torch.isin(space.owners, staying)
    negatives = space.negatives
    if negatives is not None:
        negatives = negatives[torch.isin(space.negative_owners, staying).to(negatives.device)]
    shares = space.class_shares
    if shares is not None:
        total = math.fsum(shares[i] for i in left)
        shares = tuple(shares[i] / total for i in left) if len(left) > 1 else None
    return replace(
        space,
        raw=space.raw[rows],
        negatives=negatives if negatives is not None and len(negatives) else None,
        classes=tuple(space.classes[i] for i in left),
        calibration=None,
        class_shares=shares,
        few_shot=_unchosen(space, "remove_classes", {old: new for new, old in enumerate(left)}),
    )


def rename(space: ClassSpace, which: int | str, name: str) -> ClassSpace:
    """Give a class another label; its texts, and so the logits and the calibration, stay as they are.

    Its names in languages stay too, but for those that were the label.

    Args:
        space: the class space.
        which: its position, or its name if no other class has it.
        name: the new label.

    Raises:
        ValueError: no such class, or several; a name that cannot be shown.
        TypeError: a name that is not a string.
    """
    position, name = class_position(space.class_names, which), checked_name(name)
    classes = list(space.classes)
    before = classes[position]
    if name == before.name:
        return space
    names = {code: own for code, own in before.names.items() if own != before.name}
    classes[position] = before.model_copy(update={"name": name, "names": names})
    return replace(space, classes=tuple(classes))


def merge(space: ClassSpace, other: ClassSpace) -> ClassSpace:
    """Append the classes of another class space of the same backbone; the settings stay those of the first.

    Raises:
        ValueError: they were fitted by other backbones, templates or scales, or have labelled images that are
            not kept, or one that shows a class of each.
    """
    own, others = ({} if each.backbone is None else each.backbone.fingerprint for each in (space, other))
    if space.raw.shape[1] != other.raw.shape[1] or bool(own) != bool(others):
        raise ValueError(
            f"other: its texts lie in another space, of dimension {other.raw.shape[1]} "
            f"({'with' if others else 'without'} a known backbone), those of this head in one of "
            f"{space.raw.shape[1]} ({'with' if own else 'without'}); fit both on one backbone"
        )
    if ("texts" in own) != ("texts" in others):
        raise ValueError(
            "other: nothing says which text tower encoded the classes of one of the two, so they may not fit "
            "together; fit one again on the whole model"
        )
    check_fingerprint(own, others, "other")
    for argument, mine, its in (
        ("templates", space.templates, other.templates),
        ("points", *(None if each.templates is None else each.config.points for each in (space, other))),
        ("logit_scale", space.fitted_logit_scale, other.fitted_logit_scale),
    ):
        if mine != its:
            raise ValueError(f"other: fitted with {argument} {its}, this head with {mine}; fit one again")
    first = len(space.classes)
    moved = _unchosen(other, "merge", {i: first + i for i in range(len(other.classes))})
    kept = _unchosen(space, "merge")
    both = add(space, other.classes, other.raw, other.negatives)
    return replace(both, few_shot=merged(kept, moved, both.class_names))


def reconfigure(space: ClassSpace, **changes: Any) -> ClassSpace:
    """Change settings, the fields of `HeadConfig`; what changes drops the calibration.

    A `logit_scale` takes the place of the one of `fit_embeddings`: the later word counts.

    Raises:
        ValueError: an unknown setting, a value that is not allowed, or other points than those there are.
    """
    config = space.config.replaced(**changes)
    if config.points != space.config.points:
        raise ValueError(
            f"points: what is kept are embeddings of {space.config.points}, from which those of "
            f"{config.points} cannot be had; fit again with HeadConfig(points={config.points!r})"
        )
    scale = None if changes.get("logit_scale") is not None else space.fitted_logit_scale
    changed = replace(space, config=config, fitted_logit_scale=scale)
    # Of the scale it counts what it is, not where it stands.
    settings, others = (each.config.model_dump(exclude={"logit_scale"}) for each in (space, changed))
    same = settings == others and changed.fixed_logit_scale == space.fixed_logit_scale
    if same:
        return changed
    return replace(changed, calibration=None, few_shot=_unchosen(space, "reconfigure"))


def teach(space: ClassSpace, examples: Examples | None) -> ClassSpace:
    """Put labelled images into a class space, in the place of those that were there; None takes them out.

    The calibration, of other logits, goes; nothing does where there was nothing to take out.
    """
    if examples is None and space.few_shot is None:
        return space
    return replace(space, few_shot=examples, calibration=None)


def without_examples(space: ClassSpace, learned: Residual | None) -> ClassSpace:
    """Return a class space with what was learned of its labelled images, in the place of the images.

    Args:
        space: the class space, as built: its report says what was chosen.
        learned: of the images; None where the space stays as it is.
    """
    kept = space.few_shot
    if not isinstance(kept, Examples) or kept.report is None:
        return space
    dim, classes = space.raw.shape[1], len(space.classes)
    nothing = Residual(space.raw.new_zeros(dim, classes), space.raw.new_zeros(classes))
    weights, bias = learned or nothing
    precise = torch.promote_types(weights.dtype, torch.float32)
    return replace(space, few_shot=LearnedResidual(weights.to(precise), bias.to(precise), kept.report))


def _unchosen(space: ClassSpace, verb: str, position: dict[int, int] | None = None) -> Examples | None:
    """Return the labelled images of a class space that changes; what is learned of them is chosen anew.

    Args:
        space: before the change.
        verb: what an error calls the change.
        position: the new positions of the classes by the old ones; None: they keep them.

    Raises:
        ValueError: the images are not kept.
    """
    kept = space.few_shot
    if isinstance(kept, LearnedResidual):
        raise ValueError(
            f"{verb}: what labelled images added was saved without them (examples=False), and stands for "
            f"these classes and settings alone; load a head that keeps them, or call head.forget_examples() "
            f"first"
        )
    if kept is None or position is None:
        return kept and replace(kept, report=None)
    return kept.relabelled(position)


def set_shares(space: ClassSpace, shares: Mapping[int | str, float] | None) -> ClassSpace:
    """Say how common the classes are among the images; None: nobody knows.

    Args:
        space: the class space.
        shares: of the images, by position or by name; classes that are not named have what is left, in equal
            parts.

    Raises:
        TypeError: no mapping, or a share that is no number.
        ValueError: fewer than two classes, nothing given, a class that is not there or is given twice, a
            share below `SMALLEST_SHARE`, or shares that do not add up to 1 or leave nothing for the rest.
    """
    resolved = None if shares is None else _resolved(space.class_names, shares)
    if resolved == space.class_shares:
        return space
    # Sets of labels were chosen by probabilities that are others now; all else is of logits without shares.
    calibration = None if space.calibration is None else space.calibration.without_sets()
    return replace(space, class_shares=resolved, calibration=calibration)


def _resolved(class_names: Sequence[str], given: Mapping[int | str, float]) -> tuple[float, ...]:
    """Return the share of every class."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"shares: expected a mapping from classes to shares, or None, got {type(given).__name__}"
        )
    if len(class_names) < 2 or not given:
        raise ValueError(
            f"shares: expected shares of one or more of two or more classes, got {len(given)} for "
            f"{len(class_names)}; None takes shares away"
        )
    found: dict[int, float] = {}
    find = _finder(class_names, "shares")
    for which, share in given.items():
        position, share = find(plain(which)), plain(share)
        if position in found:
            raise ValueError(f"shares: class {position}, {class_names[position]!r}, is given twice")
        if not is_number(share):
            raise TypeError(f"shares: {which!r}: expected a number, got {type(share).__name__}: {share!r}")
        if not SMALLEST_SHARE <= share <= 1:
            raise ValueError(
                f"shares: {which!r}: expected a share of all images, from {SMALLEST_SHARE:g} to 1, got "
                f"{share}; divide counts by their sum, and remove classes that never come"
            )
        found[position] = share
    total, rest = math.fsum(found.values()), len(class_names) - len(found)
    if rest == 0 and abs(total - 1) > ROUNDING:
        raise ValueError(f"shares: expected shares of all classes that add up to 1, got {total:g}")
    if rest and 1 - total < rest * SMALLEST_SHARE:
        raise ValueError(f"shares: they add up to {total:g} and leave nothing for {rest} other classes")
    if rest == 0:
        return tuple(found[i] / total for i in range(len(class_names)))
    return tuple(found.get(i, (1 - total) / rest) for i in range(len(class_names)))
