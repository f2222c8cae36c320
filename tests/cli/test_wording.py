"""Errors at the command line name what was typed: a law over all verbs and their options."""

import re
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet, cli
from s3clip.bulk import label
from s3clip.cli.wording import _OTHERWISE, Verb, _parameter
from s3clip.demo import model_folder, write_photos
from s3clip.images.walking import find_images


def verbs(group: Any = None, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command by what is typed to call it."""
    found = {}
    for name, each in (group or typer.main.get_command(cli.app)).commands.items():
        inner = hasattr(each, "commands")
        found |= verbs(each, (*above, name)) if inner else {(*above, name): each}
    return found


VERBS = verbs()


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wording")
    write_photos(folder / "photos")
    for digit in ("zero", "one"):
        shutil.copytree(folder / "photos" / digit, folder / "two" / digit)
    SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(["zero", "one"]).save_pretrained(
        folder / "head"
    )
    return folder


def arguments(here: Path) -> dict[str, list[object]]:
    """Arguments with which a verb would work."""
    head, photo, photos, classes = here / "head", here / "two" / "zero" / "0.png", here / "two", "zero,one"
    out = here / "out"
    model = ("--backbone", model_folder())
    return {
        "fit": [classes, *model, "--out", out],
        "predict": [photo, "--head", head],
        "calibrate": ["--head", head, "--images", photos, "--out", out],
        "reject": [photo, "--head", head, "--out", out],
        "teach": ["--head", head, "--images", photos, "--out", out],
        "suggest": [photos, "--head", head, "--out", here / "next.csv"],
        "segment": [photo, "--head", head, "--out", here / "mask.png"],
        "label": [photos, "--head", head, "--out", here / "labels", "--workers", "0"],
        "compare": ["zero,one", *model, "--images", photos, "--out", out, "--method", "center"],
        "serve": [head, "--port", "0"],
    }


NUMBERS = [
    (name, each.name)
    for (name, *rest), command in VERBS.items()
    for each in command.params
    if not rest
    and name in arguments(Path())
    and re.search(r"\b(int|float)\b", str(signature(command.callback).parameters[each.name].annotation))
]


def test_every_command_words_its_errors():
    assert len(VERBS) > 20
    assert [name for name, each in VERBS.items() if not isinstance(each, Verb)] == []


@pytest.mark.parametrize(("verb", "parameter"), NUMBERS)
def test_a_number_out_of_range_is_told_by_the_option_that_was_typed(verb: str, parameter: str, here: Path):
    (option,) = (max(each.opts, key=len) for each in VERBS[(verb,)].params if each.name == parameter)
    result = run(verb, *arguments(here)[verb], option, "-7")
    assert result.exception is not None
    said = result.stderr if isinstance(result.exception, SystemExit) else str(result.exception)  # typer's own
    assert option in said, (type(result.exception), said)


@pytest.mark.parametrize("verb", sorted(arguments(Path())))
def test_no_path_is_empty_and_so_this_folder(verb: str, here: Path, monkeypatch: pytest.MonkeyPatch):
    (folder := here / verb).mkdir()
    monkeypatch.chdir(folder)
    given = arguments(here)[verb]
    for place, each in enumerate(given):
        if str(each).startswith("--"):
            continue
        emptied = [*given[:place], "", *given[place + 1 :]]
        result = run(verb, *emptied)
        before = str(given[place - 1]) if place else ""
        named = before if before.startswith("--") else "an argument"
        assert str(result.exception) == f"{named}: expected something, got an empty text"
        assert list(folder.iterdir()) == []


def test_what_the_library_calls_otherwise_is_no_option_of_that_name():
    known = {name: {each.name for each in command.params} for name, command in VERBS.items()}
    for argument, parameters in _OTHERWISE.items():
        meant = [own for own in known.values() if argument not in own and own & set(parameters)]
        assert meant, f"{argument}: no verb has {parameters}"
        assert all(_parameter(argument, own) in parameters for own in meant)


@pytest.mark.filterwarnings("ignore:labels")  # all images are classified right
@pytest.mark.parametrize("verb", ["predict", "calibrate", "reject", "teach", "suggest", "segment", "label"])
def test_a_model_that_moved_is_asked_for_by_the_option(verb: str, here: Path, tmp_path: Path):
    model, head = tmp_path / "model", tmp_path / "head"
    shutil.copytree(model_folder(), model)
    SynonymousSpaceHead.from_backbone(model).fit_classes(["zero", "one"]).save_pretrained(head)
    moved = tmp_path / "moved"
    model.rename(moved)
    given = [head if each == here / "head" else each for each in arguments(here)[verb]]
    assert str(run(verb, *given).exception).endswith("give its folder or Hub repository as --backbone")
    assert run(verb, *given, "--backbone", moved).exit_code == 0


def test_nor_is_an_empty_path_in_python(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    shutil.copytree(here / "head", tmp_path / "work")  # "." is a head, with pictures, in folders of classes
    shutil.copytree(here / "two", tmp_path / "work", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "work")
    head, before = SynonymousSpaceHead.from_pretrained("."), sorted(tmp_path.rglob("*"))
    for use in (
        lambda: SynonymSet.read(""),
        lambda: find_images([""]),
        lambda: head.save_pretrained(""),
        lambda: SynonymousSpaceHead.from_pretrained(""),
        lambda: Backbone.from_pretrained(""),
        lambda: label("", "head", "out"),
        lambda: label("zero", "head", ""),
        lambda: head.predict("zero/0.png", top_k=1) and head.predict_proba(""),
    ):
        with pytest.raises(ValueError, match=r"got an empty text|readable image"):
            use()
    assert sorted(tmp_path.rglob("*")) == before
