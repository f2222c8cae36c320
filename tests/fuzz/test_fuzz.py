"""A short run of every target; `python -m tests.fuzz.run` makes a long one."""

import sys

import pytest

from tests.fuzz.run import run
from tests.fuzz.targets import TARGETS

COUNTS = {"synonyms": 1500, "artifact": 200, "artifact-mended": 120, "state-dict": 150, "tables": 200}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bound on memory is read from /proc")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_documented_errors(name: str):
    assert run(name, COUNTS.get(name, 400), seed=22) == []
