"""No verb writes into a folder of something else, and each goes on with one that it has filled."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, cli
from s3clip.bulk import label
from s3clip.demo import model_folder, synonym_file, write_photos

CLASSES = "zero,one,two,three,four,five,six,seven,eight,nine"
FAST = ["--bootstrap", "5", "--method", "default"]

# By verb and option: what is called but for the option, below a folder with what `place` puts there.
VERBS: dict[str, list[str]] = {
    "fit --out": ["fit", CLASSES, "--backbone", "demo"],
    "shares --out": ["shares", '{"one": 0.3}', "--head", "head"],
    "teach --out": ["teach", "--head", "head", "--images", "photos"],
    "calibrate --out": ["calibrate", "--head", "head", "--images", "photos"],
    "reject --out": ["reject", "photos/one", "--head", "head"],
    "label --out": ["label", "photos", "--head", "head", "--workers", "0"],
    "label --sort-into": ["label", "photos", "--head", "head", "--workers", "0", "--out", "rows"],
    "segment --out": ["segment", "photos/one/0.png", "photos/two/1.png", "--head", "head"],
    "segment --overlay": ["segment", "photos/one/0.png", "photos/two/1.png", "--head", "head"],
    "segment --heat-maps": ["segment", "photos/one/0.png", "--head", "head"],
    "compare --out": ["compare", CLASSES, "--backbone", "demo", "--images", "photos", *FAST],
    "compare --words --out": [
        *("compare", "two.json", "--backbone", "demo", "--images", "photos", "--words", "--bootstrap", "5"),
    ],
    "eval --out": ["eval", "own.json", "--backbone", "demo", "--workers", "0", *FAST],
    "eval --cache": ["eval", "own.json", "--backbone", "demo", "--workers", "0", "--out", "run", *FAST],
    "demo --photos": ["demo"],
    "demo --out": ["demo"],
}
FOREIGN: dict[str, Callable[[Path], object]] = {
    "photographs": lambda folder: write_photos_into(folder),
    "a model": lambda folder: (folder / "config.json").write_text('{"model_type": "clip"}'),
    "words": lambda folder: (folder / "words.json").write_text('{"settings": ["options"], "cat": []}'),
    "a table": lambda folder: (folder / "listing.csv").write_text("file,label\n"),
    "our labels": lambda folder: label_into(folder),
    "our head": lambda folder: head().save_pretrained(folder),
}


def head() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(CLASSES.split(","))


def write_photos_into(folder: Path) -> None:
    for path in write_photos(folder.parent / "photos")[:3]:
        (folder / path.name).write_bytes(path.read_bytes())


def label_into(folder: Path) -> None:
    space = SynonymousSpaceHead().fit_embeddings([np.eye(4)[:2], np.eye(4)[2:]], ["a", "b"], logit_scale=1.0)
    np.save(folder.parent / "embeds.npy", np.eye(4, dtype=np.float32))
    label(folder.parent / "embeds.npy", space, folder)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_photos("photos")
    head().save_pretrained("head")
    own = {"headline": "top1", "layouts": [{"kind": "folders", "folder": "photos"}]}
    row = {"name": "own", "synonyms": str(synonym_file()), "conventions": {"own": own}}
    (tmp_path / "two.json").write_text('{"one": ["1"], "two": ["2"]}')
    (tmp_path / "own.json").write_text(json.dumps(row))
    return tmp_path


def there(folder: Path) -> dict[str, bytes | None]:
    return {str(each): each.read_bytes() if each.is_file() else None for each in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_something_else_is_refused_and_left(verb: str, place: Path):
    for name, fill in FOREIGN.items():
        is_own = (name == "our labels" and verb == "label --out") or (
            name == "our head" and verb in ("fit --out", "shares --out", "teach --out", "calibrate --out")
        )
        if is_own or (name == "our head" and verb == "reject --out"):
            continue
        folder = place / name
        folder.mkdir()
        fill(folder)
        before = there(place)
        result = CliRunner().invoke(cli.app, [*VERBS[verb], verb.split()[-1], str(folder)])
        assert isinstance(result.exception, ValueError), (name, result.output, result.exception)
        assert str(result.exception).startswith(f"{verb.split()[-1]}: {folder} holds"), result.exception
        assert there(place) == before, name


@pytest.mark.parametrize("verb", [each for each in VERBS if each != "demo --out"])
def test_a_new_folder_an_empty_one_and_ones_own_are_filled(verb: str, place: Path):
    (place / "empty").mkdir()
    (place / "empty" / ".DS_Store").write_bytes(b"of the system")
    for name in ("new", "empty", "empty"):
        arguments = [*VERBS[verb], verb.split()[-1], name]
        result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert [each for each in (place / name).iterdir() if not each.name.startswith(".")]
    assert (place / "empty" / ".DS_Store").read_bytes() == b"of the system"
