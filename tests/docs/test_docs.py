"""Every block of README and docs runs, in order, in an empty folder, and prints what the page says."""

import re
from pathlib import Path

import pytest

from s3clip import HeadConfig
from tests import ROOT
from tests.docs.pages import NEEDS, PAGES, SKIPPED, blocks, lacking, run_page, same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: Path, tmp_path: Path):
    for block, said in run_page(page, tmp_path):
        assert same(block["code"], said), (
            f"{page.name} says\n{block['code']}\nand it printed\n{said}\n"
            "python -m tests.docs.pages writes what is printed now"
        )
    if left_out := sorted({package for block in blocks(page) for package in lacking(block)}):
        pytest.skip(f"the rest of the page ran; not here: {', '.join(left_out)}")


def test_the_readme_is_short_and_its_first_block_shows_its_output():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert [block["mark"] for block in blocks(ROOT / "README.md")][:2] == ["main job", "output"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_nothing_that_a_reader_lacks(page: Path):
    """Their first block that prints shows what, and they say nothing of variables that nobody sets."""
    text = page.read_text(encoding="utf-8")
    assert "$DEMO" not in text
    for mark, language in ((block["mark"], block["language"]) for block in blocks(page)):
        known = SKIPPED | {"main job", "output"}
        assert mark is None or mark in known or mark.startswith(NEEDS), mark
        assert mark != "output" or language == "text"


def test_ci_runs_the_readmes_test_command():
    marks = [block["mark"] for block in blocks(ROOT / "README.md")]
    assert marks.count("main job") == marks.count("tests") == 1


@pytest.mark.parametrize(
    ("said", "is_same"),
    [
        ("seven 0.99 of 3", True),
        ("seven  0.97\nof 3", True),
        ("seven 0.80 of 3", False),
        ("eight 0.99 of 3", False),
        ("seven 0.99 of 3 4", False),
        ("seven 0.99 of", False),
    ],
)
def test_outputs_are_compared_by_words_and_nearly_by_numbers(said: str, is_same: bool):
    assert same("seven 0.99 of 3\n", said) is is_same


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(
            r"\]\(([\w./-]+\.(?:md|png))(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")
        ):
            assert (page.parent / target).is_file(), f"{page.name} links {target}"


def test_the_settings_are_those_of_a_head():
    """Every setting of the table with the default that it says."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs" / "settings.md").read_text("utf-8"), re.M)
    said = {name: [each.strip("`") for each in default.split(", ")] for name, default in rows}
    for name, value in HeadConfig().model_dump().items():
        options = (
            [f"{key}={each}" for key, each in value.items()] if isinstance(value, dict) else [str(value)]
        )
        assert sorted(said[name]) == sorted(options), name
