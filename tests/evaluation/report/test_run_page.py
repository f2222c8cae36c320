"""The page of several runs: what it says, that it asks for nothing, and that a browser sorts its tables."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s3clip import Backbone, cli
from s3clip.demo import model_folder
from s3clip.evaluation.report.page import run_page
from s3clip.evaluation.report.run import Run
from s3clip.evaluation.runs.run import evaluate
from tests.local_sets import open_digits, write_digits

CHROMIUM = Path("/usr/bin/chromium")
NASTY = "<b>one</b> & \"two\" <script>alert('x')</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on digits, one of them with a class whose name is HTML."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_digits(folder / "data")
    backbone = Backbone.from_pretrained(str(model_folder()))
    for name, methods in (("few", ["name", "nearest"]), ("more", ["default", "local_star"])):
        run = evaluate(
            [open_digits(data)], backbone=backbone, cache=folder / "c", methods=methods, bootstrap=20
        )
        run.save(folder / name)
    path = folder / "few" / "run.json"
    content = json.loads(path.read_text())
    worst = content["benchmarks"][0]["worst_classes"]["classes"]
    assert worst[0]["examples"][0]["thumbnail"]
    worst[0]["class"] = content["model"]["name"] = NASTY
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def page(runs):
    return page_of(runs)


def page_of(runs):
    return run_page([(folder, Run.read(folder)) for folder in (runs / "few", runs / "more")])


def test_names_are_escaped_and_nothing_is_asked_for(page):
    assert NASTY not in page
    assert "&lt;b&gt;one&lt;/b&gt; &amp; &quot;two&quot;" in page
    assert page.count("<script>") == 1
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in page
    assert "150 of 151 images" in page


def test_the_command_writes_it(runs, tmp_path):
    out = tmp_path / "new" / "report.html"
    done = CliRunner().invoke(cli.app, ["report", str(runs / "few"), str(runs / "more"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == page_of(runs)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of `s3clip eval`"):
        Run.read(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected the format 's3clip-run/2'"):
        Run.read(tmp_path)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no browser at /usr/bin/chromium")
def test_a_browser_sorts(page, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    (tmp_path / "report.html").write_text(page)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        tab = browser.new_page()
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((tmp_path / "report.html").as_uri())
        table = tab.locator("table").nth(1)
        column = table.locator("thead th").nth(2)
        values = []
        for _ in range(2):
            column.locator("button").click()
            cells = table.locator("tbody tr td:nth-child(3)").all_text_contents()
            values.append([float(cell) for cell in cells])
        tab.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        browser.close()
    assert values[0] == sorted(values[0], reverse=True)
    assert values[1] == sorted(values[1])
    assert len(set(values[0])) > 1
    assert all(url.startswith(("file:", "data:")) for url in asked)
