"""The notebook runs from top to bottom, in an empty folder, and shows what it says."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from tests import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_its_cells_run_in_order_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    session: dict[str, object] = {"__name__": "__main__"}
    said = []
    for number, cell in enumerate(cells):
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), session)
            said.append(printed.getvalue())
    by_name = [float(each) for each in re.findall(r"([\d.]+) %", said[0])]
    ensemble, space = (float(each) for each in re.findall(r"([\d.]+) %", said[1]))
    assert len(by_name) == 8
    assert min(by_name) < 50 < min(ensemble, space)
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "digits-space"}


def test_it_is_a_notebook_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
