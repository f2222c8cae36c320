"""What the space made of every class: rows that were kept, dropped, merged, or shared with other classes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from s3clip.head import SynonymousSpaceHead
from s3clip.inspection.complexes import Joining, joinings
from s3clip.inspection.neighbours import find_neighbours
from s3clip.space.synonymous_space import SynonymousSpace


@dataclass(frozen=True)
class Reason:
    """Why a row was dropped.

    Attributes:
        distance: the least scale at which it is joined with what was kept: in margins where the scale rule is
            `relative`, else a chordal distance.
        leans_to: the class but its own whose centre is nearest to it; None where there is one class.
        kept_by: settings of `HeadConfig` that keep it, for `reconfigure(**kept_by)`.
    """

    distance: float
    leans_to: int | None
    kept_by: dict[str, Any]


@dataclass(frozen=True)
class TextReport:
    """One row of a class: a concept, or a text where the points are texts.

    Attributes:
        text: what it says ("row 3" where a head was fitted from embeddings without texts).
        status: "kept"; "dropped" by the scale rule; "duplicate" of another text of the class.
        duplicate_of: that text.
        shared_with: positions of the other classes that have the same text, up to case.
        variants: the texts that are in its mean beside `text`: a concept's name with each descriptor.
        reason: of one that is dropped.
    """

    text: str
    status: Literal["kept", "dropped", "duplicate"]
    duplicate_of: str | None
    shared_with: list[int]
    variants: list[str]
    reason: Reason | None = None


@dataclass(frozen=True)
class ClassReport:
    """One class: its texts, the scale ε (inf: everything is kept) and the H0 death times, ascending.

    `negatives` are texts of what is seen where it is not there, which its score is measured against.
    """

    index: int
    name: str
    id: int | str | None
    scale: float
    death_times: list[float]
    texts: list[TextReport]
    negatives: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many texts have a status."""
        return sum(text.status == status for text in self.texts)


def inspect_head(head: SynonymousSpaceHead, classes: Sequence[int] | None = None) -> list[ClassReport]:
    """Return a report on every class, in the order of the logits, or on some.

    Args:
        head: a fitted head.
        classes: positions; None: all classes.

    Raises:
        ValueError: the head is not fitted.

    Examples:
        >>> report = inspect_head(head)[7]
        >>> report.name, report.count("kept") + report.count("dropped") + report.count("duplicate")
        ('seven', ...)
    """
    space, fitted = on_cpu(head.space), head.classes
    chosen = torch.arange(len(fitted)) if classes is None else torch.as_tensor(classes, dtype=torch.int64)
    labels = [label for own in fitted for label in (own.texts or [f"row {row}" for row in range(own.rows)])]
    holders: dict[str, set[int]] = defaultdict(set)
    for index, own in enumerate(fitted):
        for label in own.texts or ():
            holders[label.casefold()].add(index)
    joins = joinings(space, chosen.unique())
    dropped = torch.tensor(sorted(joins), dtype=torch.int64)
    leans_to = dict(zip(dropped.tolist(), find_neighbours(space, dropped).other_class.tolist(), strict=True))
    kept = torch.zeros(len(space.owners), dtype=torch.bool)
    kept[space.kept] = True
    is_kept, duplicate_of, scales = kept.tolist(), space.duplicate_of.tolist(), space.scales.tolist()
    deaths = space.deaths.split(torch.bincount(space.death_owners, minlength=len(fitted)).tolist())
    first_row = [0, *accumulate(own.rows for own in fitted)]

    def text(index: int, row: int) -> TextReport:
        own, start = fitted[index], first_row[index]
        repeats = duplicate_of[row] != row
        status: Literal["kept", "dropped"] = "kept" if is_kept[row] else "dropped"
        return TextReport(
            text=labels[row],
            status="duplicate" if repeats else status,
            duplicate_of=labels[duplicate_of[row]] if repeats else None,
            shared_with=sorted(holders[labels[row].casefold()] - {index}) if own.texts else [],
            variants=[] if own.variants is None else list(own.variants[row - start]),
            reason=_reason(head, joins[row], leans_to[row], row == start) if row in joins else None,
        )

    return [
        ClassReport(
            index=index,
            name=fitted[index].name,
            id=fitted[index].id,
            scale=scales[index],
            death_times=deaths[index].tolist(),
            texts=[text(index, row) for row in range(first_row[index], first_row[index + 1])],
            negatives=list(fitted[index].negatives),
        )
        for index in chosen.tolist()
    ]


def _reason(head: SynonymousSpaceHead, found: Joining, other: int, is_name: bool) -> Reason:
    options = head.config.scale_options
    kept_by: dict[str, Any] = {"scale_rule": None}
    if is_name:
        kept_by = {"keep_name": "always"}
    elif found.enough is not None and "epsilon" in options:
        kept_by = {"scale_options": {**options, "epsilon": found.enough}}
    return Reason(found.distance, None if other < 0 else other, kept_by)


def on_cpu(space: SynonymousSpace) -> SynonymousSpace:
    """Return the space with all of its tensors on the CPU."""
    tensors: dict[str, Any] = {
        name: value.cpu() for name, value in vars(space).items() if isinstance(value, Tensor)
    }
    return replace(space, **tensors)
