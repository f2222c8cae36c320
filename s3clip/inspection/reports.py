"""What the space made of every class: texts that were kept, dropped, merged, or shared with other classes."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch

from s3clip.head import SynonymousSpaceHead


@dataclass(frozen=True)
class TextReport:
    """One text of a class.

    Attributes:
        text: what it says ("row 3" where a head was fitted from embeddings without texts).
        status: "kept"; "dropped" by the scale rule; "duplicate" of another text of the class.
        duplicate_of: that text.
        shared_with: positions of the other classes that have the same text, up to case.
    """

    text: str
    status: Literal["kept", "dropped", "duplicate"]
    duplicate_of: str | None
    shared_with: list[int]


@dataclass(frozen=True)
class ClassReport:
    """One class: its texts, the scale ε (inf: everything is kept) and the H0 death times, ascending."""

    index: int
    name: str
    id: int | str | None
    scale: float
    death_times: list[float]
    texts: list[TextReport]

    def count(self, status: str) -> int:
        """How many texts have a status."""
        return sum(text.status == status for text in self.texts)


def inspect_head(head: SynonymousSpaceHead) -> list[ClassReport]:
    """Return a report on every class, in the order of the logits.

    Raises:
        ValueError: the head is not fitted.
    """
    space, classes = head.space, head.classes
    kept = torch.zeros(len(space.owners), dtype=torch.bool)
    kept[space.kept.cpu()] = True
    duplicate_of = space.duplicate_of.tolist()
    labels = [label for own in classes for label in (own.texts or [f"row {row}" for row in range(own.rows)])]
    holders: dict[str, set[int]] = defaultdict(set)
    for label, owner, own in zip(
        labels, space.owners.tolist(), (classes[i] for i in space.owners.tolist()), strict=True
    ):
        if own.texts is not None:
            holders[label.casefold()].add(owner)
    reports, row = [], 0
    for index, own in enumerate(classes):
        texts = []
        for position in range(row, row + own.rows):
            repeats = duplicate_of[position] != position
            status: Literal["kept", "dropped", "duplicate"] = "kept" if kept[position] else "dropped"
            texts.append(
                TextReport(
                    text=labels[position],
                    status="duplicate" if repeats else status,
                    duplicate_of=labels[duplicate_of[position]] if repeats else None,
                    shared_with=sorted(holders[labels[position].casefold()] - {index}),
                )
            )
        row += own.rows
        reports.append(
            ClassReport(
                index=index,
                name=own.name,
                id=own.id,
                scale=float(space.scales[index]),
                death_times=space.death_times(index).tolist(),
                texts=texts,
            )
        )
    return reports
