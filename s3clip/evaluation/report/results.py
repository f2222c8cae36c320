"""What a run found, as JSON, as Markdown and as a picture."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from s3clip.evaluation.methods import CONTROL, DEFAULT
from s3clip.evaluation.report.comparison import Difference, format_difference, markdown_rows
from s3clip.evaluation.report.picture import draw_run
from s3clip.files.writing import write_atomically

FORMAT = "s3clip-run/1"

HEADLINES = {"top1": "acc1", "recall": "mean_per_class_recall", "miou": "miou"}


class Table(NamedTuple):
    """What a table of a benchmark shows of each method, by the heading of its column.

    Attributes:
        scores: keys of a score.
        differences: keys of its differences from the control.
        others: keys of what else it says.
        worst: the heading and the key of what its worst classes are worst at.
    """

    scores: dict[str, str]
    differences: dict[str, str]
    others: dict[str, str]
    worst: tuple[str, str]


TABLES = {
    "classification": Table(
        {"acc1": "acc1", "acc5": "acc5", "mean per-class recall": "mean_per_class_recall"},
        {"acc1": "top1", "recall": "recall"},
        {"ECE": "calibration_error", "dropped": "dropped"},
        ("recall", "recall"),
    ),
    "segmentation": Table(
        {"mIoU": "miou", "pixel accuracy": "pixel_accuracy"},
        {"mIoU": "miou", "pixel accuracy": "pixel_accuracy"},
        {"dropped": "dropped"},
        ("IoU", "iou"),
    ),
}
"""By the task of a benchmark."""

WORST_CLASSES = 8
EXAMPLES = 4
THUMBNAIL = 96
"""Pixels of its longer side."""


@dataclass(frozen=True)
class Run:
    """What `evaluate` found.

    Attributes:
        results: everything that is the same each time: settings, versions, model, benchmarks. Plain values.
        measured: what is not: seconds, memory, how many processes.
        thumbnails: the content of the files that the results name, JPEG.
    """

    results: dict[str, Any]
    measured: dict[str, Any]
    thumbnails: dict[str, bytes]

    def to_dict(self) -> dict[str, Any]:
        """Return what `run.json` holds: two runs are the same if all of it but "measured" is."""
        return {"format": FORMAT, **self.results, "measured": self.measured}

    def markdown(self) -> str:
        """Return the summary of all benchmarks, and a table for each."""
        return run_markdown(self.to_dict())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `run.json`, `run.md` and the thumbnails into a folder, made if need be, and return it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, content in self.thumbnails.items():
            (place / name).parent.mkdir(exist_ok=True)
            write_atomically(place / name, content)
        write_atomically(place / "run.md", self.markdown().encode("utf-8", "backslashreplace"))
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(place / "run.json", text.encode("utf-8", "backslashreplace"))
        return place

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draw how far every method is from the control on every benchmark, and return the path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw_run(self.results["benchmarks"], self.results["settings"]["control"], path)


def run_markdown(run: dict[str, Any]) -> str:
    """Return a run as Markdown: a summary of all benchmarks, and a table for each."""
    control, model = run["settings"]["control"], run["model"]
    lines = [
        f"# {_escaped(str(model['name']))}",
        "",
        f"Revision {model['revision']}, fingerprint {model['fingerprint'][:16]}, {model['dtype']}. Percent; "
        f"differences from {control} in points with 95 % paired-bootstrap intervals.",
    ]
    shown = ("name", CONTROL.name, DEFAULT.name)
    names = list(dict.fromkeys(row["name"] for row in run["mean"] if row["name"] in shown))
    header = ["benchmark", "score", "images", *names, f"{DEFAULT.name} - {control}"]
    rows = []
    for each in run["benchmarks"]:
        own = [score_of(each, name) for name in names]
        default = score_of(each, DEFAULT.name)
        difference = "" if default is None else _difference(default, each["headline"])
        values = [_percent(score[HEADLINES[each["headline"]]]) if score else "" for score in own]
        rows.append(
            [_escaped(each["name"]), HEADLINES[each["headline"]], _counted(each), *values, difference]
        )
    tasks = list(dict.fromkeys(each["task"] for each in run["benchmarks"]))
    for task in tasks:
        means = {row["name"]: _percent(row["headline"]) for row in run["mean"] if row["task"] == task}
        title = "**mean**" if len(tasks) == 1 else f"**mean, {task}**"
        rows.append([title, "", "", *(means.get(name, "") for name in names), ""])
    lines += ["", markdown_rows(header, rows)]
    for each in run["benchmarks"]:
        lines += ["", f"## {_escaped(each['name'])}", ""]
        lines += [f"**Warning: {_escaped(warning)}**\n" for warning in each["warnings"]]
        left_out = each["counts"]["left_out"]
        lines += [
            f"{_counted(each)} images ({each['convention']}, {each['split']}), {each['classes']} classes, "
            f"{each['texts']} texts"
            + (f", {left_out} images of no class left out" if left_out else "")
            + (f", {patches}" if (patches := describe_patches(each)) else "")
            + f"; the headline is {HEADLINES[each['headline']]}.",
            "",
        ]
        table = TABLES[each["task"]]
        header = [
            "method",
            *table.scores,
            *(f"{what} - {control}" for what in table.differences),
            *table.others,
        ]
        lines.append(markdown_rows(header, [_cells(table, score, control) for score in each["scores"]]))
    return "\n".join(lines) + "\n"


def _cells(table: Table, score: dict[str, Any], control: str) -> list[str]:
    is_control = score["name"] == control
    return [
        score["name"],
        *(_percent(score[key]) for key in table.scores.values()),
        *("control" if is_control else _difference(score, what) for what in table.differences.values()),
        *(_percent(score[key]) for key in table.others.values()),
    ]


def describe_patches(benchmark: dict[str, Any]) -> str:
    """Return how the pictures of a benchmark of segmentation were cut and encoded; "" for another."""
    if benchmark["task"] != "segmentation":
        return ""
    sizes = "short side {short_side}, windows of {window}, stride {stride}".format(**benchmark)
    threshold = benchmark["threshold"]
    background = "" if threshold is None else f", background below a probability of {threshold:g}"
    return f"{benchmark['patch_features']} patches, {sizes} pixels{background}"


def _difference(score: dict[str, Any], what: str) -> str:
    return format_difference(Difference(**score["differences"][what]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _counted(benchmark: dict[str, Any]) -> str:
    counts = benchmark["counts"]
    return f"{counts['scored']:,} of {counts['of']:,}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def score_of(benchmark: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the scores of a method on a benchmark of a run; None if it was not scored there."""
    return next((score for score in benchmark["scores"] if score["name"] == name), None)


def thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG of an image."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def few(texts: Sequence[str], limit: int = 3) -> str:
    """Return the first few texts, and how many more there are."""
    more = f"; and {len(texts) - limit} more" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more
