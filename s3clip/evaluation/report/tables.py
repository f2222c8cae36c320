"""The tables of runs: one of all benchmarks, and for each benchmark one of its methods."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from s3clip.evaluation.benchmarks.table import benchmarks as known_benchmarks
from s3clip.evaluation.report.comparison import DEFAULT, Difference, first_rows, method_cell
from s3clip.evaluation.report.schema import (
    HEADLINES,
    Mean,
    Recognition,
    RecognitionScores,
    Segmentation,
    headline_of,
    scores_of,
)
from s3clip.printing import Cell, Column, Table, counted


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


def benchmark_table(benchmark: Recognition | Segmentation, control: str, first: int | None = None) -> Table:
    """Return the scores of methods on a benchmark, in percent, and their differences in points.

    Where its classes are in groups, also top-1 at each level, and how many levels mistakes are off by.

    Args:
        benchmark: of a run.
        control: the method that differences are taken from.
        first: how many methods, and below them the default and the control; None: all.
    """
    levels = list(benchmark.scores[0].levels) if isinstance(benchmark, Recognition) else []
    shown = _SHOWN[benchmark.task]
    shown_names = set(first_rows([own.name for own in benchmark.scores], control, first))
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
            method_cell(own.name, control),
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
        if own.name in shown_names
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
                title_of(each.name),
                HEADLINES[each.headline],
                Cell(_counted(each)),
                *(headline_of(each, name) for name in names),
                difference and difference.cell(of_control=False),
            ]
        )
    tasks = list(dict.fromkeys(each.task for each in benchmarks))
    for task in tasks:
        means = {row.name: row.headline for row in mean if row.task == task}
        title = "mean" if len(tasks) == 1 else f"mean, {task}"
        rows.append([title, None, None, *map(means.get, names), None])
    columns = [*map(percent, names), percent(f"{DEFAULT} - {control}")]
    return Table(["benchmark", Column("score", "s"), Column("images", "s"), *columns], rows)


def overview_table(
    runs: Sequence[tuple[str, str, Sequence[Recognition | Segmentation]]], first: int | None = None
) -> Table:
    """Return a row for each run and method, the best mean first, and a column for each benchmark.

    A score stands with its difference from the run's control and the 95 % interval of that. Of several runs,
    the last column has the difference of the mean from that of the same method in the first one.

    Args:
        runs: what each is called, its control, and its benchmarks.
        first: how many rows, and below them the default and the control of every run; None: all.
    """
    tasks = {each.name: each.task for _, _, benchmarks in runs for each in benchmarks}
    kinds = list(dict.fromkeys(tasks.values()))
    means = ["mean"] if len(kinds) == 1 else [f"mean, {task}" for task in kinds]
    several = len(runs) > 1
    rows: list[tuple[float, str, str, list[Any]]] = []
    first_means: dict[str, float | None] = {}
    for at, (label, control, benchmarks) in enumerate(runs):
        by_name = {each.name: each for each in benchmarks}
        for method in dict.fromkeys(own.name for each in benchmarks for own in each.scores):
            found = {name: by_name[name] for name in tasks if name in by_name}
            values = {name: headline_of(each, method) for name, each in found.items()}
            averages = [_mean([values.get(name) for name in tasks if tasks[name] == task]) for task in kinds]
            about = [method_cell(method, control), *([label] if several else [])]
            scores = [
                _beside(values.get(name), _difference(found.get(name), method, control)) for name in tasks
            ]
            now, then = averages[0], first_means.get(method) if at else None
            change = None if then is None or now is None else now - then
            best = math.inf if now is None else -now
            if at == 0:
                first_means[method] = now
            rows.append((best, method, control, [*about, *scores, *averages, *([change] if several else [])]))
    columns: list[Column | str] = [
        "method",
        *(["run"] if several else []),
        *map(percent, [*map(title_of, tasks), *means]),
        *([Column(f"{means[0]} - {runs[0][0]}", "+.1f", 100)] if several else []),
    ]
    rows.sort(key=lambda row: row[0])
    return Table(
        columns,
        [
            cells
            for row, (_, method, control, cells) in enumerate(rows)
            if first is None or row < first or method in (DEFAULT, control)
        ],
    )


def scores_table(runs: Sequence[tuple[str, str | None, Sequence[Recognition | Segmentation]]]) -> Table:
    """Return the headline score of every method on every benchmark of every run, a row each, for CSV.

    Args:
        runs: what each is called, its model, and its benchmarks.
    """
    rows = []
    for label, model, benchmarks in runs:
        for each in benchmarks:
            about = [label, model, each.name, title_of(each.name), each.task, each.convention, each.split]
            for own in each.scores:
                difference: Difference = getattr(own.differences, each.headline)
                score = getattr(own, HEADLINES[each.headline])
                shown = (score, difference.value, difference.low, difference.high)
                values = [round(value, 6) for value in shown]
                rows.append([*about, each.counts.scored, own.name, HEADLINES[each.headline], *values])
    columns = ["run", "model", "benchmark", "title", "task", "convention", "split", "images"]
    return Table([*columns, "method", "score", "value", "difference", "low", "high"], rows)


def title_of(name: str) -> str:
    """Return what a benchmark of the table is called in print; a set of one's own by its name."""
    known = known_benchmarks().get(name)
    return name if known is None else known.title or name


def _difference(benchmark: Recognition | Segmentation | None, method: str, control: str) -> Difference | None:
    scores = None if benchmark is None or method == control else scores_of(benchmark, method)
    if benchmark is None or scores is None:
        return None
    found: Difference = getattr(scores.differences, benchmark.headline)
    return found


def _beside(score: float | None, difference: Difference | None) -> Cell | float | None:
    """Return a score with what it is more than the control's, as one cell."""
    if score is None or difference is None:
        return score
    said = f"{100 * score:.1f}"
    return Cell(f"{said} ({difference})", score, f"{said} <small>{escape(str(difference))}</small>")


def benchmark_text(benchmark: Recognition | Segmentation) -> str:
    """Return what was scored, of how much, and how, in a sentence."""
    left_out = benchmark.counts.left_out
    details = f", {counted(left_out, 'image')} of no class left out" if left_out else ""
    if isinstance(benchmark, Segmentation):
        details = f", {benchmark.patch_features} patches, short side {benchmark.short_side}, windows of "
        details += f"{benchmark.window}, stride {benchmark.stride} pixels"
        if benchmark.threshold is not None:
            details += f", background below a probability of {benchmark.threshold:g}"
    return (
        f"{benchmark.counts.scored:,} of {counted(benchmark.counts.of, 'image')} ({benchmark.convention}, "
        f"{benchmark.split}), {counted(benchmark.classes, 'class')}, "
        f"{counted(benchmark.texts, 'text')}{details}; the headline is {HEADLINES[benchmark.headline]}."
    )


def percent(name: str) -> Column:
    """Return a column of shares, shown in percent."""
    return Column(name, ".1f", 100)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _counted(benchmark: Recognition | Segmentation) -> str:
    return f"{benchmark.counts.scored:,} of {benchmark.counts.of:,}"
