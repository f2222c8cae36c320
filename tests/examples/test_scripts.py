"""The short scripts of examples/ run as they are, offline, in an empty folder, and say what they found."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests import ROOT

SAID = {
    "calibrate_and_reject": r"accepted of \d+ digits it has a class for: (9\d|100)\.\d%",
    "compare_your_images": r"(?m)^default +9\d\.\d",
    "pipeline": r"50 of 50 answers are the same",
    "quickstart": r"it answers zero, one, two, three, four, five",
    "vector_store": r"head: 9\d\.\d% right",
}
WRITTEN = {
    "compare_your_images": {"digits", "comparison"},
    "quickstart": {"quickstart-space"},
    "vector_store": {"digits-space"},
}


def test_every_script_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAID)


@pytest.mark.parametrize("script", SAID)
def test_scripts_run_in_an_empty_folder(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    path = ROOT / "examples" / f"{script}.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert re.search(SAID[script], said), said
    assert {each.name for each in tmp_path.iterdir()} == WRITTEN.get(script, set())


@pytest.mark.parametrize("script", SAID)
def test_scripts_are_short_and_say_how_to_run_them(script: str):
    text = (ROOT / "examples" / f"{script}.py").read_text(encoding="utf-8")
    assert 30 <= len(text.splitlines()) <= 80
    assert f"python examples/{script}.py\n" in text.split('"""')[1]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples" / "studies").glob("*.py")), ids=lambda path: path.stem
)
def test_studies_say_how_to_run_them(path: Path):
    text = path.read_text(encoding="utf-8")
    assert f"python examples/studies/{path.name}" in text.split('"""')[1] or "__main__" not in text
