"""The page of several runs: what it says, that it asks for nothing, and that a browser sorts its tables."""

import base64
import copy
import csv
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from html import escape

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from s3clip import Backbone, cli
from s3clip.demo import model_folder
from s3clip.evaluation.report import schema
from s3clip.evaluation.report.comparison import suffixes_text
from s3clip.evaluation.report.page import run_page
from s3clip.evaluation.report.run import Run
from s3clip.evaluation.report.tables import benchmark_table, title_of
from s3clip.evaluation.runs.run import evaluate
from tests.local_sets import open_digits, write_digits

OPTIONAL = {
    name
    for each in vars(schema).values()
    if isinstance(each, type) and issubclass(each, BaseModel)
    for name, field in each.model_fields.items()
    if not field.is_required()
}
"""Keys of run.json that may be missing."""

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
    assert {source.partition(",")[0] for source in sources} == {"data:", "data:image/jpeg;base64"}
    assert "url(" not in page
    assert "150 of 151 images" in page


def test_the_command_writes_it(runs, tmp_path):
    out = tmp_path / "new" / "report.html"
    done = CliRunner().invoke(cli.app, ["report", str(runs / "few"), str(runs / "more"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == page_of(runs)


def test_tables_for_a_spreadsheet_and_a_paper(runs, tmp_path):
    folders = [runs / "few", runs / "more"]
    for name in ("t.csv", "t.tex"):
        done = CliRunner().invoke(cli.app, ["report", *map(str, folders), "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    with (tmp_path / "t.csv").open(newline="") as file:
        found = {(row["run"], row["method"]): row for row in csv.DictReader(file)}
    expected = {}
    for folder in folders:
        (benchmark,) = Run.read(folder).benchmarks
        expected |= {(folder.name, own.name): own for own in benchmark.scores}
    assert found.keys() == expected.keys()
    for at, own in expected.items():
        assert float(found[at]["value"]) == pytest.approx(own.acc1, abs=1e-6)
        for end in ("low", "high"):
            assert float(found[at][end]) == pytest.approx(getattr(own.differences.top1, end), abs=1e-6)
    lines = (tmp_path / "t.tex").read_text().splitlines()
    assert lines[0] == r"\begin{tabular}{llrrr}"
    assert [line.count("&") for line in lines if line.endswith(r"\\")] == [4] * (len(expected) + 1)
    assert any(line.startswith(r"local\_star & more & ") for line in lines)


def test_the_first_rows_are_the_best_the_default_and_the_control(runs):
    run = Run.read(runs / "more")
    benchmark = run.benchmarks[0]
    names = [own.name for own in benchmark.scores]
    for first in range(len(names) + 1):
        shown = [row[0].value for row in benchmark_table(benchmark, "center", first).rows]
        assert shown == [n for i, n in enumerate(names) if i < first or n in ("default", "center")]
    said = run.text(1)
    assert "center (control)" in said
    assert "| " not in said
    assert run.model.fingerprint[:16] not in said
    assert suffixes_text(["a+rips", "b+rips+centered", "c"]).count("+") == 2
    assert suffixes_text(names) == ""


def test_the_worst_classes_stand_once_and_pictures_say_what_they_show(page, runs):
    names = {
        each.name
        for run in ("few", "more")
        for each in Run.read(runs / run).benchmarks[0].worst_classes.classes
    }
    table = page[page.index("<h3>Worst classes") :]
    table = table[: table.index("</table>")]
    assert sorted(re.findall(r"<tr><td>(.*?)</td>", table)) == sorted(map(escape, names))
    alts = re.findall(r'alt="([^"]*)"', page)
    assert alts
    assert all(", taken for " in alt for alt in alts)


def test_benchmarks_of_the_table_have_their_titles():
    assert title_of("food101") == "Food-101"
    assert title_of("mine") == "mine"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of `s3clip eval`"):
        Run.read(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected the format 's3clip-run/2'"):
        Run.read(tmp_path)


def leaves(value, path=()):
    """Every number, text and null of parsed JSON, by the keys to it."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from leaves(each, (*path, key))
    if not isinstance(value, dict | list):
        yield path, value


def changed(content, path, value):
    """A copy of parsed JSON with another value at a place."""
    result = copy.deepcopy(content)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def page_or_refusal(folder, content):
    """The page of a run with this content; None where it is refused, in one line that names the file."""
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    try:
        return run_page([(folder, Run.read(folder))])
    except ValueError as error:
        if not str(error).startswith(f"{folder / 'run.json'}: ") or "\n" in str(error):
            raise
        return None


@pytest.fixture
def strange(runs, tmp_path):
    """A folder for a run that was edited, and its content."""
    return tmp_path, json.loads((runs / "more" / "run.json").read_text())


def test_every_text_of_a_run_is_escaped(strange):
    folder, content = strange
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=y>\x1b\u202e"
    chosen = [path for path, value in leaves(content) if isinstance(value, str)]
    assert len(chosen) > 40
    everywhere = copy.deepcopy(content)
    for path in chosen:
        if path[-1] not in ("format", "task", "headline", "control"):
            everywhere = changed(everywhere, path, hostile)
    everywhere["benchmarks"][0]["scores"][1]["name"] = everywhere["settings"]["control"] = hostile
    page = page_or_refusal(folder, everywhere)
    assert page.count("<script>") == 1
    for raw in ("<img src=x", hostile, "\x1b", "\u202e", "\"'>"):
        assert raw not in page
    assert page.count("&lt;script&gt;alert(1)") >= 15
    assert "<script" not in Run.read(folder).markdown()


@pytest.mark.parametrize("value", ["<script>alert(1)</script>", None, [], {}, True, -1, 1e400, 10**400, 1.5])
def test_a_value_of_another_kind_is_refused_or_harmless(strange, value):
    folder, content = strange
    refused = 0
    for path, _ in random.Random(0).sample(list(leaves(content)), 80):
        page = page_or_refusal(folder, changed(content, path, value))
        refused += page is None
        assert page is None or page.count("<script>") == 1
    assert refused > 10


def test_keys_that_are_missing_or_too_many_are_refused(strange):
    folder, content = strange
    for path, _ in random.Random(1).sample(list(leaves(content)), 80):
        if isinstance(path[-1], str) and not {"configs", "versions", "methods", *OPTIONAL} & set(path):
            place = less = copy.deepcopy(content)
            for key in path[:-1]:
                place = place[key]
            del place[path[-1]]
            assert page_or_refusal(folder, less) is None, path
    assert page_or_refusal(folder, {**content, "extra": 1}) is None
    assert page_or_refusal(folder, content) is not None


def test_a_run_is_read_as_it_was_written(runs):
    content = json.loads((runs / "more" / "run.json").read_text())
    assert Run.read(runs / "more").to_dict() == content


def test_what_comes_from_outside_the_folder_is_not_shown(strange, runs):
    folder, content = strange
    secret = folder.parent / "secret.jpg"
    jpeg = next((runs / "more" / "thumbnails").glob("*.jpg")).read_bytes()
    secret.write_bytes(jpeg)
    thumbnails = folder / "thumbnails"
    thumbnails.mkdir()
    (thumbnails / "link.jpg").symlink_to(secret)
    (thumbnails / "loop.jpg").symlink_to(thumbnails / "loop.jpg")
    (thumbnails / "text.jpg").write_text("secret words")
    (thumbnails / "large.jpg").write_bytes(jpeg + bytes(1 << 20))
    (thumbnails / "good.jpg").write_bytes(jpeg)
    os.mkfifo(thumbnails / "pipe.jpg")
    worst = content["benchmarks"][0]["worst_classes"]["classes"][0]
    for name in (
        *("../secret.jpg", str(secret), "thumbnails/../../secret.jpg", "a\0b", "thumbnails", "run.json"),
        *(f"thumbnails/{name}.jpg" for name in ("link", "loop", "text", "large", "pipe", "none")),
    ):
        worst["examples"] = [{"key": "k", "taken_for": "t", "thumbnail": name}]
        for other in content["benchmarks"][0]["worst_classes"]["classes"][1:]:
            other["examples"] = []
        assert "data:image" not in page_or_refusal(folder, content), name
    worst["examples"][0]["thumbnail"] = "thumbnails/good.jpg"
    assert base64.b64encode(jpeg).decode() in page_or_refusal(folder, content)


def test_only_the_script_of_the_page_may_run(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]
    assert not re.search(r"<[^>]*\son\w+\s*=", page)


def test_reports_and_help_need_no_model(runs, tmp_path):
    """What takes seconds to import is not imported: torch, transformers, scikit-learn, scipy, pyarrow."""
    code = (
        "import sys\nfrom s3clip import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "slow = {'torch', 'transformers', 'sklearn', 'scipy', 'pyarrow', 'matplotlib', 'numpy', 'PIL'}\n"
        "print(sorted(slow & sys.modules.keys()), file=sys.stderr)"
    )
    for line in (["--help"], ["report", "--help"], ["report", runs / "more", "--out", tmp_path / "p.html"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, line)], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip().endswith("[]"), done.stderr


def test_a_browser_sorts(page, browser, tmp_path):
    (tmp_path / "report.html").write_text(page)
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
        values.append([float(cell.split()[0]) for cell in cells])
    tab.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    assert values[0] == sorted(values[0], reverse=True)
    assert values[1] == sorted(values[1])
    assert len(set(values[0])) > 1
    assert all(url.startswith(("file:", "data:")) for url in asked)
