"""The command line: what a newcomer types, and what bad input answers."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, cli
from s3clip.demo import held_out_digits, model_folder
from s3clip.files.folders import make_for_pictures

DIGITS = {"zero": ["0", "nought"], "one": ["1"], "seven": ["7"]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    images, labels = held_out_digits()
    (folder / "more").mkdir()
    for name, label in (("more/a.png", 0), ("b.png", 1), ("c.JPG", 7)):
        images[list(labels).index(label)].convert("RGB").resize((64, 64)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    (folder / "digits.json").write_text(json.dumps(DIGITS))
    result = run("fit", folder / "digits.json", "--backbone", model_folder(), "--out", folder / "space")
    assert result.exit_code == 0
    assert "3 classes, 7 concepts" in result.output
    return folder / "space"


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def command(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    line = [sys.executable, "-m", "s3clip.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


@pytest.mark.filterwarnings("ignore:.*passed over")
def test_files_folders_and_globs(fitted: Path, photos: Path):
    for images in ([photos], [photos / "more" / "a.png", photos / "*.*"], [photos / "**" / "*.*", photos]):
        if "*" in str(images[-1]):
            (photos / "notes.txt").unlink(missing_ok=True)
        result = run("predict", *images, "--head", fitted, "--format", "json")
        assert result.exit_code == 0
        found = {Path(row["file"]).name: row["predictions"][0]["label"] for row in json.loads(result.stdout)}
        assert found == {"a.png": "zero", "b.png": "one", "c.JPG": "seven"}


@pytest.mark.filterwarnings("ignore:.*passed over")
def test_formats_agree(fitted: Path, photos: Path):
    as_json = json.loads(run("predict", photos, "--head", fitted, "--top-k", 2, "--format", "json").stdout)
    text = run("predict", photos, "--head", fitted, "--top-k", 2, "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6
    flat = [(row["file"], p) for row in as_json for p in row["predictions"]]
    for row, (file, p) in zip(rows, flat, strict=True):
        assert (row["file"], row["label"], row["text"]) == (file, p["label"], p["text"])
        assert float(row["score"]) == pytest.approx(p["score"], abs=1e-4)
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    table = run("predict", photos, "--head", fitted, "--top-k", 2).stdout.splitlines()
    assert [line.split()[:3] for line in table] == [
        ["file", "rank", "label"],
        *([row["file"], row["rank"], row["label"]] for row in rows),
    ]


def test_the_command_equals_the_library(fitted: Path, photos: Path):
    row = json.loads(run("predict", photos / "b.png", "--head", fitted, "--format", "json").stdout)[0]
    own = SynonymousSpaceHead.from_pretrained(fitted).predict(photos / "b.png", top_k=1)[0][0]
    assert row["predictions"][0]["score"] == pytest.approx(own.score)


def test_a_broken_image_is_named_and_the_rest_classified(fitted: Path, photos: Path, tmp_path: Path):
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "good.png").write_bytes((photos / "b.png").read_bytes())
    result = command("predict", tmp_path, "--head", fitted, "--format", "json")
    assert result.returncode == 1
    rows = json.loads(result.stdout)
    assert rows[0] == {"file": str(tmp_path / "bad.png"), "error": "not a readable image"}
    assert rows[1]["predictions"][0]["label"] == "one"
    assert "bad.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_settings_templates_and_values(tmp_path: Path):
    (tmp_path / "words.json").write_text(json.dumps({"zero": ["a round digit"], "one": ["a straight digit"]}))
    settings = json.dumps({"metric": "nearest", "scale_rule": None})
    (tmp_path / "settings.json").write_text(settings)
    for config in (settings, tmp_path / "settings.json"):
        result = run(
            "fit", tmp_path / "words.json", "--backbone", model_folder(), "--out", tmp_path / "out",
            "--config", config, "--template", "a {}", "--template", "the {}", "--values", "prompts",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        head = SynonymousSpaceHead.from_pretrained(tmp_path / "out")
        assert (head.config.metric, head.templates) == ("nearest", ("a {}", "the {}"))
        assert head.classes[0].texts == ["zero", "a round digit"]


NIL = {"zero": ["0", "nil", "nought"], "one": ["1", "nil"], "two": []}


def test_inspect_says_what_was_kept(tmp_path: Path):
    (tmp_path / "digits.json").write_text(
        json.dumps({"zero": ["0", "nil", "nought"], "one": ["1", "nil"], "two": []})
    )
    result = command("fit", tmp_path / "digits.json", "--backbone", model_folder(), "--out", tmp_path / "out",
                     "--config", '{"scale_rule": "kept_share", "scale_options": {"share": 0.5}}')  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "'nil'" in result.stderr
    reports = json.loads(run("inspect", tmp_path / "out", "--format", "json").stdout)
    head = SynonymousSpaceHead.from_pretrained(tmp_path / "out", backbone=None)
    assert [r["name"] for r in reports] == ["zero", "one", "two"]
    assert [len(r["death_times"]) for r in reports] == [3, 2, 0]
    kept = [t["status"] for r in reports for t in r["texts"]]
    assert [i for i, status in enumerate(kept) if status == "kept"] == head.space.kept.tolist()
    shared = {(r["name"], t["text"]): t["shared_with"] for r in reports for t in r["texts"]}
    assert shared["zero", "nil"] == [1]
    assert shared["one", "nil"] == [0]
    assert shared["zero", "0"] == []
    table = run("inspect", tmp_path / "out", "--class", "zero").stdout
    assert "(also in: 1 one)" in table
    assert "death times: " in table
    rows = list(csv.DictReader(io.StringIO(run("inspect", tmp_path / "out", "--format", "csv").stdout)))
    assert [row["text"] for row in rows] == ["zero", "0", "nil", "nought", "one", "1", "nil", "two"]


def test_help_and_no_arguments():
    result = command("--help")
    assert result.returncode == 0
    for verb in ("demo", "fit", "predict", "inspect"):
        assert verb in result.stdout
        assert run(verb, "--help").exit_code == 0
    assert "Usage" in (command().stdout + command().stderr)


FIT = ["fit", "{good}", "--backbone", "{model}", "--out", "o"]
BAD = {
    "missing synonyms": (["fit", "none.json", *FIT[2:]], "none.json"),
    "empty synonyms": (["fit", "{empty}", *FIT[2:]], "empty.json"),
    "not JSON": (["fit", "{broken}", *FIT[2:]], "broken.json"),
    "duplicate key": (["fit", "{twice}", *FIT[2:]], "cat"),
    "unknown metric": ([*FIT, "--config", '{{"metric": "x"}}'], "local_center"),
    "k below 1": ([*FIT, "--config", '{{"metric_options": {{"k": 0}}}}'], "a whole number >= 1"),
    "bad config": ([*FIT, "--config", "{{"], "not JSON"),
    "unknown setting": ([*FIT, "--config", '{{"colour": 1}}'], "--config: colour: "),
    "setting of another type": ([*FIT, "--config", '{{"keep_name": 1}}'], "--config: keep_name: "),
    "setting twice": (
        [*FIT, "--config", '{{"metric": "hull", "metric": "nearest"}}'],
        "key 'metric'",
    ),
    "no file of settings": ([*FIT, "--config", "none.json"], "--config: none.json: no such file"),
    "broken file of settings": ([*FIT, "--config", "{broken}"], "broken.json: not JSON"),
    "head is a synonym file": (
        ["predict", "{photo}", "--head", "{good}"],
        "good.json is not a saved",
    ),
    "template without a place": ([*FIT, "--template", "photo"], "photo"),
    "unknown values": ([*FIT, "--values", "words"], "prompts"),
    "no backbone there": (["fit", "{good}", "--backbone", "{empty}", "--out", "o"], "empty.json"),
    "a file for a model": (
        [*FIT[:2], "--backbone", "{good}", "--out", "o"],
        "good.json'; give that of a model",
    ),
    "a file of this folder for a model": (
        [*FIT[:2], "--backbone", "twice.json", "--out", "o"],
        "--backbone: there is no folder 'twice.json'; give that of a model",
    ),
    "bad device": ([*FIT, "--device", "gpu"], "gpu"),
    "absent device": ([*FIT, "--device", "cuda:77"], "cuda:77"),
    "out is a file": (["fit", "{good}", "--backbone", "{model}", "--out", "{empty}"], "empty.json"),
    "no head": (["predict", "{photo}", "--head", "nowhere"], "nowhere"),
    "no image": (["predict", "none.png", "--head", "{head}"], "none.png"),
    "empty folder": (["predict", "{folder}", "--head", "{head}"], "no images"),
    "top_k": (["predict", "{photo}", "--head", "{head}", "--top-k", "0"], "--top-k: expected"),
    "unknown class": (["inspect", "{head}", "--class", "nine"], "nine"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(
    case: str, fitted: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "broken.json").write_text('{"cat": [')
    (tmp_path / "twice.json").write_text('{"cat": [], "dog": [], "cat": []}')
    (tmp_path / "good.json").write_text(json.dumps(DIGITS))
    (tmp_path / "folder").mkdir()
    places = {name: tmp_path / f"{name}.json" for name in ("empty", "broken", "twice", "good")}
    places |= {
        "folder": tmp_path / "folder",
        "head": fitted,
        "model": model_folder(),
        "photo": photos / "b.png",
    }
    arguments, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["s3clip", *(argument.format(**places) for argument in arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line for line in errors if line.startswith("error: ")] == errors[-1:]
    assert message in errors[-1]
    for words in ("Extra inputs", "Value error", "Input should", "Traceback"):
        assert words not in errors[-1]
    assert not (tmp_path / "o").exists()


SEGMENT = ["segment", "--classes", "{words}", "--backbone", model_folder()]
OVER = {
    "a heat map over an image": (
        ["a.png", "a-one.png"],
        ["--heat-maps", "{folder}"],
        "is read, and would be lost",
    ),
    "a heat map over a mask": (
        ["a.png", "a-one.png"],
        ["--heat-maps", "m", "--out", "m"],
        "give two places",
    ),
    "a mask over an image": (["a.png"], ["--out", "{folder}/a.png"], "a.png is read, and would be lost"),
    "masks over an image": (["a.png", "a-1.png"], ["--overlay", "{folder}"], "is read, and would be lost"),
    "JSON over an image": (["a.png"], ["--rle", "{folder}/a.png"], "--rle: "),
    "two results in one file": (
        ["a.png"],
        ["--out", "x.png", "--overlay", "x.png"],
        "give two places",
    ),
}


@pytest.mark.parametrize("case", OVER)
def test_nothing_is_written_over_what_is_read(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images, options, message = OVER[case]
    (tmp_path / "words.json").write_text(json.dumps(DIGITS))
    folder = tmp_path / "photos"
    make_for_pictures(folder)  # one of our pictures that are segmented: others are refused anyway
    for name in images:
        held_out_digits()[0][0].save(folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.chdir(tmp_path)
    places = {"folder": folder, "words": tmp_path / "words.json"}
    base = [str(part).format(**places) for part in SEGMENT]
    result = run(*base, *(folder / name for name in images), *(part.format(**places) for part in options))
    assert message in str(result.exception)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "m").exists()


def test_heat_maps_beside_the_images_that_are_safe(tmp_path: Path):
    make_for_pictures(tmp_path)
    (tmp_path / "words.json").write_text(json.dumps(DIGITS))
    for name in ("a.png", "b-1.png"):
        held_out_digits()[0][0].save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in ("a.png", "b-1.png")}
    base = ["segment", tmp_path / "a.png", tmp_path / "b-1.png", "--classes", tmp_path / "words.json"]
    result = run(*base, "--backbone", model_folder(), "--heat-maps", tmp_path)
    assert result.exit_code == 0, result.output
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert {file.name for file in tmp_path.glob("a-*.png")} <= {f"a-{name}.png" for name in DIGITS}
    assert list(tmp_path.glob("a-*.png"))


def test_commands_print_in_one_way():
    for path in Path(cli.__file__).parent.glob("*.py"):
        assert not re.search(r"\b(echo|secho|print|sys\.stdout|stderr\.write)\(", path.read_text()), path


def test_what_is_printed_moves_no_cursor(tmp_path: Path):
    """Names from strangers are shown escaped: in tables, JSON, CSV, warnings and errors."""
    nasty = "\x1b[2Jfelis\x9b \u202ecat"
    (tmp_path / "words.json").write_text(json.dumps({nasty: ["0"], "one": ["1"]}))
    photo = tmp_path / "\x1b[31m=a.png"
    held_out_digits()[0][list(held_out_digits()[1]).index(0)].save(photo)
    fit = command("fit", tmp_path / "words.json", "--backbone", model_folder(), "--out", tmp_path / "o")
    if fit.returncode:  # such a name is refused, and the error shows it
        assert "\x1b" not in fit.stdout + fit.stderr
        return
    for output in ("table", "json", "csv"):
        done = command("predict", photo, "--head", tmp_path / "o", "--format", output)
        for bad in ("\x1b", "\x9b", "\u202e"):
            assert bad not in done.stdout + done.stderr
        assert "\\u001b" in done.stdout
    found = json.loads(command("predict", photo, "--head", tmp_path / "o", "--format", "json").stdout)
    assert found[0]["file"] == str(photo)
    done = command("predict", tmp_path / "\x1b[31m=a.gif", "--head", tmp_path / "o")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_demo(tmp_path: Path):
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    for row in ("the worst choice", "the best choice", "the usual ensemble", "synonymous space"):
        assert row in result.output
    assert {each.name for each in (tmp_path / "demo").iterdir()} == {"digits.png", "head"}
    result = run("demo", "--photos", tmp_path / "photos")
    assert result.output.startswith("Wrote 100 pictures into")
    assert len(list((tmp_path / "photos").glob("*/*.png"))) == 100
