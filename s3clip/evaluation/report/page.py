"""Several runs side by side in one HTML page that asks for nothing else."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from s3clip.evaluation.report.comparison import SHOWN, suffixes_text
from s3clip.evaluation.report.run import Run
from s3clip.evaluation.report.schema import Example, Recognition, Segmentation, WorstIou, WorstRecall
from s3clip.evaluation.report.tables import (
    benchmark_table,
    benchmark_text,
    overview_table,
    percent,
    scores_table,
    title_of,
)
from s3clip.html_page import html_page
from s3clip.printing import Cell, Column, Table, html_text

LARGEST_THUMBNAIL = 1 << 20
"""Bytes; those of `s3clip eval` have a few thousand."""

_STYLE = """
body { margin: 2rem auto; max-width: 1200px; padding: 0 1rem; overflow-wrap: break-word }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .25rem .7rem; text-align: left; white-space: nowrap }
th, td { border-bottom: 1px solid var(--line) }
th.number, td[data-value] { text-align: right }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper) }
th button { font: inherit; font-weight: bold; border: 0; background: none; cursor: pointer; padding: 0 }
th button { color: inherit }
th button::after { content: " \\2195"; color: var(--soft) }
th[aria-sort] button::after { content: " \\2191"; color: inherit }
th[aria-sort=descending] button::after { content: " \\2193" }
small, .soft { color: var(--soft) }
summary { cursor: pointer; color: var(--blue) }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px }
.warning { background: var(--warn); border-left: 4px solid var(--rust); padding: .4rem .8rem }
.wide { overflow-x: auto } figure { display: inline-block; margin: 0 .6rem .6rem 0; text-align: center }
figcaption { font-size: 12px; max-width: 110px; overflow-wrap: anywhere; color: var(--soft) }
figcaption { white-space: normal }
@media (max-width: 600px) {
  body { margin: 1rem auto }
  th, td { padding: .25rem .4rem }
  td:first-child { white-space: normal; min-width: 7rem }
}
"""

# Without it the tables are there, in the order of the runs.
_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    head.classList.toggle("number", [...body.rows].some(row => "value" in row.cells[column].dataset));
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
"""


def run_page(runs: Sequence[tuple[Path, Run]]) -> str:
    """Return a whole HTML page: a table of all runs, then the tables and worst classes of each benchmark.

    Args:
        runs: folders, and what `Run.read` found there; thumbnails are put into the page.
    """
    labels = run_labels([folder for folder, _ in runs])
    named = [(label, folder, run) for label, (folder, run) in zip(labels, runs, strict=True)]
    benchmarks = [(label, run.settings.control, run.benchmarks) for label, _, run in named]
    names = dict.fromkeys(own.name for _, _, each in benchmarks for one in each for own in one.scores)
    between = (
        " The last column is the mean's difference from that of the same method in the first run; runs hold "
        "no answers image by image, so that it has no interval."
        if len(runs) > 1
        else ""
    )
    parts = [
        "<h1>Zero-shot runs</h1>",
        _wide(_models(named)),
        "<h2>All benchmarks</h2>",
        "<p>The headline score of each benchmark in percent, and in brackets what it is more than the run's "
        "control, in points with its 95 % paired-bootstrap interval; the mean where all of a task were run."
        f"{between} A click on the head of a column sorts a table.</p>",
        f'<p class="soft">{html_text(suffixes_text(list(names)))}</p>',
        *_first_and_all(lambda first: overview_table(benchmarks, first)),
    ]
    for name in dict.fromkeys(each.name for _, _, own in benchmarks for each in own):
        title = title_of(name)
        also = "" if title == name else f' <small class="soft">{html_text(name)}</small>'
        parts.append(f"<h2>{html_text(title)}{also}</h2>")
        worst = []
        for label, folder, run in named:
            for each in run.benchmarks:
                if each.name == name:
                    parts += [f"<h3>{html_text(label)}</h3>"] if len(runs) > 1 else []
                    parts += _benchmark(run.settings.control, each)
                    worst.append((label, folder, each))
        parts += _worst(worst)
    parts += ["<details><summary>Which models exactly</summary>", _wide(_exact_models(named)), "</details>"]
    return html_page("s3clip: zero-shot runs", _STYLE, "\n".join(parts), _SCRIPT)


def run_csv(runs: Sequence[tuple[Path, Run]]) -> str:
    """Return the headline score of every method, benchmark and run as CSV, a row each."""
    labels = run_labels([folder for folder, _ in runs])
    return scores_table(
        [(label, run.model.name, run.benchmarks) for label, (_, run) in zip(labels, runs, strict=True)]
    ).csv()


def run_latex(runs: Sequence[tuple[Path, Run]]) -> str:
    """Return the table of all runs for LaTeX: the best methods, the default and the control."""
    labels = run_labels([folder for folder, _ in runs])
    return overview_table(
        [(label, run.settings.control, run.benchmarks) for label, (_, run) in zip(labels, runs, strict=True)],
        SHOWN,
    ).latex()


def run_labels(folders: Sequence[Path]) -> list[str]:
    """Return a label a run: its folder's name; numbered where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _models(runs: Sequence[tuple[str, Path, Run]]) -> Table:
    rows = []
    for label, _, run in runs:
        images = sum(each.images_encoded for each in run.measured.benchmarks)
        seconds = sum(each.encoding_seconds for each in run.measured.benchmarks)
        speed = images / seconds if images and seconds else None
        rows.append([label, run.model.name, run.model.dtype, run.measured.seconds, speed])
    columns = ["run", "model", "dtype"]
    return Table([*columns, Column("seconds", ",.1f"), Column("images per second", ",.0f")], rows)


def _exact_models(runs: Sequence[tuple[str, Path, Run]]) -> Table:
    rows = [[label, run.model.name, run.model.revision, run.model.fingerprint] for label, _, run in runs]
    return Table(["run", "model", "revision", "fingerprint"], rows)


def _benchmark(control: str, benchmark: Recognition | Segmentation) -> list[str]:
    lines = [f'<p class="warning">Warning: {html_text(warning)}</p>' for warning in benchmark.warnings]
    lines.append(
        f"<p>{html_text(benchmark_text(benchmark))} Differences from {html_text(control)} in points, with "
        "95 % paired-bootstrap intervals.</p>"
    )
    return [*lines, *_first_and_all(lambda first: benchmark_table(benchmark, control, first))]


def _first_and_all(table: Callable[[int | None], Table]) -> list[str]:
    """Return the first rows of a table, and behind a fold all of them, where they are more."""
    first, every = table(SHOWN), table(None)
    if len(first.rows) == len(every.rows):
        return [_wide(every)]
    folded = f"<details><summary>All {len(every.rows)} rows</summary>{_wide(every)}</details>"
    return [_wide(first), folded]


def _worst(found: Sequence[tuple[str, Path, Recognition | Segmentation]]) -> list[str]:
    """Return the classes that any of some runs does worst on, each once, with the score of each run."""
    by_class: dict[str, dict[str, tuple[Path, WorstRecall | WorstIou]]] = {}
    for label, folder, benchmark in found:
        own: Sequence[WorstRecall | WorstIou] = benchmark.worst_classes.classes
        for each in own:
            by_class.setdefault(each.name, {})[label] = folder, each
    if not by_class:
        return []
    score = "recall" if isinstance(found[0][2], Recognition) else "IoU"
    several = len(found) > 1
    columns = [percent(f"{score}, {label}" if several else score) for label, _, _ in found]
    rows = []
    for name, own_runs in by_class.items():
        folder, first = next(iter(own_runs.values()))
        taken = ", ".join(f"{other} ({count:,})" for other, count in first.taken_for)
        pictures = "".join(_example(folder, name, example) for example in first.examples)
        scores = [_score_of(own_runs[label][1]) if label in own_runs else None for label, _, _ in found]
        rows.append([name, first.images, *scores, taken, Cell("", html=pictures)])
    methods = dict.fromkeys(benchmark.worst_classes.method for _, _, benchmark in found)
    note = " An empty cell: not among the worst of that run." if several else ""
    return [
        f"<h3>Worst classes of {html_text(' and '.join(methods))}</h3>",
        *([f'<p class="soft">{note}</p>'] if note else []),
        _wide(Table(["class", Column("images", ","), *columns, "taken for", "such as"], rows)),
    ]


def _score_of(each: WorstRecall | WorstIou) -> float:
    return each.recall if isinstance(each, WorstRecall) else each.iou


def _example(folder: Path, name: str, example: Example) -> str:
    content = b"" if example.thumbnail is None else _thumbnail(folder, example.thumbnail)
    picture = ""
    if content:
        encoded = base64.b64encode(content).decode()
        said = html_text(f"{name}, taken for {example.taken_for}")
        picture = f'<img alt="{said}" src="data:image/jpeg;base64,{encoded}"><br>'
    caption = f"<figcaption>taken for {html_text(example.taken_for)}</figcaption>"
    return f'<figure title="{html_text(example.key)}">{picture}{caption}</figure>'


def _thumbnail(folder: Path, name: str) -> bytes:
    """Return a small JPEG below the folder of a run; nothing where it lies elsewhere, or is no JPEG."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return b""
        with path.open("rb") as file:
            content = file.read(LARGEST_THUMBNAIL + 1)
    except (OSError, ValueError, RuntimeError):  # such as links in a loop; the page is worth having without
        return b""
    return content if content.startswith(b"\xff\xd8\xff") and len(content) <= LARGEST_THUMBNAIL else b""


def _wide(table: Table) -> str:
    return f'<div class="wide">{table.html()}</div>'
