"""What every word of a synonym file does to the answers: as values and JSON, and as a table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3clip.evaluation.report.comparison import Difference, Value
from s3clip.evaluation.report.folder import save_report
from s3clip.printing import Cell, Column, Table, counted, markdown_text

LEVEL = 0.05
"""A word helps or hurts beyond chance where its p, all words counted in, is at most this."""

NAMED = 3
"""Words that a conclusion names."""


class WordEffect(Value):
    """What a word does: all texts of its class against all but this word's.

    Attributes:
        class_index: the position of its class.
        class_name: the name of that.
        word: a name or synonym with all its descriptors, or a sentence.
        is_name: whether it is the class's own name, whose place the next word takes.
        points: how many points it has: one, or with `points="texts"` one for each descriptor too.
        kept: how many of them the space keeps.
        class_images: images of its class.
        changed: images that are answered otherwise without it.
        gained: images that are right only with it.
        lost: images that are right only without it.
        top1: what it adds to top-1.
        recall: what it adds to mean per-class recall.
        p: how likely so uneven `gained` and `lost` are by chance in one of all the words.
    """

    class_index: int
    class_name: str
    word: str
    is_name: bool
    points: int
    kept: int
    class_images: int
    changed: int
    gained: int
    lost: int
    top1: Difference
    recall: Difference
    p: float

    @property
    def beyond_chance(self) -> bool:
        """Whether it helps or hurts on more than these images."""
        return self.p <= LEVEL


class WordComparison(Value):
    """What every word does, class by class, the worst first.

    Attributes:
        words: one for each that can be left out; classes stand in the order of their worst words.
        single: names that cannot, since their class has no other.
        images: how many images were scored.
        left_out: how many images had a label that is none of the classes.
        classes: how many classes there are.
        scored_classes: how many of them have images enough to count in recall.
        top1: with all words.
        recall: the same.
        settings: of the comparison.
        versions: of the libraries.
    """

    words: tuple[WordEffect, ...]
    single: int
    images: int
    left_out: int
    classes: int
    scored_classes: int
    top1: float
    recall: float
    settings: dict[str, Any]
    versions: dict[str, str]

    def table(self, first: int | None = None) -> Table:
        """Return the table, points for what a word adds. Args: first: how many rows; None: all."""
        counts = [Column(name, ",d") for name in ("images", "changed", "gained", "lost")]
        adds = [Column(name, "+.1f", 100) for name in ("adds to top-1", "adds to recall")]
        return Table(
            ["class", "word", Column("kept", "s"), *counts, *adds, "beyond chance"],
            [
                [
                    each.class_name,
                    f"{each.word} (name)" if each.is_name else each.word,
                    f"{each.kept}/{each.points}",
                    each.class_images,
                    each.changed,
                    each.gained,
                    each.lost,
                    *(Cell(str(adds), adds.value) for adds in (each.top1, each.recall)),
                    "yes" if each.beyond_chance else "",
                ]
                for each in self.words[:first]
            ],
        )

    def summary(self) -> str:
        """Return what the table shows, and of how much."""
        left_out = f", {counted(self.left_out, 'image')} of no class left out" if self.left_out else ""
        return (
            f"{counted(self.images, 'image')}, {counted(self.classes, 'class')}{left_out}; with all words "
            f"top-1 {100 * self.top1:.1f} %, mean recall {100 * self.recall:.1f} % over "
            f"{self.scored_classes} classes with {counted(self.settings['min_images'], 'image')} or more. A "
            f"row leaves one word out, with its descriptors, and fits again: images of its class, images "
            f"answered otherwise without it, right only with it, right only without it; what the word adds, "
            f"in points with 95 % paired-bootstrap intervals. Without a name, the next word takes its place. "
            f"Not left out: {counted(self.single, 'name')} whose class has no other."
        )

    def conclusion(self) -> str:
        """Return one sentence: how many words hurt and help, and which of them beyond chance."""
        hurt = sorted((each for each in self.words if each.top1.value < 0), key=lambda each: each.top1.value)
        help_ = sorted(
            (each for each in self.words if each.top1.value > 0), key=lambda each: -each.top1.value
        )
        idle = len(self.words) - len(hurt) - len(help_)
        return (
            f"Of {counted(len(self.words), 'word')}, {len(hurt)} cost right answers on these images "
            f"({_surely(hurt)} beyond chance), {len(help_)} bring some ({_surely(help_)} beyond chance), "
            f"{idle} do neither; chance is that of the luckiest of {counted(len(self.words), 'word')}."
        )

    def markdown(self) -> str:
        """Return the table, the summary and the conclusion as Markdown."""
        said = "\n\n".join(markdown_text(text) for text in (self.summary(), self.conclusion()))
        return f"{self.table().markdown()}\n\n{said}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return self.model_dump()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `words.json` and `words.md` into a folder, made if need be, and return it."""
        return save_report(folder, "words", self.to_dict(), self.markdown())


def _surely(words: Sequence[WordEffect]) -> str:
    sure = [each for each in words if each.beyond_chance]
    named = ", ".join(f"{each.word!r} of {each.class_name}" for each in sure[:NAMED])
    more = f" and {len(sure) - NAMED} more" if len(sure) > NAMED else ""
    return f"{named}{more}" if sure else "none"
