"""Labelled images in a class space: as they are kept, or what was learned of them; and what they gained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from s3clip.arguments import LARGEST_SCALE, is_scale
from s3clip.printing import counted
from s3clip.space.strength import first_of

NONE_OF_THESE = -1
"""The label of an image that shows none of the classes."""

LARGEST_THRESHOLD = 1e13
LARGEST_WEIGHT = 1e12
"""Of a residual: logits stay finite in float32, also divided by the least temperature."""
LEAST_STRENGTH = 1e-9
SAME_IMAGE = 2**-10
"""Of the distance of two unit embeddings of one image: a step of float16 in every coordinate."""
_COORDINATES = 8
_Share = Annotated[float, Field(ge=-1, le=1)]
_Count = Annotated[int, Field(ge=0, lt=2**40)]


class Gain(BaseModel):
    """A share of images before the residual, its change, and the 95 % interval of the change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    before: float = Field(ge=0, le=1)
    gain: _Share
    low: _Share
    high: _Share

    @property
    def change(self) -> str:
        """The share before and after, in percent."""
        return f"{100 * self.before:.1f} → {100 * (self.before + self.gain):.1f} %"

    def __str__(self) -> str:
        return f"{self.change} ({100 * self.gain:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}])"


class FewShotReport(BaseModel):
    """What was chosen for labelled images, and what it gains.

    Attributes:
        strength: of the residual; None: the space stays as it is, since no residual gains more than chance.
        seen: how many images each class has, in the order of the logits.
        none: how many images show none of the classes.
        top1: the share of images that are right, by cross-validation: of images whose classes are as common
            as among the labelled ones.
        recall: the mean of that over the classes that were seen.
        threshold: the logit, without the model's bias, from which on an image is taken to show a class; None
            where no image shows none of them.
        constant: whether a constant is learned for each class; older reports say nothing of it: none was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strength: float | None = Field(ge=LEAST_STRENGTH, le=1e12)
    seen: tuple[_Count, ...]
    none: _Count
    top1: Gain
    recall: Gain
    threshold: float | None = Field(ge=-LARGEST_THRESHOLD, le=LARGEST_THRESHOLD)
    constant: bool = False

    def summary(self) -> str:
        """Return a sentence on what labelled images gain."""
        images, classes = sum(self.seen), sum(count > 0 for count in self.seen)
        what = f"{counted(images, 'labelled image')} of {classes} of {counted(len(self.seen), 'class')}"
        if self.none:
            what += f", {self.none} of none of them"
        if self.strength is None:
            return f"{what}; no residual gains more than chance, so the logits are those of the words"
        return f"{what}; by cross-validation top-1 {self.top1}, mean recall {self.recall}"


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images, from which the residual is learned whenever a class space is built.

    Attributes:
        embeds: (images, dim) float16, of length one up to rounding.
        labels: (images,) int64, positions of classes or `NONE_OF_THESE`.
        logit_scale: of the logits beside which the residual is learned.
        false_accept_rate: the share of images of no class that may be accepted, in [0, 1).
        report: what was chosen; None: to be chosen when the class space is built.
    """

    embeds: Tensor
    labels: Tensor
    logit_scale: float
    false_accept_rate: float = 0.05
    report: FewShotReport | None = None

    def check(self, classes: int, dim: int) -> None:
        """Raise ValueError where they are not of so many classes and dimensions, or hold what is no image."""
        count = len(self.labels) if self.labels.ndim == 1 else -1
        if self.embeds.shape != (count, dim) or self.embeds.dtype != torch.float16 or not count:
            raise ValueError(
                f"examples: expected (images, {dim}) float16 and a label each, got "
                f"{tuple(self.embeds.shape)} {self.embeds.dtype} and {tuple(self.labels.shape)}"
            )
        if self.labels.dtype != torch.int64:
            raise ValueError(f"examples: expected labels in int64, got {self.labels.dtype}")
        if self.labels.device.type != "meta":
            outside = (self.labels < NONE_OF_THESE) | (self.labels >= classes)
            if bool(outside.any()):
                found = int(self.labels[outside][0])
                raise ValueError(f"examples: label {found} is out of range for {classes} classes")
            lengths = self.embeds.float().norm(dim=1)
            # Of length one: float16 rounds each number by 2^-11 of itself, or 2^-25 where it is tiny.
            if not bool(((lengths > 0.99) & (lengths < 1.01)).all()):
                raise ValueError("examples: expected embeddings of length one, got others, NaN or Inf")
        if not is_scale(self.logit_scale):
            raise ValueError(f"examples: logit_scale: expected > 0, at most {LARGEST_SCALE:g}")
        if not 0 <= self.false_accept_rate < 1:
            raise ValueError(f"examples: false_accept_rate: {self.false_accept_rate} is not in [0, 1)")
        _check_report(self.report, classes)

    def relabelled(self, position: dict[int, int]) -> "Examples | None":
        """Return those whose classes have a position after a change, of which nothing is chosen yet.

        Args:
            position: the new positions by the old ones; images of other classes go.
        """
        listed = [label if label == NONE_OF_THESE else position.get(label) for label in self.labels.tolist()]
        kept = [i for i, label in enumerate(listed) if label is not None]
        if not kept:
            return None
        labels = torch.tensor([listed[i] for i in kept], device=self.labels.device)
        return replace(self, embeds=self.embeds[kept], labels=labels, report=None)


@dataclass(frozen=True, eq=False)
class LearnedResidual:
    """What was learned of labelled images that are not kept: it stands for these classes and settings alone.

    Attributes:
        weights: (dim, classes), float32 or float64.
        bias: (classes,), the same.
        report: what was chosen.
    """

    weights: Tensor
    bias: Tensor
    report: FewShotReport

    def check(self, classes: int, dim: int) -> None:
        """Raise ValueError where it is not that of so many classes and dimensions."""
        shapes = tuple(self.weights.shape), tuple(self.bias.shape)
        if shapes != ((dim, classes), (classes,)):
            raise ValueError(
                f"residual: expected ({dim}, {classes}) and ({classes},), got {shapes[0]} and {shapes[1]}"
            )
        for part in (self.weights, self.bias):
            if part.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"residual: expected float32 or float64, got {part.dtype}")
            if part.device.type != "meta" and not bool((part.abs() <= LARGEST_WEIGHT).all()):
                raise ValueError(f"residual: expected numbers within {LARGEST_WEIGHT:g} of 0")
        _check_report(self.report, classes)


def _check_report(report: FewShotReport | None, classes: int) -> None:
    if report is not None and len(report.seen) != classes:
        raise ValueError(f"few_shot: a report on {len(report.seen)} classes for {classes}")


def joined(first: Examples | None, second: Examples | None) -> Examples | None:
    """Return the examples of both, of which nothing is chosen yet."""
    if first is None or second is None:
        return replace(first or second, report=None) if first or second else None  # type: ignore[type-var]
    return replace(
        first,
        embeds=rows_of([first.embeds, second.embeds.to(first.embeds)]),
        labels=torch.cat([first.labels, second.labels.to(first.labels)]),
        report=None,
    )


def merged(first: Examples | None, second: Examples | None, class_names: Sequence[str]) -> Examples | None:
    """Return the examples of two class spaces that become one, each image once.

    Args:
        first: of one.
        second: of the other, with the positions that its classes have then.
        class_names: of all classes.

    Raises:
        ValueError: an image that shows a class of each. (In one of them it may show none of the classes.)
    """
    both = joined(first, second)
    if both is None or first is None or second is None:
        return both
    labels, groups = both.labels.cpu(), copies(both.embeds)
    said = torch.full_like(labels, NONE_OF_THESE).scatter_reduce(0, groups, labels, "amax")[groups]
    if bool((twice := (labels != said) & (labels != NONE_OF_THESE)).any()):
        here, there = (class_names[int(each[twice][0])] for each in (labels, said))
        raise ValueError(
            f"other: an image is labelled {here!r} here and {there!r} there; label it anew in one of them, "
            f"None for none of its classes: fit_few_shot(add=True)"
        )
    at_label = (labels == said).nonzero()[:, 0]
    kept = at_label[first_of(groups[at_label])].sort().values.to(both.labels.device)
    return replace(both, embeds=both.embeds[kept], labels=both.labels[kept])


def copies(embeds: Tensor) -> Tensor:
    """Return (images,) one number for all copies of an image, from 0 on. Args: embeds: (images, dim) unit.

    An image has other last digits in another batch, some of which float16 rounds to another number.
    """
    from scipy.sparse import coo_matrix  # a fifth of a second, and only labelled images need it
    from scipy.sparse.csgraph import connected_components

    with torch.autocast("cpu", enabled=False):  # knows no float16 where it is on
        rows, groups = torch.unique(embeds.cpu(), dim=0, return_inverse=True)
    first, second = _near(rows.float()).numpy()
    links = coo_matrix((np.ones(len(first)), (first, second)), shape=(len(rows), len(rows)))
    same = torch.from_numpy(connected_components(links, directed=False)[1])
    return same.to(groups.dtype)[groups]


def _near(rows: Tensor) -> Tensor:
    """Return (2, pairs) int64: which (n, dim) rows lie nearer to each other than `SAME_IMAGE`."""
    # Nor do they differ by more in any coordinate: the one of the widest spread leaves few pairs to look at.
    widest = rows.var(0, correction=0).topk(min(_COORDINATES, rows.shape[1])).indices
    order = rows[:, widest[0]].argsort()
    rows = rows[order]
    keys, pairs = rows[:, widest], [order.new_empty(2, 0)]
    for apart in range(1, len(rows)):
        steps = (keys[apart:] - keys[:-apart]).abs() < SAME_IMAGE
        if not bool(steps[:, 0].any()):
            break
        at = steps.all(1).nonzero()[:, 0]
        at = at[(rows[at + apart] - rows[at]).norm(dim=1) < SAME_IMAGE]
        pairs.append(torch.stack([order[at], order[at + apart]]))
    return torch.cat(pairs, dim=1)


def rows_of(parts: Sequence[Tensor]) -> Tensor:
    """Return (images, dim) embeddings in float16 of all parts."""
    with torch.autocast("cpu", enabled=False):  # as above
        return torch.cat(list(parts))


def counts(labels: Iterable[int], classes: int) -> tuple[tuple[int, ...], int]:
    """Return how many images each class has, and how many show none."""
    seen, none = [0] * classes, 0
    for label in labels:
        if label == NONE_OF_THESE:
            none += 1
        else:
            seen[label] += 1
    return tuple(seen), none
