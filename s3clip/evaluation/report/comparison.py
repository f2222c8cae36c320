"""What a comparison found: as values and JSON, as a table and as a picture."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from s3clip._version import __version__
from s3clip.evaluation.report.folder import save_report
from s3clip.printing import Cell, Column, Table, counted, html_text, markdown_text, new_figure

DEFAULT = "default"
"""The method with the head's default settings, which pictures and pages mark."""

FEW_SHOT = "few_shot"
"""The learner that is `head.fit_few_shot`."""
SHOWN = 10
"""Rows of a table that is shown: the best, and below them the default and the control."""

_SUFFIXES = {
    "rips": "without the words that the default's scale rule drops",
    "centered": "texts seen from the mean of all classes",
    "renorm": "the local mean at length one",
    "shift": "adapted to each image by moving every class for itself",
    "shared_shift": "adapted to each image by moving all classes alike",
    "zero": "adapted to each image by its surest views",
    "mean_views": "the mean over views of each image",
}


def suffixes_text(names: Sequence[str]) -> str:
    """Return what the suffixes of the names of methods mean, as far as they have any."""
    used = dict.fromkeys(part for name in names for part in name.split("+")[1:])
    said = [f"+{part}: {_SUFFIXES[part]}" for part in used if part in _SUFFIXES]
    return f"{'; '.join(said)}." if said else ""


def method_cell(name: str, control: str) -> Cell:
    """Return the name of a method as a cell that says which one is the control; pages mark the default."""
    said = f"{name} (control)" if name == control else name
    html = f"<b>{html_text(said)}</b>" if name == DEFAULT else None
    return Cell(said, name, html)


def first_rows(names: Sequence[str], control: str, first: int | None) -> list[str]:
    """Return the first names, and those of the default and the control where they come later."""
    return [
        name for row, name in enumerate(names) if first is None or row < first or name in (DEFAULT, control)
    ]


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
        levels: share of images whose most probable group is right, by level of the classes' groups.
        mistake_distance: mean over wrong images of how far off the answer is: 1 for a class in the same
            groups, and one more for each level where they differ; None without groups or mistakes.
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
    levels: dict[str, float] = Field(default_factory=dict)
    mistake_distance: float | None = None

    def cells(self, control: str) -> list[Any]:
        """Return its row of the table of a comparison."""

        def score(value: float, spread: float) -> Any:
            return Cell(f"{100 * value:.1f}±{100 * spread:.1f}", value) if self.seeds > 1 else value

        return [
            method_cell(self.name, control),
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


class Best(Value):
    """The method with the best top-1, beside the one that needs no choosing.

    Attributes:
        name: of the best; the default where nothing has a better top-1.
        rival: what it is compared with: the default, or the control where that is the best or is missing.
        place: of the rival; equals share the better one.
        among: how many methods there are, without those that learn from the labels.
        top1_difference: the best's top-1 minus the rival's. Where the best was chosen for being the best of
            all, its interval holds for all methods at once: the best of many is best by luck too.
        recall_difference: the same for recall.
    """

    name: str
    rival: str
    place: int
    among: int
    top1_difference: Difference
    recall_difference: Difference

    @property
    def beyond_chance(self) -> bool:
        """Whether the best has a better top-1 than its rival on more than these images."""
        return self.top1_difference.low > 0


class CurvePoint(Value):
    """How good a learner is with some labelled images, on images that it did not see.

    Attributes:
        method: its name.
        labelled: how many images it learned from.
        top1: share of images whose best class is right, the mean over draws of the labelled ones.
        recall: mean over classes of the same.
        worst_top1: of the draws.
        worst_recall: of the draws.
    """

    method: str
    labelled: int
    top1: float
    recall: float
    worst_top1: float
    worst_recall: float


class Comparison(Value):
    """The scores of all methods on the same images, the best top-1 first.

    Attributes:
        scores: one per method.
        best: which of them is best, and how sure that is; None where there is one only.
        curve: of what learns from labelled images, by their number.
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
    best: Best | None = None
    curve: tuple[CurvePoint, ...] = ()
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

    def table(self, first: int | None = None) -> Table:
        """Return the table, percentages but for the times; printed, it is aligned.

        Args:
            first: how many rows, and below them those of the default and of the control; None: all.
        """
        percent = [Column(name, ".1f", 100) for name in ("top-1", "top-5", "recall")]
        differences = [Column(f"{name} - control", "+.1f", 100) for name in ("top-1", "recall")]
        others = [Column("ECE", ".1f", 100), Column("dropped", ".1f", 100)]
        times = [Column("ms/image", ".4f"), Column("fit ms", ".1f")]
        return Table(
            ["method", *percent, *differences, *others, *times],
            [scores.cells(self.control) for scores in self._shown(first)],
        )

    def _shown(self, first: int | None) -> list[MethodScores]:
        return [self[name] for name in first_rows([each.name for each in self.scores], self.control, first)]

    def level_table(self, first: int | None = None) -> Table | None:
        """Return top-1 at each level of the classes' groups, and how far off mistakes are; None without.

        Args:
            first: as for `table`.
        """
        levels = self.scores[0].levels
        if not levels:
            return None
        shares = [Column(f"top-1, {each}", ".1f", 100) for each in (*levels, "classes")]
        return Table(
            ["method", *shares, Column("mistakes are off by", ".2f")],
            [[own.name, *own.levels.values(), own.top1, own.mistake_distance] for own in self._shown(first)],
        )

    def curve_table(self) -> Table:
        """Return a row for each learner, by labelled images: top-1 / recall, percent (of the worst draw)."""
        sizes = list(dict.fromkeys(point.labelled for point in self.curve))
        shown = {
            (point.method, point.labelled): f"{100 * point.top1:.1f} / {100 * point.recall:.1f} "
            f"({100 * point.worst_top1:.1f} / {100 * point.worst_recall:.1f})"
            for point in self.curve
        }
        return Table(
            ["labelled images", *(Column(str(size), "s") for size in sizes)],
            [
                [name, *(shown.get((name, size)) for size in sizes)]
                for name in dict.fromkeys(point.method for point in self.curve)
            ],
        )

    def summary(self) -> str:
        """Return one sentence on what was compared."""
        left_out = f", {counted(self.left_out, 'image')} of no class left out" if self.left_out else ""
        return (
            f"{self._counts()}{left_out}. Percent; recall is the mean over "
            f"{counted(self.scored_classes, 'class')} with {counted(self.settings['min_images'], 'image')} "
            f"or more; differences from {self.control} with 95 % paired-bootstrap intervals. "
            f"{suffixes_text([each.name for each in self.scores])} {self.no_place() or ''}"
        ).rstrip()

    def no_place(self) -> str | None:
        """Say which methods do without the negatives of the classes; None where they have none."""
        without = self.settings.get("without_negatives")
        return None if without is None else no_place(without)

    def _counts(self) -> str:
        counts = ((self.images, "image"), (self.classes, "class"), (self.texts, "text"))
        return ", ".join(counted(*each) for each in counts)

    def conclusion(self) -> str:
        """Return one sentence: which method is best on these images, by how much, and whether by chance."""
        best = self.best
        if best is None:
            return f"Only {self.control} was compared."
        said = (
            f"Best on these {counted(self.images, 'image')}: {best.name} with "
            f"{100 * self[best.name].top1:.1f} % top-1, {best.top1_difference} points over {best.rival} "
            f"(place {best.place} of {best.among}; recall {best.recall_difference})"
        )
        if best.name == DEFAULT or best.rival not in (DEFAULT, self.control):  # not chosen for being best
            return f"{said}, {'beyond chance' if best.beyond_chance else 'which may be chance'}."
        if best.beyond_chance:
            return f"{said}, beyond chance, the choice among {counted(best.among, 'method')} counted in."
        luck = f"which may be the luck of the best of {counted(best.among, 'method')}"
        return f"{said}, {luck}: no reason to leave {best.rival}."

    def learned(self) -> str | None:
        """Return one sentence: what `few_shot` gains from the labels; None where it was not compared."""
        own = next((scores for scores in self.scores if scores.name == FEW_SHOT), None)
        if own is None:
            return None
        return (
            f"{FEW_SHOT}, learned of these images and asked of those it did not see: {100 * own.top1:.1f} % "
            f"top-1, {own.top1_difference} points over {self.control} (recall {own.recall_difference})."
        )

    def closing(self, use: str = "") -> str:
        """Return what is said last: the conclusion, how to use the best method, and what `few_shot` gains."""
        said = [f"{self.conclusion()} {use}".rstrip(), self.learned()]
        # A command to be copied ends its line.
        return ("\n" if use else " ").join(part for part in said if part)

    def markdown(self) -> str:
        """Return the table, the summary and the conclusion as Markdown."""
        curve = f"\n\n{self.curve_table().markdown()}" if self.curve else ""
        if (levels := self.level_table()) is not None:
            curve += f"\n\n{levels.markdown()}"
        said = f"{self.summary()}\n\n{markdown_text(self.closing())}"
        return f"{self.table().markdown()}{curve}\n\n{said}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return self.model_dump()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `comparison.json` and `comparison.md` into a folder, made if need be, and return it."""
        return save_report(folder, "comparison", self.to_dict(), self.markdown())

    def draw(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Draw the differences in top-1 and recall with their intervals, and return the path.

        A row each for the `SHOWN` best methods and the default; the control is a line.

        Raises:
            ImportError: matplotlib is not installed.
        """
        others = [scores.name for scores in self.scores if scores.name != self.control]
        shown = [self[name] for name in first_rows(others, self.control, SHOWN)][::-1]
        figure = new_figure(10, 1.4 + 0.24 * len(shown))
        axes = figure.subplots(1, 2, sharey=True)
        for axis, what in zip(axes, ("top1", "recall"), strict=True):
            for row, scores in enumerate(shown):
                draw_interval(axis, row, getattr(scores, f"{what}_difference"), marked=scores.name == DEFAULT)
            control = self[self.control]
            draw_control(axis, len(shown), f"control: {control.name} {100 * getattr(control, what):.1f}")
            axis.grid(axis="x", alpha=0.3)
            score = "top-1" if what == "top1" else "mean per-class recall"
            axis.set_xlabel(f"{score} - {self.control}, points")
        axes[0].set_yticks(range(len(shown)), [scores.name for scores in shown], fontsize=8)
        figure.suptitle(title or self._counts(), fontsize=10)
        figure.savefig(path)
        return Path(path)


def no_place(methods: Sequence[str]) -> str:
    """Return one sentence on methods, one or more, that do without the negatives of classes."""
    have = "which has" if len(methods) == 1 else "which have"
    return f"The negatives of classes are in all methods but {', '.join(methods)}, {have} no place for them."


def draw_interval(axis: Any, row: int, difference: Difference, *, marked: bool, width: float = 2) -> None:
    """Draw a difference in points and its interval into a row of a matplotlib axis."""
    colour = "#0969da" if marked else "#57606a"
    axis.plot([100 * difference.low, 100 * difference.high], [row, row], color=colour, lw=width)
    axis.plot(100 * difference.value, row, "o", color=colour, ms=2 + 1.5 * width)


def draw_curve(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Draw top-1 and recall of what learns from labels by their number, the default beside it.

    Args:
        comparison: with a `curve`, and the default where it was compared.
        path: of the picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(10, 4)
    for axis, what in zip(figure.subplots(1, 2), ("top1", "recall"), strict=True):
        for name in dict.fromkeys(point.method for point in comparison.curve):
            own = [point for point in comparison.curve if point.method == name]
            shown = [100 * getattr(point, what) for point in own]
            axis.plot([point.labelled for point in own], shown, "o-", ms=4, label=name)
        for scores in comparison.scores:
            if scores.name == DEFAULT:
                axis.axhline(
                    100 * getattr(scores, what), color="#0969da", lw=1, label=f"{DEFAULT}, no labels"
                )
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
        axis.set_xlabel("labelled images")
        axis.set_ylabel("top-1, percent" if what == "top1" else "mean per-class recall, percent")
    axis.legend(fontsize=8)
    figure.savefig(path)
    return Path(path)


def draw_control(axis: Any, rows: int, label: str, size: float = 8) -> None:
    """Draw the line of the control through the rows of a matplotlib axis, its label in the row above them."""
    axis.plot([0, 0], [-0.7, rows - 0.4], color="#cf222e", lw=1, zorder=0)
    low, high = axis.get_xlim()
    share = -low / (high - low)  # near an edge, the label would run over it
    side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
    axis.text(0, rows - 0.3, label, color="#cf222e", fontsize=size, ha=side, va="bottom")
    axis.set_ylim(-0.7, rows + 0.6)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that scores hang on."""
    libraries = ("numpy", "scikit-learn", "torch", "transformers")
    found = {library: version(library) for library in libraries}
    return {"python": platform.python_version(), "s3clip": __version__, **found}
