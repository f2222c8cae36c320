"""examples/studies/bulk_rates.py: it labels what it wrote, and leaves nothing behind."""

import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT, STUDIES

pytest.importorskip("psutil", reason="psutil comes with Ray")
SCRIPT = STUDIES / "bulk_rates.py"


@pytest.mark.parametrize("what", ["embeddings", "pictures"])
def test_small(what: str, tmp_path: Path, monkeypatch, capfd):
    line = f"{SCRIPT} {what} --rows 200 --dim 16 --distinct 5 --workers 0 --at {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capfd.readouterr().out
    assert re.findall(r"workers 0: (\d+) rows", printed) == ["20", "200"]
    assert "the plain loop:" in printed
    assert ("decoding alone:" in printed) == (what == "pictures")
    assert not list(tmp_path.iterdir())


def test_stopped_it_leaves_nothing_behind(tmp_path: Path):
    line = [
        sys.executable,
        str(SCRIPT),
        "embeddings",
        "--rows",
        "20000",
        "--dim",
        "16",
        "--at",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert job.stdout is not None
    assert b"model: none" in job.stdout.readline()
    assert list(tmp_path.iterdir())
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=60)
    assert job.returncode
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_seen_before(tmp_path: Path, monkeypatch):
    line = f"{SCRIPT} embeddings --rows 1000000000000 --at {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit, match=r"--rows: they need about"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
