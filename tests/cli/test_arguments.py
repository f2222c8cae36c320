"""What commands have in common: classes on the command line, the demo as a model, names of classes, help."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, SynonymSet, __version__, cli
from s3clip.cli.common import class_source, named
from s3clip.demo import model_folder, synonym_file, write_photos


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return folder


def test_classes_are_names_a_file_or_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert class_source("cat,dog") == ["cat", "dog"]
    assert class_source('cat, "dog, big" ,ant') == ["cat", "dog, big", "ant"]
    assert class_source("food101") == "builtin:food101"
    for as_it_is in ("builtin:food101", "hf://datasets/a/b,c.json", "none.json", "a,b.json", "cat"):
        assert class_source(as_it_is) == as_it_is
    (tmp_path / "a,b").touch()  # what is there is a file
    assert class_source("a,b") == "a,b"
    assert SynonymSet.read(class_source("cat,dog")).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "content",
    [
        '["cat", "big dog"]',
        ' {"cat": ["feline, kitty"], "dog": []}',
        '[{"name": "cat", "synonyms": ["kitty"], "groups": {"kind": "pet"}}]',
        json.dumps({f"class {i}": ["a", "b"] for i in range(400)}),  # longer than any name of a file
    ],
)
def test_classes_may_be_what_their_file_would_hold(content: str, tmp_path: Path):
    (tmp_path / "classes.json").write_text(content, encoding="utf-8")
    of_file = SynonymSet.read(tmp_path / "classes.json")
    assert SynonymSet.read(class_source(content)) == of_file
    assert run("synonyms", "show", content, "--format", "json").stdout == (
        run("synonyms", "show", tmp_path / "classes.json", "--format", "json").stdout
    )
    with pytest.raises(ValueError, match="classes: not JSON"):
        class_source(content[:-1])


def test_predict_without_fit_is_a_fit_and_a_predict(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["zero", "one", "seven"]
    pictures = [photos / name for name in names]
    short = run("predict", *pictures, "--classes", ",".join(names), "--backbone", "demo", "--format", "json")
    assert short.exit_code == 0, short.output
    run("fit", ",".join(names), "--backbone", "demo", "--out", "space")
    saved = run("predict", *pictures, "--head", "space", "--format", "json")
    assert json.loads(short.stdout) == json.loads(saved.stdout)
    right = [
        row["predictions"][0]["label"] == Path(row["file"]).parent.name for row in json.loads(short.stdout)
    ]
    assert sum(right) >= 28
    for wrong in (["--classes", "a,b"], [], ["--head", "space", "--classes", "a,b"]):
        assert isinstance(run("predict", *pictures, *wrong).exception, ValueError)


def test_a_folder_called_demo_is_no_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run("fit", "a,b", "--backbone", "demo", "--out", "space").exit_code == 0
    (tmp_path / "demo").mkdir()
    failed = run("fit", "a,b", "--backbone", "demo", "--out", "other")
    assert isinstance(failed.exception, (ValueError, OSError))
    assert not (tmp_path / "other").exists()
    with pytest.raises((ValueError, OSError)):  # a name of the command line alone
        SynonymousSpaceHead.from_backbone("demo")


def test_every_backbone_option_knows_the_demo():
    commands = typer.main.get_command(cli.app)
    leaves = [*commands.commands.values(), *commands.commands["synonyms"].commands.values()]
    options = [each for leaf in leaves for each in getattr(leaf, "params", ()) if each.name == "backbone"]
    assert len(options) >= 8
    for option in options:
        assert "CLIP-like model" in option.help or "The model, if" in option.help
        assert option.process_value(click.Context(commands), "demo") == str(model_folder())


def test_classes_are_found_in_any_case_and_near_names_are_said(tmp_path: Path):
    assert named("cat", ["dog", "Cat", "cat"], "x") == [2]
    assert named("CAT", ["dog", "Cat", "cat"], "x") == [1, 2]
    with pytest.raises(ValueError, match=r"--class: x has no class 'taby cat'; did you mean 'Tabby cat'\?"):
        named("taby cat", ["goldfish", "Tabby cat"], "x")
    with pytest.raises(ValueError, match="it has: goldfish, Tabby cat"):
        named("xyz", ["goldfish", "Tabby cat"], "x")
    run("fit", synonym_file(), "--backbone", model_folder(), "--out", tmp_path / "space")
    assert run("inspect", tmp_path / "space", "--class", "ZERO").stdout.startswith("0 zero: ")
    (tmp_path / "one.txt").write_text("cat\n")
    said = run("fit", tmp_path / "one.txt", "--backbone", "demo", "--out", tmp_path / "one").output
    assert "1 class, 1 concept: 1 kept" in said


@pytest.mark.parametrize("module", ["s3clip", "s3clip.cli"])
def test_the_package_is_the_command(module: str):
    line = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"s3clip {__version__}\n")


def test_help_shows_what_stands_in_brackets():
    assert re.search(r'{"class":\s+\[texts\]}', run("fit", "--help").stdout)
    assert "--install-completion" in run("--help").stdout
