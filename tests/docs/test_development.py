"""docs/development.md is the map of the package: its rooms and names exist, its journeys are as it says."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import s3clip
from s3clip import SynonymousSpaceHead, cli
from s3clip.bulk import label
from s3clip.demo import held_out_digits, model_folder, synonym_file
from tests import ROOT
from tests.docs.journeys import called_by
from tests.test_layering import MODULES, ROWS, room

PAGE = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
ROOMS = set().union(*ROWS)
NAMES = [name for name in re.findall(r"`([\w.]+\.\w+)`", PAGE) if name.split(".")[0] in ROOMS]
JOURNEYS = dict(re.findall(r"^### (\w+): .*?\n(.*?)(?=^##)", PAGE, re.M | re.S))


def exists(name: str) -> bool:
    """Whether a name below `s3clip` is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (module := ".".join(parts[:length])) in MODULES:
            found: Any = import_module(f"s3clip.{module}")
            for part in parts[length:]:
                found = getattr(found, part, None) or getattr(found, "model_fields", {}).get(part)
            return found is not None
    return False


def test_the_map_has_every_room_in_the_order_of_the_layers():
    drawn = re.search(r"```text\ns3clip/\n(.*?)```", PAGE, re.S)[1]
    rooms = [line.split()[0].rstrip("/").removesuffix(".py") for line in drawn.splitlines()]
    assert sorted(rooms) == sorted({"__init__"} | ROOMS)
    rows = [next(i for i, row in enumerate(ROWS) if name in row) for name in rooms[1:]]
    assert rows == sorted(rows)


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_what_it_names_exists(name: str):
    assert exists(name), f"docs/development.md names {name}"


def test_files_it_names_exist():
    for path in re.findall(r"`((?:tests|docs|examples|\.ci)/[\w./-]+)`", PAGE):
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits in folders of their names, a benchmark of them, and a saved head."""
    folder = tmp_path_factory.mktemp("digits")
    names = [each["name"] for each in json.loads(synonym_file().read_text(encoding="utf-8"))["classes"]]
    pictures, labels = held_out_digits()
    for i in range(20):
        place = folder / "photos" / names[labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        pictures[i].save(place / f"{i}.png")
    layouts = [{"kind": "folders", "folder": "photos"}]
    row = {"name": "own", "synonyms": str(synonym_file()), "conventions": {"own": {"layouts": layouts}}}
    (folder / "own.json").write_text(json.dumps(row))
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.save_pretrained(folder / "space")
    return folder


def evaluate(digits: Path) -> None:
    words = f"eval {digits / 'own.json'} --backbone {model_folder()} --out {digits / 'run'} --workers 0"
    done = CliRunner().invoke(cli.app, f"{words} --method default --bootstrap 20".split())
    assert done.exit_code == 0, (done.output, done.exception)


def actions(digits: Path) -> dict[str, Callable[[], Any]]:
    """What a user calls at the beginning of each journey."""
    unfitted = SynonymousSpaceHead.from_backbone(model_folder())
    head = SynonymousSpaceHead.from_pretrained(digits / "space")
    shown, labels = (given[:30] for given in held_out_digits())
    pictures = shown[:2]
    pixels = head.backbone.preprocess(pictures)
    return {
        "fit": lambda: unfitted.fit_classes(synonym_file()),
        "forward": lambda: head(**pixels),
        "teach": lambda: head.fit_few_shot(shown, labels),
        "predict": lambda: head.predict(pictures),
        "label": lambda: label(digits / "photos", digits / "space", digits / "labels", workers=0),
        "eval": lambda: evaluate(digits),
    }


def test_there_is_a_journey_for_every_action(digits: Path):
    assert list(JOURNEYS) == list(actions(digits))


# Named in the journeys without being called in them: values, and the other one of two ways.
NOT_CALLED = {
    "bulk.on_ray.label_on_ray",
    "bulk.work.Task",
    "class_space.examples.Examples",
    "class_space.value.ClassSpace",
    "space.built.BuiltSpace",
    "space.scale_rules.ScaleRule",
}


@pytest.mark.parametrize("journey", JOURNEYS)
def test_journeys_go_as_the_page_says(journey: str, digits: Path):
    named = [name for name in re.findall(r"`([\w.]+\.\w+)`", JOURNEYS[journey]) if room(name) in ROOMS]
    calls = iter(called_by(actions(digits)[journey]))
    for name in named:
        # `in` takes from the iterator up to the call that it looks for.
        assert name in MODULES or name in NOT_CALLED or name in calls, f"{journey}: {name} is not called then"
    rooms = " → ".join(name for name, _ in groupby(map(room, named)))
    assert re.search(r"^Rooms: (.*)$", JOURNEYS[journey], re.M)[1] == rooms


def test_public_names_stand_beside_the_modules_they_live_in():
    lines = re.findall(r"^ {4}([\w.]+) {2,}(.*)$", s3clip.__doc__, re.M)
    words = {home: set(re.findall(r"\w+", text)) for home, text in lines}
    assert {name: home for home in words for name in s3clip.__all__ if name in words[home]} == s3clip._HOMES
