"""Two results of `s3clip label` in one place are refused before anything is labelled."""

import itertools
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, cli
from s3clip.demo import model_folder, write_photos

RESULTS = ("--out", "--csv", "--lance", "--partition", "--sort-into")


@pytest.mark.parametrize(("one", "other"), itertools.combinations(RESULTS, 2))
def test_no_two_results_in_one_place(one: str, other: str, tmp_path: Path):
    if "--lance" in (one, other):
        pytest.importorskip("lance", reason="lance is not installed: pip install 's3clip[lance]'")
    write_photos(tmp_path / "photos")
    SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(["zero"]).save_pretrained(tmp_path / "head")
    given = {"--out": tmp_path / "out"} | {one: tmp_path / "same", other: tmp_path / "same"}
    options = [str(part) for pair in given.items() for part in pair]
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(
        cli.app, ["label", str(tmp_path / "photos"), "--head", str(tmp_path / "head"), *options]
    )
    assert isinstance(result.exception, ValueError)
    assert sorted(tmp_path.rglob("*")) == before
