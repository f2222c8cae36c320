"""Several runs side by side in one HTML page that asks for nothing else."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from s3clip.evaluation.report.run import Run
from s3clip.evaluation.report.schema import Example, Recognition, Segmentation, WorstIou, WorstRecall
from s3clip.evaluation.report.tables import benchmark_table, benchmark_text, overview_table, percent
from s3clip.printing import Cell, Column, Table, printable

LARGEST_THUMBNAIL = 1 << 20
"""Bytes; those of `s3clip eval` have a few thousand."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px }
body { padding: 0 1rem; color: #1f2328 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .25rem .7rem; text-align: left; white-space: nowrap }
th, td { border-bottom: 1px solid #d1d9e0 }
th.number, td[data-value] { text-align: right }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff }
th button::after { content: " \\2195"; color: #8c959f }
th[aria-sort] button::after { content: " \\2191"; color: inherit }
th[aria-sort=descending] button::after { content: " \\2193" }
th button { font: inherit; font-weight: bold; border: 0; background: none; cursor: pointer; padding: 0 }
.warning { background: #fff1e5; border-left: 4px solid #bc4c00; padding: .4rem .8rem }
.wide { overflow-x: auto } figure { display: inline-block; margin: 0 .6rem .6rem 0; text-align: center }
figcaption { font-size: 12px; max-width: 110px; overflow-wrap: anywhere; color: #59636e }
@media (max-width: 600px) {
  body { margin: 1rem auto }
  th, td { padding: .25rem .4rem }
  td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem }
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
    labels = _labels([folder for folder, _ in runs])
    benchmarks = [(label, run.benchmarks) for label, (_, run) in zip(labels, runs, strict=True)]
    parts = [
        "<h1>Zero-shot runs</h1>",
        _wide(_models([run for _, run in runs], labels)),
        "<h2>All benchmarks</h2>",
        "<p>The headline score of each benchmark in percent; the mean where all of a task were run. A click "
        "on the head of a column sorts a table.</p>",
        _wide(overview_table(benchmarks)),
    ]
    for name in dict.fromkeys(each.name for _, own in benchmarks for each in own):
        parts.append(f"<h2>{_text(name)}</h2>")
        for (folder, run), label in zip(runs, labels, strict=True):
            for each in run.benchmarks:
                if each.name == name:
                    parts += [f"<h3>{_text(label)}</h3>"] if len(runs) > 1 else []
                    parts += _benchmark(folder, run.settings.control, each)
    body = "\n".join(parts)
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>s3clip: zero-shot runs</title>\n"
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return a label a run: its folder's name; numbered where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _models(runs: Sequence[Run], labels: Sequence[str]) -> Table:
    rows = []
    for run, label in zip(runs, labels, strict=True):
        images = sum(each.images_encoded for each in run.measured.benchmarks)
        seconds = sum(each.encoding_seconds for each in run.measured.benchmarks)
        model, speed = run.model, images / seconds if images and seconds else None
        about = [label, model.name, model.revision, model.fingerprint[:16], model.dtype]
        rows.append([*about, run.measured.seconds, speed])
    columns = ["run", "model", "revision", "fingerprint", "dtype"]
    return Table([*columns, Column("seconds", ",.1f"), Column("images per second", ",.0f")], rows)


def _benchmark(folder: Path, control: str, benchmark: Recognition | Segmentation) -> list[str]:
    lines = [f'<p class="warning">Warning: {_text(warning)}</p>' for warning in benchmark.warnings]
    lines.append(
        f"<p>{_text(benchmark_text(benchmark))} Differences from {_text(control)} in points, with 95 % "
        "paired-bootstrap intervals.</p>"
    )
    lines.append(_wide(benchmark_table(benchmark, control)))
    worst: Sequence[WorstRecall | WorstIou] = benchmark.worst_classes.classes
    if worst:
        rows = [
            [
                each.name,
                each.images,
                each.recall if isinstance(each, WorstRecall) else each.iou,
                ", ".join(f"{name} ({count:,})" for name, count in each.taken_for),
                Cell("", html="".join(_example(folder, example) for example in each.examples)),
            ]
            for each in worst
        ]
        score = percent("recall" if isinstance(benchmark, Recognition) else "IoU")
        lines.append(f"<h4>Worst classes of {_text(benchmark.worst_classes.method)}</h4>")
        lines.append(_wide(Table(["class", Column("images", ","), score, "taken for", "such as"], rows)))
    return lines


def _example(folder: Path, example: Example) -> str:
    content = b"" if example.thumbnail is None else _thumbnail(folder, example.thumbnail)
    picture = ""
    if content:
        encoded = base64.b64encode(content).decode()
        picture = f'<img alt="{_text(example.key)}" src="data:image/jpeg;base64,{encoded}"><br>'
    caption = f"<figcaption>{_text(example.key)}<br>{_text(example.taken_for)}</figcaption>"
    return f"<figure>{picture}{caption}</figure>"


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


def _text(value: str) -> str:
    return escape(printable(value))


def _wide(table: Table) -> str:
    return f'<div class="wide">{table.html()}</div>'
