"""A few kills of every job; `python -m tests.fuzz.kill` makes many."""

import os
import subprocess
import sys

import pytest

from tests import ROOT

pytest.importorskip("pyarrow", reason="label needs it: pip install 's3clip[bulk]'")

# On Ray, tests/bulk/test_bulk_ray.py kills workers and the driver.
JOBS = ("save", "texts", "eval", "label", "generate", "fit")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are read from /proc")
def test_killed_jobs_go_on():
    line = [sys.executable, "-m", "tests.fuzz.kill", *JOBS, "--count", "1", "--seed", "1", "--first", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count(", 0 failures") == len(JOBS)
