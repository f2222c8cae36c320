"""One folder in many shapes: every command finds the same pictures in it, and says what it passes over.

`tests/images/test_walking.py` asks the functions below the commands; this asks what a user types.
"""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import features
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, SynonymSet, cli
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.images.walking import find_images
from s3clip.inspection import matches
from s3clip.inspection.matches import match_images

PICTURES, LABELS = held_out_digits()
NAMES = SynonymSet.read(synonym_file()).class_names
NOISE = "text that is no picture"


class Shape(NamedTuple):
    """A folder of digits.

    Attributes:
        make: writes it.
        found: the pictures in it, as paths below it, sorted.
        broken: those of them that cannot be read.
        passed_over: what the one warning says was passed over; None: there is none.
    """

    make: Callable[[Path], None]
    found: list[str]
    broken: tuple[str, ...] = ()
    passed_over: str | None = None


def write(path: Path, digit: int, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PICTURES[int(np.flatnonzero(LABELS == digit)[0])]
    picture.convert("RGB").save(path, format=kind)


def classes(folder: Path) -> None:
    write(folder / "seven" / "a.png", 7)
    write(folder / "seven" / "b.png", 7)
    write(folder / "two" / "a.png", 2)


CLASSES = ["seven/a.png", "seven/b.png", "two/a.png"]


def nested(folder: Path) -> None:
    classes(folder)
    write(folder / "two" / "2024" / "may" / "a.png", 2)


KINDS = {
    "JPEG": ".JPG .jfif .Jpeg .jpe",
    "WEBP": ".webp",
    "BMP": ".bmp .dib",
    "TGA": ".tga",
    "PPM": ".ppm .pnm",
}
KINDS |= {"TIFF": ".TIF .tiff", "GIF": ".gif", "JPEG2000": ".jp2", "PNG": ".PNG"}
if features.check("avif"):
    KINDS["AVIF"] = ".avif"
SUFFIXES = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes.split()}


def suffixes(folder: Path) -> None:
    write(folder / "two" / "a.png", 2)
    for suffix, kind in SUFFIXES.items():
        write(folder / "seven" / f"a{suffix}", 7, kind)


def linked(folder: Path) -> None:
    classes(folder.parent / "pool")
    folder.mkdir()
    (folder / "seven").symlink_to(folder.parent / "pool" / "seven")
    (folder / "two").mkdir()
    (folder / "two" / "a.png").symlink_to(folder.parent / "pool" / "two" / "a.png")


def loop(folder: Path) -> None:
    classes(folder)
    (folder / "two" / "up").symlink_to(folder)
    (folder / "seven" / "here").symlink_to(folder / "seven")


def hidden(folder: Path) -> None:
    classes(folder)
    write(folder / "seven" / ".ipynb_checkpoints" / "a-checkpoint.png", 7)
    (folder / "two" / "._a.png").write_text(NOISE)
    (folder / ".DS_Store").write_text(NOISE)


def empty_folders(folder: Path) -> None:
    classes(folder)
    (folder / "nine").mkdir()
    (folder / "seven" / "c.png").mkdir()


def other_files(folder: Path) -> None:
    classes(folder)
    for name in ("README", "labels.csv", "seven/notes.txt", "two/notes.txt"):
        (folder / name).write_text(NOISE)


def broken(folder: Path) -> None:
    classes(folder)
    (folder / "seven" / "c.png").write_text(NOISE)
    whole = (folder / "two" / "a.png").read_bytes()
    (folder / "two" / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "two" / "c.png").write_bytes(b"")


def not_there(folder: Path) -> None:
    """A link to nothing, one to itself, and a pipe, which would be waited for."""
    classes(folder)
    (folder / "seven" / "c.png").symlink_to(folder / "gone.png")
    (folder / "two" / "b.png").symlink_to("b.png")
    os.mkfifo(folder / "two" / "pipe.png")


def forbidden(folder: Path) -> None:
    classes(folder)
    write(folder / "two" / "b.png", 2)
    (folder / "two" / "b.png").chmod(0)


def odd_names(folder: Path) -> None:
    classes(folder)
    for name in ("[1].png", "a b.png", "ü.png", "x*.png", "1.2.3.png"):
        write(folder / "two" / name, 2)


SHAPES = {
    "classes": Shape(classes, CLASSES),
    "nested": Shape(nested, [*CLASSES[:2], "two/2024/may/a.png", "two/a.png"]),
    "suffixes": Shape(suffixes, sorted([*(f"seven/a{suffix}" for suffix in SUFFIXES), "two/a.png"])),
    "linked": Shape(linked, CLASSES),
    "loop": Shape(loop, CLASSES),
    "hidden": Shape(hidden, CLASSES, passed_over="1 .ipynb_checkpoints/, 1 hidden .png"),
    "empty folders": Shape(empty_folders, CLASSES),
    "other files": Shape(other_files, CLASSES, passed_over="2 .txt, 1 .csv, 1 without a suffix"),
    "broken": Shape(
        broken,
        [*CLASSES[:2], "seven/c.png", "two/a.png", "two/b.png", "two/c.png"],
        broken=("seven/c.png", "two/b.png", "two/c.png"),
    ),
    "not there": Shape(
        not_there,
        [*CLASSES[:2], "seven/c.png", "two/a.png", "two/b.png"],
        broken=("seven/c.png", "two/b.png"),
        passed_over="1 .png",
    ),
    "odd names": Shape(
        odd_names,
        sorted(
            [*CLASSES, *(f"two/{name}" for name in ("[1].png", "a b.png", "ü.png", "x*.png", "1.2.3.png"))]
        ),
    ),
}
if os.geteuid():  # the superuser may read everything
    SHAPES["forbidden"] = Shape(forbidden, [*CLASSES, "two/b.png"], broken=("two/b.png",))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    return (
        SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file()).save_pretrained(folder)
    )


def run(*arguments: object, status: int):
    """The result of a command, and what it says was passed over."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    said = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    return result, [each for each in said if "passed over" in each]


@pytest.mark.parametrize("name", SHAPES)
def test_every_command_finds_the_same_pictures(head, tmp_path, monkeypatch, name):
    shape = SHAPES[name]
    folder, out = tmp_path / "photos [1]", tmp_path / "out"
    shape.make(folder)
    readable = [each for each in shape.found if each not in shape.broken]
    warned = [] if shape.passed_over is None else [f"{folder}: passed over: {shape.passed_over}"]
    status = 1 if shape.broken else 0
    below = len(str(folder)) + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [str(path)[below:] for path in find_images([folder])] == shape.found

    result, passed_over = run("predict", folder, "--head", head, "--format", "json", status=status)
    rows = {row["file"][below:]: row for row in json.loads(result.stdout)}
    assert list(rows) == shape.found
    assert tuple(file for file, row in rows.items() if "error" in row) == shape.broken
    for file in readable:
        assert rows[file]["predictions"][0]["label"] == file.partition("/")[0], file
    assert passed_over == warned

    result, passed_over = run(
        "segment", folder, "--head", head, "--window", 32, "--format", "json", status=status
    )
    assert list(dict.fromkeys(row["file"][below:] for row in json.loads(result.stdout))) == readable
    assert passed_over == warned

    shown = []
    keep = lambda *given: shown.append(match_images(*given)) or shown[-1]  # noqa: E731
    monkeypatch.setattr(matches, "match_images", keep)
    _, passed_over = run("inspect", head, "--page", tmp_path / "page.html", "--images", folder, status=status)
    assert [each.file for each in shown.pop()] == [Path(each).name for each in readable]
    assert passed_over == warned

    _, passed_over = run(
        "label", folder, "--head", head, "--out", out, "--workers", 0, "--max-error-share", 1, status=0
    )
    files = sorted(out.glob("*.parquet"))
    rows = {row["key"][below:]: row for file in files for row in pq.read_table(file).to_pylist()}
    assert list(rows) == shape.found
    assert tuple(file for file, row in rows.items() if row["error"]) == shape.broken
    for file in readable:
        assert rows[file]["label"] == file.partition("/")[0], file
    assert passed_over == warned


@pytest.mark.parametrize("name", SHAPES)
def test_every_evaluation_finds_the_same_pictures(tmp_path, name):
    shape = SHAPES[name]
    folder = tmp_path / "photos [1]"
    shape.make(folder)
    warned = [] if shape.passed_over is None else [f"{folder}: passed over: {shape.passed_over}"]
    asked = ["--backbone", model_folder(), "--method", "default", "--bootstrap", 10]

    row = {"layouts": [{"kind": "folders", "folder": folder.name}]}
    (tmp_path / "mine.json").write_text(
        json.dumps({"name": "mine", "synonyms": str(synonym_file()), "conventions": {"own": row}})
    )
    _, passed_over = run(
        "eval", tmp_path / "mine.json", "--out", tmp_path / "run", "--workers", 0, *asked, status=0
    )
    (found,) = json.loads((tmp_path / "run" / "run.json").read_text())["benchmarks"]
    assert found["counts"]["found"] == len(shape.found)
    assert tuple(each["key"].removeprefix(f"{folder.name}/") for each in found["broken"]) == shape.broken
    assert [each["acc1"] for each in found["scores"] if each["name"] == "default"] == [1.0]
    assert passed_over == warned

    # Scores of some of the images would not be those of the folder: one that cannot be read stops it.
    arguments = ["compare", synonym_file(), "--images", folder, "--out", tmp_path / "compared", *asked]
    result, passed_over = run(*arguments, status=1 if shape.broken else 0)
    assert passed_over == warned
    if shape.broken:
        assert shape.broken[0] in str(result.exception)
        assert isinstance(result.exception, ValueError)
        return
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert compared["images"] == len(shape.found)
    assert [each["top1"] for each in compared["scores"] if each["name"] == "default"] == [1.0]


def test_a_flat_folder_has_pictures_and_no_classes(head, tmp_path):
    folder = tmp_path / "photos"
    write(folder / "a.png", 7)
    result, _ = run("predict", folder, "--head", head, "--format", "json", status=0)
    assert [row["file"] for row in json.loads(result.stdout)] == [f"{folder}/a.png"]
    asked = ("--backbone", model_folder(), "--out", tmp_path / "out")
    result, _ = run("compare", synonym_file(), "--images", folder, *asked, status=1)
    assert "no sub-folder with images" in str(result.exception)


def test_an_empty_folder_is_said_to_be_one(head, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in ("predict", "segment"):
        result, _ = run(command, tmp_path / "empty", "--head", head, status=1)
        assert "no images in this folder" in str(result.exception)
    result, _ = run("label", tmp_path / "empty", "--head", head, "--out", tmp_path / "out", status=1)
    assert "nothing there that can be labelled" in str(result.exception)
