"""Several runs side by side in one HTML page that asks for nothing else."""

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from s3clip.evaluation.methods import DEFAULT
from s3clip.evaluation.report.comparison import Difference, format_difference
from s3clip.evaluation.report.results import FORMAT, HEADLINES, TABLES, describe_patches

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


def read_runs(folders: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Read the `run.json` of each folder.

    Raises:
        FileNotFoundError: a folder without one.
        ValueError: it is something else.
    """
    found = []
    for folder in folders:
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: no such file; expected a folder of `s3clip eval`") from error
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path}: expected the format {FORMAT!r}, as `s3clip eval` writes it")
        found.append((folder, content))
    return found


def run_page(runs: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    """Return a whole HTML page: a table of all runs, then the tables and worst classes of each benchmark.

    Args:
        runs: what `read_runs` returns; thumbnails are taken from the folders, and put into the page.
    """
    labels = _labels(runs)
    names = list(dict.fromkeys(each["name"] for _, run in runs for each in run["benchmarks"]))
    parts = ["<h1>Zero-shot runs</h1>", _models(runs, labels), "<h2>All benchmarks</h2>"]
    parts.append(_overview(runs, labels, names))
    for name in names:
        parts.append(f"<h2>{escape(name)}</h2>")
        for (folder, run), label in zip(runs, labels, strict=True):
            for each in run["benchmarks"]:
                if each["name"] == name:
                    parts += [f"<h3>{escape(label)}</h3>"] if len(runs) > 1 else []
                    parts.append(_benchmark(folder, run, each))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>s3clip: zero-shot runs</title>\n"
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def _labels(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    """Return a label a run: its folder's name; numbered where two have the same."""
    names = [folder.resolve().name for folder, _ in runs]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _models(runs: Sequence[tuple[Path, dict[str, Any]]], labels: list[str]) -> str:
    header = ["run", "model", "revision", "fingerprint", "dtype", "seconds", "images per second"]
    rows = []
    for (_, run), label in zip(runs, labels, strict=True):
        model, measured = run["model"], run["measured"]
        images = sum(each["images_encoded"] for each in measured["benchmarks"])
        seconds = sum(each["encoding_seconds"] for each in measured["benchmarks"])
        speed = images / seconds if images and seconds else None
        rows.append(
            [
                _text(label),
                _text(model["name"]),
                _text(model["revision"]),
                _text(model["fingerprint"][:16]),
                _text(model["dtype"]),
                _number(measured["seconds"], 1),
                _number(speed, 0),
            ]
        )
    return _table(header, rows)


def _overview(runs: Sequence[tuple[Path, dict[str, Any]]], labels: list[str], names: list[str]) -> str:
    """Every run and method a row, the best mean first; every benchmark a column."""
    task_of = {each["name"]: each["task"] for _, run in runs for each in run["benchmarks"]}
    tasks = list(dict.fromkeys(task_of[name] for name in names))
    means = ["mean"] if len(tasks) == 1 else [f"mean, {task}" for task in tasks]
    several = len(runs) > 1
    header = ["method", *(["run"] if several else []), *names, *means]
    rows: list[tuple[float, list[str]]] = []
    for (_, run), label in zip(runs, labels, strict=True):
        by_name = {each["name"]: each for each in run["benchmarks"]}
        methods = list(dict.fromkeys(s["name"] for each in run["benchmarks"] for s in each["scores"]))
        for method in methods:
            values: dict[str, float | None] = {}
            for name in names:
                scores = by_name[name]["scores"] if name in by_name else []
                own = [s[HEADLINES[by_name[name]["headline"]]] for s in scores if s["name"] == method]
                values[name] = 100 * own[0] if own else None
            averages = [_mean([values[name] for name in names if task_of[name] == task]) for task in tasks]
            cells = [_number(value, 1) for value in [*values.values(), *averages]]
            about = [_method(method), *([_text(label)] if several else [])]
            best = averages[0]
            rows.append((-math.inf if best is None else best, [*about, *cells]))
    rows.sort(key=lambda row: -row[0])
    return (
        "<p>The headline score of each benchmark in percent; the mean where all of a task were run. A click "
        "on the head of a column sorts a table.</p>" + _table(header, [cells for _, cells in rows])
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _benchmark(folder: Path, run: dict[str, Any], benchmark: dict[str, Any]) -> str:
    control, counts = run["settings"]["control"], benchmark["counts"]
    details = describe_patches(benchmark) or f"{counts['left_out']:,} images of no class left out"
    lines = [f'<p class="warning">Warning: {escape(text)}</p>' for text in benchmark["warnings"]]
    lines.append(
        f"<p>{counts['scored']:,} of {counts['of']:,} images ({escape(benchmark['convention'])}, "
        f"{escape(benchmark['split'])}), {benchmark['classes']} classes, {benchmark['texts']} texts, "
        f"{escape(details)}. Headline: {HEADLINES[benchmark['headline']]}. Differences from "
        f"{escape(control)} in points, with 95 % paired-bootstrap intervals.</p>"
    )
    table = TABLES[benchmark["task"]]
    differences = [f"{what} - control" for what in table.differences]
    header = ["method", *table.scores, *differences, *table.others]
    rows = []
    for score in benchmark["scores"]:
        plain = [_number(100 * score[key], 1) for key in table.scores.values()]
        is_control = score["name"] == control
        deltas = [_delta(score["differences"][what], is_control) for what in table.differences.values()]
        others = [_number(100 * score[key], 1) for key in table.others.values()]
        rows.append([_method(score["name"]), *plain, *deltas, *others])
    lines.append(_table(header, rows))
    heading, least = table.worst
    worst = benchmark["worst_classes"]
    if worst["classes"]:
        lines.append(f"<h4>Worst classes of {escape(worst['method'])}</h4>")
        rows = [
            [
                _text(each["class"]),
                _number(each["images"], 0),
                _number(100 * each[least], 1),
                _text(", ".join(f"{name} ({count:,})" for name, count in each["taken_for"])),
                f"<td>{''.join(_example(folder, example) for example in each['examples'])}</td>",
            ]
            for each in worst["classes"]
        ]
        lines.append(_table(["class", "images", heading, "taken for", "such as"], rows))
    return "\n".join(lines)


def _example(folder: Path, example: dict[str, Any]) -> str:
    caption = f"<figcaption>{escape(example['key'])}<br>{escape(example['taken_for'])}</figcaption>"
    try:
        content = (folder / example["thumbnail"]).read_bytes() if example["thumbnail"] else b""
    except OSError:  # the page is worth having without
        content = b""
    picture = ""
    if content:
        encoded = base64.b64encode(content).decode()
        picture = f'<img alt="{escape(example["key"])}" src="data:image/jpeg;base64,{encoded}"><br>'
    return f"<figure>{picture}{caption}</figure>"


def _table(header: list[str], rows: list[list[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _text(value: Any) -> str:
    return f"<td>{escape(str('' if value is None else value))}</td>"


def _method(name: str) -> str:
    return f"<td><b>{escape(name)}</b></td>" if name == DEFAULT.name else _text(name)


def _number(value: float | None, digits: int) -> str:
    return "<td></td>" if value is None else f'<td data-value="{value:.6f}">{value:,.{digits}f}</td>'


def _delta(difference: dict[str, float], is_control: bool) -> str:
    said = "control" if is_control else format_difference(Difference(**difference))
    return f'<td data-value="{difference["value"]:.6f}">{said}</td>'
