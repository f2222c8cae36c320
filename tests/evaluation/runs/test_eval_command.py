"""`s3clip eval` and `s3clip report`: what they print and write with any number of workers, and refuse."""

import csv
import json
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from typer.testing import CliRunner

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet, cli
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation import METHODS
from s3clip.evaluation.report.run import Run
from tests.images.test_sources import write_tar
from tests.local_sets import launched

NAMES = SynonymSet.read(synonym_file()).class_names
FEW = ("--method", "name", "--method", "default", "--bootstrap", "20", "--batch-size", "8")


def write_row(folder: Path, name: str = "digits", **changes) -> Path:
    """A set of one's own as docs/benchmarks.md writes it."""
    row = {
        "name": name,
        "synonyms": str(synonym_file()),
        "conventions": {"own": {"layouts": [{"kind": "folders", "folder": "photos"}]}},
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in row.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Sixty digits in folders of their names, two broken files, and a folder of another class."""
    folder = tmp_path_factory.mktemp("set")
    pictures, labels = held_out_digits()
    for i in range(60):
        place = folder / "photos" / NAMES[labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        pictures[i].save(place / f"{i:02}.png")
    (folder / "photos" / "two" / "broken.png").write_bytes(b"no picture")
    (folder / "photos" / "two" / "cut.png").write_bytes((folder / "photos/two/02.png").read_bytes()[:60])
    (folder / "photos" / "cat").mkdir()
    pictures[0].save(folder / "photos" / "cat" / "0.png")
    write_row(folder)
    return folder


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def evaluated(out: Path, *arguments) -> dict:
    done = run("eval", *arguments, "--backbone", model_folder(), "--out", out, *FEW)
    assert done.exit_code == 0, (done.output, done.exception)
    return without_measurements(out)


def without_measurements(out: Path) -> dict:
    content = json.loads((out / "run.json").read_text())
    del content["measured"]
    return content


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory) -> Path:
    """The output folder of a run in this process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    evaluated(out, digits / "digits.json", "--workers", 0)
    return out


def test_the_scores_are_those_of_plain_predictions(digits, alone):
    (found,) = without_measurements(alone)["benchmarks"]
    assert found["counts"] == {
        "scored": 60, "of": 63, "found": 63, "expected": None, "broken": 2, "left_out": 1
    }  # fmt: skip
    assert found["left_out_labels"] == [["cat", 1]]
    files = [path for path in sorted((digits / "photos").rglob("*.png")) if path.parent.name in NAMES]
    files = [path for path in files if path.name not in ("broken.png", "cut.png")]
    truth = [path.parent.name for path in files]
    for name in ("name", "default", "center"):
        head = SynonymousSpaceHead.from_backbone(model_folder(), config=METHODS[name].config)
        head.fit_classes(NAMES if name == "name" else synonym_file())
        answers = [each[0].label for each in head.predict(files)]
        (score,) = [score for score in found["scores"] if score["name"] == name]
        assert score["acc1"] == pytest.approx(accuracy_score(truth, answers))
        assert score["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(truth, answers))


def test_a_broken_image_is_described_the_same_on_every_machine(alone):
    (found,) = without_measurements(alone)["benchmarks"]
    errors = {each["key"]: each["error"] for each in found["broken"]}
    assert list(errors) == ["two/broken.png", "two/cut.png"]
    reason = (
        r": not a readable image \((?!.*(?:0x|/|not a readable))[a-z ,]+\)"  # the rest is Pillow's own words
    )
    for key, error in errors.items():
        assert re.fullmatch(re.escape(key) + reason, error), error
    assert found["warnings"][0] == "cannot be read: 2 of the images: " + "; ".join(errors.values())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers, digits, alone, tmp_path):
    assert evaluated(tmp_path, digits / "digits.json", "--workers", workers) == without_measurements(alone)


def test_what_is_printed_and_written(digits, alone, tmp_path):
    out, cache = tmp_path / "new" / "out", tmp_path / "cache"
    done = run("eval", digits / "digits.json", "--backbone", model_folder(), "--out", out, "--cache", cache,
               "--workers", 0, *FEW)  # fmt: skip
    assert done.exit_code == 0
    assert done.stdout.startswith(Run.read(out).text())
    assert done.stdout.endswith(f"Saved to {out}; all methods are in {out / 'run.md'}.\n")
    assert (out / "run.md").read_text() == (alone / "run.md").read_text()
    lines = (out / "run.md").read_text().splitlines()
    assert next(line for line in lines if line.startswith("| digits")).startswith(
        "| digits | acc1 | 60 of 63 |"
    )
    rows = [line.split(" | ") for line in lines if line.startswith(("| name", "| default", "| center"))]
    scores = {score["name"]: score for score in without_measurements(out)["benchmarks"][0]["scores"]}
    assert {row[0][2:].removesuffix(" (control)"): row[1] for row in rows} == {
        name: f"{100 * score['acc1']:.1f}" for name, score in scores.items()
    }
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: digits: ")]
    assert len(warned) == 2
    assert warned[0].startswith("warning: digits: cannot be read: 2 of the images: two/broken.png: not a ")
    assert warned[1].endswith(
        " left out: 1 image with a label that is none of the classes, of 1 kind: cat (1)"
    )
    assert {path.name for path in out.iterdir()} == {
        "run.json", "run.md", *(["thumbnails"] if list(alone.glob("thumbnails")) else []),
        *(["run.png"] if find_spec("matplotlib") else []),
    }  # fmt: skip
    assert list(cache.rglob("*.bin"))

    # Again: nothing is encoded, everything is the same.
    again = run(
        "eval", digits / "digits.json", "--backbone", model_folder(), "--out", out, "--cache", cache, *FEW
    )
    assert again.stdout == done.stdout
    (timing,) = json.loads((out / "run.json").read_text())["measured"]["benchmarks"]
    assert timing["images_encoded"] == 0


def test_the_report_of_a_command(alone, tmp_path):
    done = run("report", alone, "--out", tmp_path / "page.html")
    assert (done.exit_code, done.stdout) == (0, f"Saved to {tmp_path / 'page.html'}.\n")
    page = (tmp_path / "page.html").read_text()
    assert "60 of 63 images" in page
    assert "1 image of no class left out" in page
    assert "cannot be read: 2 of the images: two/broken.png: not a readable image (" in page


@pytest.mark.filterwarnings("ignore:.*truncated")  # the model of the demo reads 32 tokens
def test_a_set_of_ones_own_beside_one_of_the_table(digits, tmp_path):
    pictures = held_out_digits()[0]
    names = [each.replace(" ", "_") for each in SynonymSet.builtin("eurosat").class_names]
    split = {"test": [[f"{name}/{i}.png", i, name] for i, name in enumerate(names)]}
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    for path, label, _ in split["test"]:
        (tmp_path / "eurosat" / "2750" / path).parent.mkdir(parents=True)
        pictures[label].save(tmp_path / "eurosat" / "2750" / path)
    found = evaluated(
        tmp_path / "out", "eurosat", digits / "digits.json", "--data", tmp_path, "--convention", "coop",
        "--workers", 0,
    )["benchmarks"]  # fmt: skip
    assert [(each["name"], each["convention"]) for each in found] == [("eurosat", "coop"), ("digits", "own")]
    assert (found[0]["counts"]["scored"], found[0]["counts"]["of"]) == (10, 8100)
    assert "these are not the scores of eurosat" in found[0]["warnings"][1]


# ---- bad input ------------------------------------------------------------------------------------------


def layout(**settings) -> dict:
    return {"own": {"layouts": [settings]}}


def bad(changes: dict | list[str], *messages: str) -> tuple:
    return changes, messages


FOLDERS = {"kind": "folders", "folder": "photos"}

BAD_ROWS = {
    "no synonyms": bad({"synonyms": None}, "digits.json: synonyms: is missing", "docs/benchmarks.md"),
    "wrong type": bad(
        {"conventions": {"own": {"images": "many", "layouts": [FOLDERS]}}},
        "digits.json: conventions.own.images: ",
        "must be a whole number, not 'many'",
    ),
    "unknown layout": bad(
        {"conventions": layout(kind="zip", folder="photos")},
        "digits.json: conventions.own.layouts.0: ",
        "'zip'",
        "'folders'",
    ),
    "unknown key": bad({"tilte": "Digits"}, "digits.json: tilte: is not known; did you mean 'title'?"),
    "name that is a path": bad({"name": "../digits"}, "digits.json: name: "),
    "name of the table": bad({"name": "dtd"}, "digits.json: name: 'dtd' is a benchmark of the table"),
    "no such folder": bad(
        {"conventions": layout(kind="folders", folder="gone")}, "digits: not found; looked for ", "gone"
    ),
    "no such synonyms": bad({"synonyms": "gone.json"}, "gone.json"),
    "no class of it": bad(
        {"synonyms": "builtin:dtd"},
        "digits: none of the labels (cat, eight, ",
        "(banded, ",
        "check the synonym",
    ),
    "a name twice": bad(
        {"synonyms": "twice.json"}, "digits: 'two' is the name of several classes; label by ids"
    ),
    "no image": bad(
        {"conventions": layout(kind="csv", file="none.csv")}, "digits: ", "no pictures", "none.csv"
    ),
    "nothing readable": bad(
        {"conventions": layout(kind="csv", file="broken.csv")}, "digits: no image to score: 1 found, 1 cannot"
    ),
    "other count of classes": bad(
        {"conventions": {"own": {"classes": 9, "layouts": [FOLDERS]}}},
        "digits: expected 9 classes, got 10 (in its synonyms)",
    ),
}

BAD_COMMANDS = {
    "unknown benchmark": bad(["food102", "--data", "."], "no benchmark 'food102'", "did you mean 'food101'"),
    "no such row": bad(["gone.json"], "gone.json: No such file or directory", "the row of a set of your own"),
    "no data": bad(["food101"], "--data: food101 needs the folder of all data sets, or hf://datasets"),
    "not there": bad(["food101", "--data", "empty"], "food101: not found; looked for ", "Food101.json"),
    "no convention": bad(
        ["food101", "--data", ".", "--convention", "cop"], "convention: ", "'cop'", "coop, "
    ),
    "twice": bad(["{row}", "{row}"], "expected one or more, each once, got digits, digits"),
    "unknown method": bad(["{row}", "--method", "best"], "--method: 'best' is not known; known: "),
    "other classes": bad(
        ["{row}", "--classes", "words.json"], "digits: none of the labels ", "(left, right)"
    ),
    "words for two": bad(
        ["{row}", "food101", "--data", ".", "--classes", "words.json"], "--classes: a file has the classes"
    ),
    "workers": bad(["{row}", "--workers", "-1"], "--workers: expected a whole number >= 0, got -1"),
    "no model": bad(["{row}", "--backbone", "empty"], "empty"),
    "out is a file": bad(["{row}", "--out", "words.json"], "--out: expected a folder, words.json is a file"),
    "cache in a file": bad(
        ["{row}", "--cache", "words.json/x"], "--cache: expected a folder, words.json is a file"
    ),
    "broken cache": bad(["{row}", "--cache", "cache"], "fingerprint.safetensors: cannot be read", "--cache"),
}


def refused(arguments: list[str], folder: Path, monkeypatch, capsys) -> str:
    """Run the command as a user does; it ends with status 2 and one line, which is returned."""
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    defaults = {"--backbone": model_folder(), "--out": "out", "--workers": "0"}
    given = [str(part) for name, value in defaults.items() if name not in arguments for part in (name, value)]
    monkeypatch.setattr(sys, "argv", ["s3clip", "eval", *arguments, *given, "--bootstrap", "5"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert not (folder / "out" / "run.json").exists()
    for path, content in before.items():  # nothing that was there is lost
        assert path.read_bytes() == content
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.fixture
def workplace(digits, tmp_path) -> Path:
    (tmp_path / "photos").symlink_to(digits / "photos")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.json").write_text('["left", "right"]')
    classes = [{"name": name} for name in ("two", "two", "one")]
    (tmp_path / "twice.json").write_text(json.dumps({"format": "s3clip-synonyms/1", "classes": classes}))
    (tmp_path / "none.csv").write_text("file,label\n")
    (tmp_path / "broken.csv").write_text("file,label\nphotos/two/broken.png,two\n")
    key = Backbone.from_pretrained(model_folder()).image_key()
    (tmp_path / "cache" / key[:16]).mkdir(parents=True)
    (tmp_path / "cache" / key[:16] / "fingerprint.safetensors").write_bytes(b"cut off")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*texts found in two classes")
@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_one_line_that_names_it(case, workplace, monkeypatch, capsys):
    changes, messages = BAD_ROWS[case]
    path = write_row(workplace, **changes).rename(workplace / "digits.json")
    error = refused([path.name], workplace, monkeypatch, capsys)
    for message in messages:
        assert message in error


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_bad_command_is_one_line_that_names_the_argument(case, workplace, monkeypatch, capsys):
    arguments, messages = BAD_COMMANDS[case]
    row = write_row(workplace).name
    error = refused([part.format(row=row) for part in arguments], workplace, monkeypatch, capsys)
    for message in messages:
        assert message in error


@pytest.mark.parametrize(
    "content", ["not JSON", "{}", '{"format": "s3clip-run/2", "benchmarks": [{}]}', None]
)
def test_a_report_of_no_run(content, tmp_path, monkeypatch, capsys):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["s3clip", "report", str(tmp_path), "--out", str(tmp_path / "p.html")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "run.json: " in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


# ---- real pictures --------------------------------------------------------------------------------------


def test_real_photos_with_labels_of_no_class(shared, tmp_path):
    """Every method on a few photos, a third of whose labels are none of the classes."""
    photos = shared / "data" / "fashion_photos"
    with (photos / "dev_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids = {str(each.id) for each in SynonymSet.read(photos / "article_types.json").classes}
    known, other = (
        [row for row in rows if (row["article_type"] in ids) == inside] for inside in (True, False)
    )
    chosen = [*known[:40], *other[:20]]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        writer.writerows([row["file"], row["article_type"]] for row in chosen)
    layouts = [{"kind": "csv", "file": "labels.csv", "folder": str(photos)}]
    row = write_row(tmp_path, "fashion", synonyms=str(photos / "article_types.json"),
                    conventions={"own": {"headline": "recall", "layouts": layouts}})  # fmt: skip
    model = shared / "models" / "fashion_clip"
    done = run("eval", row, "--backbone", model, "--out", tmp_path / "out", "--workers", 0, "--bootstrap", 20)
    assert done.exit_code == 0, done.output
    (found,) = without_measurements(tmp_path / "out")["benchmarks"]
    assert (found["counts"]["scored"], found["counts"]["of"], found["counts"]["left_out"]) == (40, 60, 20)
    assert dict(found["left_out_labels"]) == Counter(row["article_type"] for row in other[:20])
    assert {score["name"] for score in found["scores"]} == set(METHODS) - {"descriptors"}
    done = run("report", tmp_path / "out", "--out", tmp_path / "page.html")
    assert done.exit_code == 0
    assert "40 of 60 images" in (tmp_path / "page.html").read_text()


# ---- several processes ----------------------------------------------------------------------------------


def test_accelerate_launches_two_processes(digits, tmp_path):
    """The launcher for GPUs: on the CPU accelerate starts a single process, unless it finds MPI."""
    pytest.importorskip("accelerate")
    files = sorted((digits / "photos").rglob("*.png"))
    for number in range(3):
        members = [
            (f"{i:03}.{suffix}", content)
            for i, path in enumerate(files[number::3])
            for suffix, content in (("cls", path.parent.name.encode()), ("png", path.read_bytes()))
        ]
        write_tar(tmp_path / f"tars/test/{number}.tar", members)
    row = write_row(tmp_path, conventions=layout(kind="webdataset", folder="tars"))
    evaluated(tmp_path / "one", row, "--workers", 0)
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ]
    command = [
        *(*launcher, "-m", "s3clip.cli", "eval", str(row), "--backbone", str(model_folder())),
        *("--out", str(tmp_path / "two"), "--device", "cpu", "--workers", "0", *FEW),
    ]
    ended = launched(command, [tmp_path / "two"])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert without_measurements(tmp_path / "two") == without_measurements(tmp_path / "one")
    measured = json.loads((tmp_path / "two" / "run.json").read_text())["measured"]
    assert measured["processes"] == len(measured["peak_memory_mib"]) == 2
    assert ended.stdout.count("Saved to") == 1
