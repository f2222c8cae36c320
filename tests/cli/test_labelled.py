"""What the command line teaches a saved head, against the library."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, cli
from s3clip.cli import wording
from s3clip.demo import held_out_digits, model_folder
from tests import ROOT

NAMES = ["zero", "one", "seven"]
DIGITS = [0, 1, 7]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(
        {"zero": ["0", "nought"], "one": ["1"], "seven": ["7"]}
    )
    return head.save_pretrained(tmp_path_factory.mktemp("heads") / "space")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, with twelve images in each, and threes and fours of no class."""
    folder = tmp_path_factory.mktemp("photos")
    images, labels = held_out_digits()
    for name, digit in [*zip(NAMES, DIGITS, strict=True), ("other", 3)]:
        (folder / name).mkdir()
        for i in [i for i, label in enumerate(labels) if label == digit][:12]:
            images[i].save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture
def head(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "head"))


def run(*arguments: object):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def listed(folder: Path) -> tuple[list[Path], list[str]]:
    files = sorted(file for name in NAMES for file in (folder / name).iterdir())
    return files, [file.parent.name for file in files]


@pytest.mark.filterwarnings("ignore:labels. every image is classified right")
def test_calibrate_is_the_librarys(head: Path, photos: Path, tmp_path: Path):
    files, labels = listed(photos)
    own = SynonymousSpaceHead.from_pretrained(head)
    before = own.predict(files, top_k=1)
    own.calibrate(files, labels, coverage=0.9)
    after = own.predict(files, top_k=1)
    said = run("calibrate", "--head", head, "--images", photos, "--coverage", 0.9, "--out", tmp_path / "new")
    found = SynonymousSpaceHead.from_pretrained(tmp_path / "new").calibration
    assert found.temperature == pytest.approx(own.calibration.temperature, rel=1e-3)
    assert found.coverage == 0.9
    assert "12 of 48 images have a label that is no class" in said.stderr
    line = said.stdout.strip().splitlines()
    assert len(line) == 1
    right = sum(a[0].label == label for a, label in zip(after, labels, strict=True)) / 36
    was, now = (sum(a[0].score for a in answers) / 36 for answers in (before, after))
    assert line[0].startswith(f"On your 36 images {right:.1%} of the best answers are right")
    assert f"was {was:.1%} sure of them, is {now:.1%} sure now" in line[0]
    assert line[0].endswith(f"saved to {tmp_path / 'new'}.")
    # A CSV says the same; in place.
    with (tmp_path / "labels.csv").open("w") as file:
        rows = [{"picture": str(f), "is": label} for f, label in zip(files, labels, strict=True)]
        writer = csv.DictWriter(file, ["picture", "is"])
        writer.writeheader()
        writer.writerows(rows)
    run("calibrate", "--head", head, "--images", photos, "--labels", tmp_path / "labels.csv",
        "--file-column", "picture", "--label-column", "is", "--coverage", 0.9)  # fmt: skip
    again = SynonymousSpaceHead.from_pretrained(head).calibration
    assert again.temperature == pytest.approx(found.temperature, rel=1e-6)


@pytest.mark.filterwarnings("ignore:labels. every image is classified right")
def test_predict_names_sets(head: Path, photos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"s3clip calibrate --coverage 0\.9 first"):
        run("predict", photos / "one", "--head", head, "--sets")
    run("reject", photos / "other", "--head", head, "--false-accept-rate", 0.0)
    run("calibrate", "--head", head, "--images", photos, "--coverage", 0.5)
    own = SynonymousSpaceHead.from_pretrained(head)
    files = [*sorted((photos / "one").iterdir()), *sorted((photos / "other").iterdir())]
    sets = own.predict_sets(files)
    assert [] in sets
    assert any(sets)
    rows = json.loads(run("predict", *files, "--head", head, "--sets", "--format", "json").stdout)
    assert [[p["class_index"] for p in row["predictions"]] for row in rows] == [
        [p.class_index for p in own] for own in sets
    ]
    table = run("predict", *files, "--head", head, "--sets", "--format", "csv")
    assert table.exit_code == 0
    found = [row["label"] for row in csv.DictReader(table.stdout.splitlines())]
    assert found == [label for own in sets for label in ([p.label for p in own] or ["none of these"])]
    with pytest.raises(ValueError, match="leave --adapt out"):
        run("predict", *files, "--head", head, "--sets", "--adapt", "shift")
    (tmp_path / "bad.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"bad\.png"):
        bad = run("predict", tmp_path / "bad.png", "--head", head, "--sets", "--format", "json")
    assert (bad.exit_code, json.loads(bad.stdout)[0]["error"]) == (1, "not a readable image")


def test_reject_is_the_librarys(head: Path, photos: Path):
    said = run("reject", photos / "other", "--head", head, "--false-accept-rate", 0.25).stdout
    found = SynonymousSpaceHead.from_pretrained(head)
    files = sorted((photos / "other").iterdir())
    # The image at the threshold goes to either side, by the last digit of its embedding.
    assert sum(own[0].accepted for own in found.predict(files, top_k=1)) in (3, 4)
    assert re.match(r"Of your 12 images of no class 3 are accepted .* saved to .*\.\n$", said)


def test_reject_takes_images_of_the_classes_too(head: Path, photos: Path):
    files = sorted(path for name in ("one", "seven", "zero") for path in (photos / name).iterdir())
    said = run("reject", *files, "--head", head, "--accept-rate", 0.5).stdout
    found = SynonymousSpaceHead.from_pretrained(head)
    own = SynonymousSpaceHead.from_pretrained(head).fit_rejection(files, accept_rate=0.5)
    assert found.calibration.thresholds == pytest.approx(own.calibration.thresholds, abs=1e-4)
    wanted = next(n for n in range(len(files) + 1) if 2 * n >= len(files) + 1)
    assert said.startswith(f"Of your {len(files)} images of the classes {wanted} are accepted from now on")


def test_shares_are_the_librarys(head: Path, tmp_path: Path):
    (tmp_path / "shares.json").write_text('{"seven": 0.6, "zero": 0.3}')
    for given in (tmp_path / "shares.json", '{"seven": 0.6, "zero": 0.3}'):
        said = run("shares", given, "--head", head).stdout
        assert said == f"The most common of 3 classes is seven with 60.0% of the images; saved to {head}.\n"
        kept = SynonymousSpaceHead.from_pretrained(head, backbone=None)
        assert kept.class_shares == pytest.approx((0.3, 0.1, 0.6))
    assert SynonymousSpaceHead.from_pretrained(head).backbone is not None
    run("shares", "null", "--head", head)
    assert SynonymousSpaceHead.from_pretrained(head, backbone=None).class_shares is None
    for bad, message in (("none.json", "no such file"), ("[1]", "no such file"), ('{"x": 1}', "no class")):
        with pytest.raises((ValueError, OSError), match=message):
            run("shares", bad, "--head", head)


def test_teach_is_the_librarys(head: Path, photos: Path, tmp_path: Path):
    files, labels = listed(photos)
    others = sorted((photos / "other").iterdir())
    own = SynonymousSpaceHead.from_pretrained(head)
    own.fit_few_shot([*files, *others], [*labels, *[None] * 12])
    said = run("teach", "--head", head, "--images", photos, "--none", "other", "--out", tmp_path / "new")
    found = SynonymousSpaceHead.from_pretrained(tmp_path / "new")
    assert (
        (found.few_shot.seen, found.few_shot.none)
        == (own.few_shot.seen, own.few_shot.none)
        == ((12,) * 3, 12)
    )
    assert found.few_shot.strength == own.few_shot.strength
    assert said.stdout.startswith("On your 48 images ")
    assert said.stdout.endswith(f"saved to {tmp_path / 'new'}.\n")
    assert "no class" not in said.stderr
    first = run("teach", "--head", head, "--images", photos).stderr
    assert "12 of 48 images have a label that is no class" in first
    assert SynonymousSpaceHead.from_pretrained(head).few_shot.seen == (12,) * 3


def test_teach_says_what_is_gained(head: Path, photos: Path, tmp_path: Path):
    """Names that tell nothing of the images: all is learned from the images."""
    strange = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(
        {"zero": ["8"], "one": ["5"], "seven": ["2"]}, templates=["the digit {}"]
    )
    strange.reconfigure(metric="nearest", scale_rule=None, logit_scale=5.0)
    folder = strange.save_pretrained(tmp_path / "strange")
    said = run("teach", "--head", folder, "--images", photos).stdout
    gain = SynonymousSpaceHead.from_pretrained(folder).few_shot
    assert gain is not None
    if gain.strength is None:
        assert "nothing that can be learned from them gains more than chance" in said
        return
    top1 = gain.top1
    expected = (
        f"On your 36 images {100 * top1.before:.1f} → {100 * (top1.before + top1.gain):.1f} % "
        f"({100 * top1.gain:+.1f} [{100 * top1.low:+.1f}, {100 * top1.high:+.1f}])"
    )
    assert said.startswith(expected)


def test_check_lists_wrong_labels_on_a_page_that_nothing_can_leave(head: Path, photos: Path, tmp_path: Path):
    mixed = tmp_path / "photos"
    shutil.copytree(photos, mixed, ignore=lambda folder, names: ["other"])
    moved = mixed / "one" / "<script>alert('x')</script>.png".replace("/", "")
    sorted((mixed / "zero").iterdir())[0].rename(moved)
    before = sorted(path.name for path in head.iterdir())
    page = tmp_path / "doubts.html"
    said = run("teach", "--head", head, "--images", mixed, "--check", page, "--format", "json")
    (found,) = json.loads(said.stdout)
    assert (found["file"], found["label"], found["likely"]) == (str(moved), "one", "zero")
    assert 0.5 < float(found["wrong"]) <= 1
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert sorted(path.name for path in head.iterdir()) == before
    table = run("teach", "--head", head, "--images", mixed, "--check", page).stdout
    assert table.endswith(f"Of your 36 labels the other images contradict 1; look at {page}.\n")


def test_suggest_writes_what_teach_reads(head: Path, photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    out = tmp_path / "next.csv"
    said = run("suggest", photos.name, "--head", head, "-n", 9, "--out", out).stdout
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert said.startswith("Chose 9 of 48 images")
    files = [photos / row["file"] for row in rows]
    assert len(set(files)) == 9
    assert f"--images {photos} --labels {out}" in said
    assert all(file.is_file() for file in files)
    assert not any(row["label"] for row in rows)
    own = SynonymousSpaceHead.from_pretrained(head)
    assert [row["guess"] for row in rows] == [best.label for (best,) in own.predict(files, top_k=1)]
    with pytest.raises(ValueError, match="expected a file and a label"):
        run("teach", "--head", head, "--images", photos, "--labels", out)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": Path(row["file"]).parent.name} for row in rows)
    run("teach", "--head", head, "--images", photos, "--labels", out, "--none", "other")
    report = SynonymousSpaceHead.from_pretrained(head, backbone=None).few_shot
    assert sum(report.seen) + report.none == 9
    filled = out.read_bytes()
    with pytest.raises(FileExistsError, match="labels filled in"):
        run("suggest", photos.name, "--head", head, "-n", 5, "--out", out)
    assert out.read_bytes() == filled
    run("suggest", photos.name, "--head", head, "-n", 5, "--out", tmp_path / "more.csv")
    with (tmp_path / "more.csv").open(newline="") as file:
        assert not {photos / row["file"] for row in csv.DictReader(file)} & set(files)


def test_what_another_command_saved_meanwhile_is_not_lost(
    head: Path, photos: Path, tmp_path: Path, monkeypatch
):
    fit = SynonymousSpaceHead.fit_rejection

    def meanwhile(self, *args, **options):
        other = SynonymousSpaceHead.from_pretrained(head, backbone=None)
        other.rename_class("one", f"{other.class_names[1]}!").save_pretrained(head)
        return fit(self, *args, **options)

    monkeypatch.setattr(SynonymousSpaceHead, "fit_rejection", meanwhile)
    with pytest.raises(ValueError, match="another command saved a head there meanwhile"):
        run("reject", photos / "other", "--head", head)
    assert SynonymousSpaceHead.from_pretrained(head, backbone=None).class_names[1] == "one!"
    monkeypatch.undo()
    run("reject", photos / "other", "--head", head)
    kept = SynonymousSpaceHead.from_pretrained(head, backbone=None)
    assert kept.class_names[1] == "one!"
    assert kept.calibration is not None


def test_bad_input_is_named_before_the_work(head: Path, photos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="--out: user/name is not a folder here"):
        run("calibrate", "--head", "user/name", "--images", photos)
    with pytest.raises(ValueError, match="expected --images"):
        run("calibrate", "--head", head)
    (tmp_path / "photos" / "strange").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "strange" / "a.png")
    with pytest.raises(ValueError, match="no label is that of a class: strange; the head has zero, one"):
        run("calibrate", "--head", head, "--images", tmp_path / "photos")


@pytest.mark.parametrize(
    ("coverage", "message"), [("0.99", "takes 99 images"), ("1.5", r"share in \(0, 1\)")]
)
def test_a_coverage_is_looked_at_before_anything_is_encoded(
    head: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, coverage: str, message: str
):
    def encode(*args, **kwargs):
        raise AssertionError("encoded")

    monkeypatch.setattr("s3clip.cli.labelled._encoded", encode)
    monkeypatch.setattr("s3clip.prediction.calibrating.all_logits", encode)
    with pytest.raises(ValueError, match=message):
        run("calibrate", "--head", head, "--images", photos, "--coverage", coverage)
    own = SynonymousSpaceHead.from_pretrained(head)
    files, labels = listed(photos)
    with pytest.raises(ValueError, match=message):
        own.calibrate(files, labels, coverage=float(coverage))


def test_messages_name_the_command_to_run_and_not_the_call(head: Path, photos: Path):
    done = subprocess.run(
        [sys.executable, "-m", "s3clip.cli", "predict", str(photos / "zero"), "--head", str(head), "--sets"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "s3clip calibrate --coverage 0.9 first" in done.stderr
    said = {
        "calibrate() again": "s3clip calibrate again",
        "ask for less, or fit_rejection(false_accept_rate=) anew": (
            "ask for less, or s3clip reject --false-accept-rate anew"
        ),
        "fit_few_shot() and set_class_shares()": "s3clip teach and s3clip shares",
        "nothing(to=1) change": "nothing(to=1) change",
    }
    assert {each: wording.as_typed(each) for each in said} == said
    # Every call that a message of a head names stands for a command.
    call = re.compile(r'^\s+f?".*?\b(\w*(?:calibrate|fit_\w+|shares|sets))\(', re.M)
    named = {
        name
        for room in ("prediction", "class_space")
        for path in (ROOT / "s3clip" / room).glob("*.py")
        for name in call.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 3
    assert named <= {*wording._VERBS, "fit_classes", "fit_embeddings"}


def test_what_shows_none_of_the_classes_is_no_class(head: Path, photos: Path, tmp_path: Path):
    given = ("teach", "--head", head, "--images", photos, "--out", tmp_path / "taught")
    with pytest.raises(ValueError, match="--none: zero is a class of the head"):
        run(*given, "--none", "zero")
    with pytest.raises(ValueError, match="--none: no image has the label 'nothing'; there are "):
        run(*given, "--none", "nothing")
    assert not (tmp_path / "taught").exists()
