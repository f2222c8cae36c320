"""The picture of a run: how far every method is from the control, on every benchmark."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3clip.evaluation.report.comparison import (
    DEFAULT,
    SHOWN,
    Difference,
    draw_control,
    draw_interval,
    first_rows,
)
from s3clip.evaluation.report.schema import Recognition, Segmentation, headline_of
from s3clip.evaluation.report.tables import title_of
from s3clip.printing import counted, new_figure

PANELS = 6  # in a row


def draw_run(
    benchmarks: Sequence[Recognition | Segmentation], control: str, path: str | os.PathLike[str]
) -> Path:
    """Draw a panel for each benchmark, with a row for each of the best methods and the default.

    A row is the difference of the headline score from the control's, with its interval. The rows stand in the
    same order everywhere: by their mean over the benchmarks, the best on top. Each panel has its own scale.

    Args:
        benchmarks: of a run.
        control: the method that differences are taken from; it has no row.
        path: of the file; its ending says in which format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    found: list[dict[str, Difference]] = [
        {scores.name: getattr(scores.differences, each.headline) for scores in each.scores}
        for each in benchmarks
    ]
    means = {
        name: sum(values) / len(values)
        for name in dict.fromkeys(name for each in found for name in each)
        if name != control and (values := [each[name].value for each in found if name in each])
    }
    best_first = sorted(means, key=lambda name: (-means[name], name))
    names = first_rows(best_first, control, SHOWN)[::-1]  # from the bottom up
    columns = min(PANELS, len(benchmarks))
    lines = -(-len(benchmarks) // columns)
    figure = new_figure(2 + max(5, 2.1 * columns), 0.5 + lines * (0.7 + 0.17 * len(names)))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for panel, each, differences in zip(panels, benchmarks, found, strict=False):
        for row, name in enumerate(names):
            if name in differences:  # else it was not scored here
                draw_interval(panel, row, differences[name], marked=name == DEFAULT, width=1.5)
        score = headline_of(each, control)
        said = "" if score is None else f" {100 * score:.1f}"
        draw_control(panel, len(names), f"control: {control}{said}", 7)
        _label_panel(panel, each)
    for panel in panels[len(benchmarks) :]:
        panel.set_visible(False)
    panels[0].set_yticks(range(len(names)), names, fontsize=7)
    figure.supxlabel(f"difference from {control} in points, with 95 % intervals", fontsize=9)
    figure.savefig(path)
    return Path(path)


def _label_panel(panel: Any, benchmark: Recognition | Segmentation) -> None:
    panel.grid(alpha=0.3, lw=0.5)
    panel.tick_params(labelsize=7)
    counts = benchmark.counts
    scored = f"{counts.scored:,} of {counted(counts.of, 'image')}"
    panel.set_title(f"{title_of(benchmark.name)}\n{benchmark.headline}, {scored}", fontsize=8)
