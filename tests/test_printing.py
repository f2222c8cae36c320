"""One table for terminal, Markdown, pages and spreadsheets, and what goes to a terminal."""

import csv
import io
import json
import math

import pytest

from s3clip.printing import Cell, Column, Table, from_spreadsheet, markdown_text, printable, say

NASTY = "<b>x</b>|\x1b[2J\u202e\n![y](http://z)"
TABLE = Table(
    ["name", Column("share", ".1f", 100), Column("difference", "+.1f")],
    [["first", 0.5, Cell("+1.0 [0, 2]", 0.01)], ["2nd", None, None], ["third", 0.125, Cell("control", 0.0)]],
)


def test_a_terminal():
    assert str(TABLE).splitlines() == [
        "name   share   difference",
        "first   50.0  +1.0 [0, 2]",
        "2nd        -            -",
        "third   12.5      control",
    ]
    assert str(Table(["a", "b"], [["x\ny", 1]])).splitlines() == ["a    b", "x y  1"]


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        "| name | share | difference |",
        "| --- | ---: | ---: |",
        "| first | 50.0 | +1.0 [0, 2] |",
        "| 2nd |  |  |",
        "| third | 12.5 | control |",
    ]
    row = Table(["a", "b"], [[NASTY, "c"]]).markdown().splitlines()
    assert len(row) == 3
    assert row[2] == "| &lt;b>x&lt;/b>\\|\\u001b[2J\\u202e ![y]\\(http://z) | c |"


def test_html():
    page = Table([NASTY, Column("n", ",")], [[NASTY, 1234], [Cell("t", html="<i>t</i>"), math.inf]]).html()
    assert "<b>" not in page
    assert page.count("&lt;b&gt;x&lt;/b&gt;|\\u001b[2J\\u202e") == 2
    assert '<td data-value="1234.000000">1,234</td>' in page
    assert "<td><i>t</i></td>" in page
    assert '<td data-value="inf">inf</td>' in page


FORMULAS = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3+cmd", "@SUM(A1)", "\tx", "=", "-"]
PLAIN = ["cat", "-0.5", "+3", "1e-5", "-1.5e-5", "'tis", "", "'", "a=b", "é"]


@pytest.mark.parametrize("cell", FORMULAS + PLAIN)
def test_no_cell_of_csv_is_a_formula_and_it_comes_back(cell):
    text = Table(["cell", "n"], [[cell, -1.5], [None, 2]]).csv()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[1] == [f"'{cell}" if cell in FORMULAS else cell, "-1.5"]
    assert rows[2] == ["-", "2"]
    assert from_spreadsheet(rows[1][0]) == cell
    assert "\r" not in Table(["a"], [["x\ry"]]).csv()


def test_records_have_the_values():
    assert TABLE.records()[0] == {"name": "first", "share": 0.5, "difference": 0.01}
    assert TABLE.records()[1] == {"name": "2nd", "share": None, "difference": None}


@pytest.mark.parametrize(
    "code", [*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x202E, 0x2066, 0xDCFF]
)
def test_what_moves_a_cursor_is_shown(code, capsys):
    said = f"a{chr(code)}b\n\tü日🙂"
    say(said)
    say(said, error=True)
    printed = capsys.readouterr()
    assert printed.out == printed.err == f"a\\u{code:04x}b\n\tü日🙂\n"
    shown = json.dumps([said], ensure_ascii=False)
    assert json.loads(printable(shown)) == [said]
    assert chr(code) not in printable(shown)


def test_markdown_text_is_one_line():
    assert markdown_text("a\n\n# b\r\n<script>") == "a # b &lt;script>"
