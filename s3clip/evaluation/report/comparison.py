"""What a comparison found: as values and JSON, as a table and as a picture."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from s3clip._version import __version__
from s3clip.files.writing import write_atomically
from s3clip.printing import Cell, Column, Table, new_figure

DEFAULT = "default"
"""The method with the head's default settings, which pictures and pages mark."""


class Value(BaseModel):
    """A part of what is written as JSON: these fields and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Difference(Value):
    """A method's score minus the control's, with the ends of its 95 % paired-bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, interval: tuple[float, float]) -> Self:
        """Return a difference with the two ends of its interval."""
        return cls(value=value, low=interval[0], high=interval[1])

    def __str__(self) -> str:
        """In points: `+1.8 [-0.4, +4.0]`."""
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def cell(self, *, of_control: bool) -> Cell:
        """Return it as a cell of a table; in the control's own row it says so."""
        return Cell("control" if of_control else str(self), self.value)


class MethodScores(Value):
    """How one method did. Scores are in [0, 1]; of a method whose texts are drawn, means over seeds.

    Attributes:
        name: a key of `s3clip.evaluation.METHODS`, or the name of a config that was given.
        top1: share of images whose best class is right.
        top5: share of images with the right class among the best five.
        recall: mean over classes of the share of their images that are right.
        top1_difference: top-1 minus the control's.
        recall_difference: the same for recall.
        calibration_error: expected calibration error, 15 bins.
        image_ms: milliseconds per image, from embedding to logits.
        fit_ms: milliseconds to build the classifier from text embeddings.
        dropped: share of the distinct texts that the filter left out.
        seeds: how many draws of its texts; 1 where nothing is drawn.
        top1_spread: standard deviation of top-1 over the seeds.
        recall_spread: the same for recall.
    """

    name: str
    top1: float
    top5: float
    recall: float
    top1_difference: Difference
    recall_difference: Difference
    calibration_error: float
    image_ms: float
    fit_ms: float
    dropped: float
    seeds: int = 1
    top1_spread: float = 0.0
    recall_spread: float = 0.0

    def cells(self, control: str) -> list[Any]:
        """Return its row of the table of a comparison."""

        def score(value: float, spread: float) -> Any:
            return Cell(f"{100 * value:.1f}±{100 * spread:.1f}", value) if self.seeds > 1 else value

        return [
            self.name,
            score(self.top1, self.top1_spread),
            self.top5,
            score(self.recall, self.recall_spread),
            *(
                each.cell(of_control=self.name == control)
                for each in (self.top1_difference, self.recall_difference)
            ),
            self.calibration_error,
            self.dropped,
            self.image_ms,
            self.fit_ms,
        ]


class Comparison(Value):
    """The scores of all methods on the same images, the best top-1 first.

    Attributes:
        scores: one per method.
        control: the name of the method that differences are taken from.
        images: how many images were scored.
        left_out: how many images had a label that is none of the classes.
        classes: how many classes there are.
        scored_classes: how many of them have images enough to count in recall.
        texts: how many texts the classes have.
        settings: of the comparison.
        versions: of the libraries.
        predicted: by method, (images,) the class of each image that was scored, from the first draw of its
            texts: tensors. Not in the JSON.
    """

    scores: tuple[MethodScores, ...]
    control: str
    images: int
    left_out: int
    classes: int
    scored_classes: int
    texts: int
    settings: dict[str, Any]
    versions: dict[str, str]
    predicted: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)

    def __getitem__(self, name: str) -> MethodScores:
        """Return the scores of a method by its name."""
        for scores in self.scores:
            if scores.name == name:
                return scores
        raise KeyError(f"{name!r} was not compared; compared: {', '.join(s.name for s in self.scores)}")

    def table(self) -> Table:
        """Return the table, percentages but for the times; printed, it is aligned."""
        percent = [Column(name, ".1f", 100) for name in ("top-1", "top-5", "recall")]
        differences = [Column(f"{name} - control", "+.1f", 100) for name in ("top-1", "recall")]
        others = [Column("ECE", ".1f", 100), Column("dropped", ".1f", 100)]
        times = [Column("ms/image", ".4f"), Column("fit ms", ".1f")]
        return Table(
            ["method", *percent, *differences, *others, *times],
            [scores.cells(self.control) for scores in self.scores],
        )

    def summary(self) -> str:
        """Return one sentence on what was compared."""
        left_out = f", {self.left_out} images of no class left out" if self.left_out else ""
        return (
            f"{self.images} images, {self.classes} classes, {self.texts} texts{left_out}. Percent; recall is "
            f"the mean over {self.scored_classes} classes with {self.settings['min_images']} images or more; "
            f"differences from {self.control} with 95 % paired-bootstrap intervals."
        )

    def markdown(self) -> str:
        """Return the table and the summary as Markdown."""
        return f"{self.table().markdown()}\n\n{self.summary()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return self.model_dump()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `comparison.json` and `comparison.md` into a folder, made if need be, and return it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        for name, content in (("comparison.json", text), ("comparison.md", self.markdown())):
            write_atomically(place / name, content.encode("utf-8", "backslashreplace"))
        return place

    def draw(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Draw the differences in top-1 and recall with their intervals, and return the path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        shown = [scores for scores in self.scores if scores.name != self.control][::-1]
        figure = new_figure(10, 1.4 + 0.24 * len(shown))
        axes = figure.subplots(1, 2, sharey=True)
        for axis, what in zip(axes, ("top1", "recall"), strict=True):
            for row, scores in enumerate(shown):
                draw_interval(axis, row, getattr(scores, f"{what}_difference"), marked=scores.name == DEFAULT)
            axis.axvline(0, color="#cf222e", lw=1)
            axis.grid(axis="x", alpha=0.3)
            score = "top-1" if what == "top1" else "mean per-class recall"
            axis.set_xlabel(f"{score} - {self.control}, points")
        axes[0].set_yticks(range(len(shown)), [scores.name for scores in shown], fontsize=8)
        axes[0].set_ylim(-0.7, len(shown) - 0.3)
        counts = f"{self.images} images, {self.classes} classes, {self.texts} texts"
        figure.suptitle(title or counts, fontsize=10)
        figure.savefig(path)
        return Path(path)


def draw_interval(axis: Any, row: int, difference: Difference, *, marked: bool, width: float = 2) -> None:
    """Draw a difference in points and its interval into a row of a matplotlib axis."""
    colour = "#0969da" if marked else "#57606a"
    axis.plot([100 * difference.low, 100 * difference.high], [row, row], color=colour, lw=width)
    axis.plot(100 * difference.value, row, "o", color=colour, ms=2 + 1.5 * width)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that scores hang on."""
    libraries = ("numpy", "scikit-learn", "torch", "transformers")
    found = {library: version(library) for library in libraries}
    return {"python": platform.python_version(), "s3clip": __version__, **found}
