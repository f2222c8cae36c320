"""What people are shown: one table as text, Markdown, HTML and CSV, one way to a terminal, and figures."""

import csv
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = re.compile(r"[=@\t]|[+-](?!\d[\d.]*(e[+-]?\d+)?$)")  # what no number begins with, or ends like


def printable(text: str) -> str:
    r"""Return a text with what moves a terminal's cursor, or turns its words round, as \u001b.

    Line breaks and tabs stay. What is replaced in JSON is JSON as before, of the same strings.
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, *, error: bool = False) -> None:
    """Print lines on standard output, or on standard error. All that the commands print goes through here."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 class", "2,000 classes"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        form: how its numbers are shown, as `format` takes it: ",.1f". With one, it is set to the right.
        factor: from its numbers to those that are shown: 100 for percent.
    """

    name: str
    form: str = ""
    factor: float = 1


@dataclass(frozen=True)
class Cell:
    """A cell that is shown in its own way.

    Attributes:
        text: what is shown.
        value: what it is sorted by, and what JSON has; None: the text.
        html: what a page shows instead of the text, escaped already.
    """

    text: str
    value: Any = None
    html: str | None = None


@dataclass(frozen=True)
class Table:
    """A table to print.

    Attributes:
        columns: with their names alone, they are shown as they are, and set to the left.
        rows: a cell for each column: a text, a number, None where there is none, or a `Cell`.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        """Return aligned columns for a terminal; "-" is where there is nothing."""
        lines = [[re.sub(r"\s", " ", cell) for cell in row] for row in [self._names(), *self._shown("-")]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = [bool(column.form) for column in self._columns()]
        padded = [
            [
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, right, strict=True)
            ]
            for row in lines
        ]
        return "\n".join("  ".join(row).rstrip() for row in padded)

    def markdown(self) -> str:
        """Return a Markdown table."""
        names, *rows = [[markdown_text(cell) for cell in row] for row in [self._names(), *self._shown("")]]
        rule = ["---:" if column.form else "---" for column in self._columns()]
        return "\n".join(f"| {' | '.join(row)} |" for row in [names, rule, *rows])

    def html(self) -> str:
        """Return a table for a page, its cells escaped; numbers are in `data-value` too."""
        heads = "".join(f'<th scope="col">{html_text(name)}</th>' for name in self._names())
        body = "\n".join(
            f"<tr>{''.join(map(_html, self._columns(), row, shown))}</tr>"
            for row, shown in zip(self.rows, self._shown(""), strict=True)
        )
        return f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"

    def latex(self) -> str:
        r"""Return a LaTeX tabular with the rules of booktabs (`\\usepackage{booktabs}`)."""
        names, *rows = [[latex_text(cell) for cell in row] for row in [self._names(), *self._shown("--")]]
        sides = "".join("r" if column.form else "l" for column in self._columns())
        # A row that began with a bracket would be an option of the break before it.
        head, *lines = ("{}" * row[0].startswith("[") + " & ".join(row) + r" \\" for row in [names, *rows])
        body = [r"\begin{tabular}{" + sides + "}", r"\toprule", head, r"\midrule", *lines]
        return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def csv(self) -> str:
        """Return CSV; an apostrophe goes before a text that a spreadsheet would take for a formula."""
        text = io.StringIO()
        rows = [
            ["-" if cell is None else as_in_spreadsheet(cell) for cell in map(_value, row)]
            for row in self.rows
        ]
        csv.writer(text, lineterminator="\n").writerows([self._names(), *rows])
        return text.getvalue()

    def records(self) -> list[dict[str, Any]]:
        """Return a dictionary for each row, ready for JSON."""
        return [dict(zip(self._names(), map(_value, row), strict=True)) for row in self.rows]

    def _columns(self) -> list[Column]:
        return [Column(each) if isinstance(each, str) else each for each in self.columns]

    def _names(self) -> list[str]:
        return [column.name for column in self._columns()]

    def _shown(self, nothing: str) -> list[list[str]]:
        columns = self._columns()
        return [[_text(*pair, nothing) for pair in zip(columns, row, strict=True)] for row in self.rows]


def as_in_spreadsheet(cell: Any) -> Any:
    """Return a text with an apostrophe before it where a spreadsheet would take it for a formula."""
    text = printable(cell) if isinstance(cell, str) else cell
    return f"'{text}" if _is_formula(text) else text


def from_spreadsheet(cell: str) -> str:
    """Return a cell of CSV without the apostrophe that `as_in_spreadsheet` put before it."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def markdown_text(text: str) -> str:
    """Return a text as one line of Markdown that is neither HTML nor a link, nor ends a cell of a table."""
    line = printable(" ".join(text.split()))
    return line.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def html_text(text: str) -> str:
    """Return a text as HTML that says nothing else, in an attribute too."""
    return escape(printable(text))


def latex_text(text: str) -> str:
    """Return a text as one line of LaTeX that says nothing else."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    line = printable(" ".join(text.split()))
    return "".join(named.get(each, f"\\{each}" if each in "#$%&_{}" else each) for each in line)


def _is_formula(cell: Any) -> bool:
    return isinstance(cell, str) and _FORMULA.match(cell) is not None


def _value(cell: Any) -> Any:
    return cell if not isinstance(cell, Cell) else cell.text if cell.value is None else cell.value


def _text(column: Column, cell: Any, nothing: str) -> str:
    if cell is None:
        return nothing
    if isinstance(cell, Cell):
        return cell.text
    return (
        format(cell * column.factor, column.form) if column.form and not isinstance(cell, str) else str(cell)
    )


def _html(column: Column, cell: Any, shown: str) -> str:
    value = _value(cell)
    number = column.form and isinstance(value, int | float)
    content = cell.html if isinstance(cell, Cell) and cell.html is not None else html_text(shown)
    return f'<td data-value="{value:.6f}">{content}</td>' if number else f"<td>{content}</td>"


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, in inches; no screen is needed and no backend is chosen.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 's3clip[plot]'") from error
    return Figure(figsize=(width, height), dpi=130, layout="constrained")
