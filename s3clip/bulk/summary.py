"""What became of all rows: counted part by part, as JSON and as a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from s3clip.bulk.output import SCORE_BINS, Part

EXAMPLES = 5


@dataclass
class Summary:
    """What became of the rows of all parts, those of earlier runs too.

    Attributes:
        class_names: of the head.
        rows: how many there are.
        errors: rows with an error.
        rejected: rows whose best class is not accepted.
        class_rows: rows by best class, one number a class.
        score_histogram: rows by score, in bins of equal width from 0 to 1.
        broken: shards that broke off, and why; the next run tries them again.
        examples: a few errors.
        labelled_now: rows of this run.
        seconds: that it took.
        precision: in which type the image tower computed and why, where "auto" was asked for.
    """

    class_names: Sequence[str]
    rows: int = 0
    errors: int = 0
    rejected: int = 0
    class_rows: list[int] = field(default_factory=list)
    score_histogram: list[int] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    labelled_now: int = 0
    seconds: float = 0.0
    precision: str | None = None

    def add(self, part: Part, *, now: bool) -> None:
        """Count a part."""
        counts = part.counts
        if max(counts.classes, default=0) >= len(self.class_names):
            raise ValueError(f"out: {part.file} counts rows of a class that there is not; take it away")
        self.rows += counts.rows
        self.errors += counts.errors
        self.rejected += counts.rejected
        self.labelled_now += counts.rows if now else 0
        self.class_rows = self.class_rows or [0] * len(self.class_names)
        for index, number in counts.classes.items():
            self.class_rows[index] += number
        before = self.score_histogram or [0] * SCORE_BINS
        self.score_histogram = [a + b for a, b in zip(before, counts.scores, strict=True)]
        self.examples = [*self.examples, *counts.examples][:EXAMPLES]
        if part.broken is not None:
            self.broken[part.shard] = part.broken

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**asdict(self), "class_names": list(self.class_names)}

    def table(self, most: int = 20) -> str:
        """Return what a terminal shows. Args: most: how many classes to list, the largest first."""
        lines = [
            f"{self.rows:,} rows, {self.errors:,} with an error{_share(self.errors, self.rows)}, "
            f"{self.rejected:,} accepted by no class{_share(self.rejected, self.rows)}"
        ]
        order = sorted(range(len(self.class_rows)), key=lambda i: -self.class_rows[i])
        shown = [i for i in order if self.class_rows[i]][:most]
        width = max((len(self.class_names[i]) for i in shown), default=0)
        lines += [f"  {self.class_names[i]:<{width}}  {self.class_rows[i]:>12,}" for i in shown]
        left = sum(1 for number in self.class_rows if number) - len(shown)
        lines += [f"  and {left} more classes"] if left else []
        lines += [f"error: {example}" for example in self.examples]
        lines += [f"not finished: {shard}: {why}" for shard, why in list(self.broken.items())[:EXAMPLES]]
        return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.2%})" if part and whole else ""
