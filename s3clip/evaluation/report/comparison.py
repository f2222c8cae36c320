"""What a comparison found, as a table, as JSON and as a picture."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from s3clip._version import __version__
from s3clip.printing import new_figure


@dataclass(frozen=True)
class Difference:
    """A method's score minus the control's, with the ends of its 95 % paired-bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MethodScores:
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


HEADER = (
    "method", "top-1", "top-5", "recall", "top-1 - control", "recall - control", "ECE", "dropped",
    "ms/image", "fit ms",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """The scores of all methods on the same images, the best top-1 first.

    Attributes:
        scores: one per method.
        control: the name of the method that differences are taken from.
        images: how many images were scored.
        left_out: how many images had a label that is none of the classes.
        classes: how many classes there are.
        scored_classes: how many of them have images enough to count in recall.
        texts: how many texts the classes have.
        settings: what the comparison was asked for.
        versions: of the libraries.
        predicted: by method, (images,) the class of each image that was scored, from the first draw of its
            texts. Not in the JSON.
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
    predicted: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> MethodScores:
        """Return the scores of a method by its name."""
        for scores in self.scores:
            if scores.name == name:
                return scores
        raise KeyError(f"{name!r} was not compared; compared: {', '.join(s.name for s in self.scores)}")

    def rows(self) -> list[list[str]]:
        """Return the cells of the table, percentages but for the times; `HEADER` names the columns."""
        return [_cells(scores, self.control) for scores in self.scores]

    def table(self) -> str:
        """Return the table for a terminal."""
        return format_rows(HEADER, self.rows())

    def summary(self) -> str:
        """Return one sentence on what was compared."""
        left_out = f", {self.left_out} images of no class left out" if self.left_out else ""
        return (
            f"{self.images} images, {self.classes} classes, {self.texts} texts{left_out}. Percent; recall is "
            f"the mean over {self.scored_classes} classes with {self.settings['min_images']} images or more; "
            f"differences from {self.control} with 95 % paired-bootstrap intervals."
        )

    def markdown(self) -> str:
        """Return the table and the summary as markdown."""
        return f"{markdown_rows(HEADER, self.rows())}\n\n{self.summary()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        whole = asdict(replace(self, predicted={}))
        del whole["predicted"]
        return whole

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `comparison.json` and `comparison.md` into a folder, made if need be, and return it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        (place / "comparison.json").write_text(text + "\n", encoding="utf-8")
        (place / "comparison.md").write_text(self.markdown(), encoding="utf-8")
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
                difference: Difference = getattr(scores, f"{what}_difference")
                colour = "#0969da" if scores.name == "default" else "#57606a"
                axis.plot([100 * difference.low, 100 * difference.high], [row, row], color=colour, lw=2)
                axis.plot(100 * difference.value, row, "o", color=colour, ms=5)
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


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that scores hang on."""
    libraries = ("numpy", "scikit-learn", "torch", "transformers")
    found = {library: version(library) for library in libraries}
    return {"python": platform.python_version(), "s3clip": __version__, **found}


def format_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns: the first to the left, numbers to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells
    ]
    return "\n".join(lines)


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a markdown table."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def format_difference(difference: Difference) -> str:
    """Return a difference in points with its interval: `+1.8 [-0.4, +4.0]`."""
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _cells(scores: MethodScores, control: str) -> list[str]:
    def score(value: float, spread: float) -> str:
        return f"{100 * value:.1f}" + (f"±{100 * spread:.1f}" if scores.seeds > 1 else "")

    is_control = scores.name == control
    return [
        scores.name,
        score(scores.top1, scores.top1_spread),
        f"{100 * scores.top5:.1f}",
        score(scores.recall, scores.recall_spread),
        "control" if is_control else format_difference(scores.top1_difference),
        "control" if is_control else format_difference(scores.recall_difference),
        f"{100 * scores.calibration_error:.1f}",
        f"{100 * scores.dropped:.1f}",
        f"{scores.image_ms:.4f}",
        f"{scores.fit_ms:.1f}",
    ]
