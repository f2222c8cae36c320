"""The documentation as a site: it builds without a warning, has every public name, and requests nothing."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.docs.test_examples import public

COMMAND = "mkdocs build --strict -f docs/site/mkdocs.yml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the documented command in a copy of what it reads."""
    pytest.importorskip("mkdocs", reason="pip install 's3clip[docs]'")
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("docs", "s3clip"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        COMMAND.split(),
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "build" / "docs"


def test_the_command_is_the_one_that_is_documented():
    for place in ("docs/development.md", "docs/site/mkdocs.yml", "pyproject.toml"):
        assert COMMAND in (ROOT / place).read_text(encoding="utf-8"), place


def test_every_page_is_there_and_requests_nothing(site: Path):
    pages = sorted(site.glob("*.html"))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        outside = re.findall(r"<(?:script|img|iframe)[^>]* src=[\"']?(?:https?:)?//[^\"' >]*", text)
        outside += re.findall(r"<link[^>]* rel=[\"']?stylesheet[\"']?[^>]*href=[\"']?(?:https?:)?//", text)
        assert not outside, page.name


def test_the_reference_has_every_public_name(site: Path):
    api = (site / "api.html").read_text(encoding="utf-8")
    promised = runpy.run_path(str(ROOT / ".ci" / "try_wheel.py"))["PROMISED"]
    names = {name.rpartition(".")[2] for name in public()}
    assert {each for own in promised.values() for each in own} <= names
    there = {found.rpartition(".")[2] for found in re.findall(r'id="s3clip\.([\w.]+)"', api)}
    assert not sorted(names - there)
    assert 'id="s3clip.SynonymousSpaceHead.fit_classes"' in api
    assert "doctest: +SKIP" not in api
    assert re.search(r"Examples:?</span>|<summary>Examples|>Examples", api)


def test_the_search_works_in_pages_that_are_opened_as_files(site: Path):
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = ")
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")


def test_a_search_finds_pages_in_a_browser_without_a_server(site: Path, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").click()
    page.keyboard.type("calibrate", delay=20)
    page.locator(".md-search-result__item").first.wait_for()
    assert page.locator(".md-search-result__item a[href*='probabilities.html']").count()
    page.close()
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests), requests
