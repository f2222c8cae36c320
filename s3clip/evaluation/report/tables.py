"""The tables of runs: one of all benchmarks, and for each benchmark one of its methods."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from s3clip.evaluation.report.comparison import DEFAULT
from s3clip.evaluation.report.schema import (
    HEADLINES,
    Mean,
    Recognition,
    RecognitionScores,
    Segmentation,
    headline_of,
    scores_of,
)
from s3clip.printing import Cell, Column, Table


class _Shown(NamedTuple):
    """What the table of a benchmark shows of each method: headings, and fields of its scores.

    Attributes:
        scores: fields, by heading.
        differences: fields of the differences from the control.
        others: fields of what else there is.
    """

    scores: dict[str, str]
    differences: dict[str, str]
    others: dict[str, str]


_SHOWN = {
    "classification": _Shown(
        {"acc1": "acc1", "acc5": "acc5", "mean per-class recall": "mean_per_class_recall"},
        {"acc1": "top1", "recall": "recall"},
        {"ECE": "calibration_error", "dropped": "dropped"},
    ),
    "segmentation": _Shown(
        {"mIoU": "miou", "pixel accuracy": "pixel_accuracy"},
        {"mIoU": "miou", "pixel accuracy": "pixel_accuracy"},
        {"dropped": "dropped"},
    ),
}
"""By the task of a benchmark."""


def benchmark_table(benchmark: Recognition | Segmentation, control: str) -> Table:
    """Return the scores of every method on a benchmark, in percent, and their differences in points.

    Where its classes are in groups, also top-1 at each level, and how many levels mistakes are off by.
    """
    levels = list(benchmark.scores[0].levels) if isinstance(benchmark, Recognition) else []
    shown = _SHOWN[benchmark.task]
    columns: list[Column | str] = [
        "method",
        *map(percent, shown.scores),
        *(percent(f"{what} - {control}") for what in shown.differences),
        *map(percent, shown.others),
        *(percent(f"acc1, {level}") for level in levels),
        *([Column("mistakes are off by", ".2f")] if levels else []),
    ]
    rows = [
        [
            method_cell(own.name),
            *(getattr(own, field) for field in shown.scores.values()),
            *(
                getattr(own.differences, field).cell(of_control=own.name == control)
                for field in shown.differences.values()
            ),
            *(getattr(own, field) for field in shown.others.values()),
            *(
                [*own.levels.values(), own.mistake_distance]
                if isinstance(own, RecognitionScores) and levels
                else []
            ),
        ]
        for own in benchmark.scores
    ]
    return Table(columns, rows)


def summary_table(
    benchmarks: Sequence[Recognition | Segmentation], mean: Sequence[Mean], control: str
) -> Table:
    """Return a row for each benchmark and each task: the headline scores of the name, control and default."""
    chosen = ("name", control, DEFAULT)
    names = list(dict.fromkeys(row.name for row in mean if row.name in chosen))
    rows = []
    for each in benchmarks:
        default = scores_of(each, DEFAULT)
        difference = None if default is None else getattr(default.differences, each.headline)
        rows.append(
            [
                each.name,
                HEADLINES[each.headline],
                Cell(_counted(each)),
                *(headline_of(each, name) for name in names),
                difference and difference.cell(of_control=False),
            ]
        )
    tasks = list(dict.fromkeys(each.task for each in benchmarks))
    for task in tasks:
        means = {row.name: row.headline for row in mean if row.task == task}
        title = "**mean**" if len(tasks) == 1 else f"**mean, {task}**"
        rows.append([title, None, None, *map(means.get, names), None])
    columns = [*map(percent, names), percent(f"{DEFAULT} - {control}")]
    return Table(["benchmark", Column("score", "s"), Column("images", "s"), *columns], rows)


def overview_table(
    runs: Sequence[tuple[str, Sequence[Recognition | Segmentation]]],
) -> Table:
    """Return a row for each run and method, the best mean first, and a column for each benchmark.

    Args:
        runs: what each is called, and its benchmarks.
    """
    tasks = {each.name: each.task for _, benchmarks in runs for each in benchmarks}
    kinds = list(dict.fromkeys(tasks.values()))
    means = ["mean"] if len(kinds) == 1 else [f"mean, {task}" for task in kinds]
    rows: list[tuple[float, list[Any]]] = []
    for label, benchmarks in runs:
        by_name = {each.name: each for each in benchmarks}
        for method in dict.fromkeys(own.name for each in benchmarks for own in each.scores):
            values = {name: headline_of(by_name[name], method) if name in by_name else None for name in tasks}
            averages = [_mean([values[name] for name in tasks if tasks[name] == task]) for task in kinds]
            about = [method_cell(method), *([label] if len(runs) > 1 else [])]
            best = math.inf if averages[0] is None else -averages[0]
            rows.append((best, [*about, *values.values(), *averages]))
    columns: list[Column | str] = [
        "method",
        *(["run"] if len(runs) > 1 else []),
        *map(percent, [*tasks, *means]),
    ]
    return Table(columns, [row for _, row in sorted(rows, key=lambda row: row[0])])


def benchmark_text(benchmark: Recognition | Segmentation) -> str:
    """Return what was scored, of how much, and how, in a sentence."""
    left_out = benchmark.counts.left_out
    details = f", {left_out:,} images of no class left out" if left_out else ""
    if isinstance(benchmark, Segmentation):
        details = f", {benchmark.patch_features} patches, short side {benchmark.short_side}, windows of "
        details += f"{benchmark.window}, stride {benchmark.stride} pixels"
        if benchmark.threshold is not None:
            details += f", background below a probability of {benchmark.threshold:g}"
    return (
        f"{_counted(benchmark)} images ({benchmark.convention}, {benchmark.split}), {benchmark.classes} "
        f"classes, {benchmark.texts} texts{details}; the headline is {HEADLINES[benchmark.headline]}."
    )


def method_cell(name: str) -> Cell:
    """Return the name of a method as a cell; on pages, the default stands out."""
    return Cell(name, html=f"<b>{escape(name)}</b>" if name == DEFAULT else None)


def percent(name: str) -> Column:
    """Return a column of shares, shown in percent."""
    return Column(name, ".1f", 100)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _counted(benchmark: Recognition | Segmentation) -> str:
    return f"{benchmark.counts.scored:,} of {benchmark.counts.of:,}"
