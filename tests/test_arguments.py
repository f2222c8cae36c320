"""Names that are not known: one wording of what is near, in one place."""

from pathlib import Path

import pytest

import s3clip
from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.arguments import did_you_mean
from s3clip.bulk import label
from s3clip.cli.options import read_options
from s3clip.evaluation.benchmarks.table import find_benchmark
from s3clip.evaluation.inputs import labelled_images
from s3clip.evaluation.report.run import Run
from s3clip.images.walking import find_images
from s3clip.texts.sets import set_names

PACKAGE = Path(s3clip.__file__).parent


@pytest.mark.parametrize(
    ("read", "near"),
    [
        (lambda: SynonymSet.read("CIFAR10"), "'builtin:cifar10'"),
        (lambda: SynonymSet.read("pet.json"), "'pets.json'"),
        (lambda: SynonymousSpaceHead.from_pretrained("pet-spaces"), "'pets-space'"),
        (lambda: SynonymousSpaceHead.from_backbone("./pet_space"), "'pets-space'"),
        (lambda: find_images(["photo"]), "'photos'"),
        (lambda: labelled_images(Path("fotos"), None), "'photos'"),
        (lambda: Run.read("pet space"), "'pets-space'"),
        (lambda: find_benchmark("photo.json"), "'photos'"),
        (lambda: label("fotos", "pets-space", "out"), "photos'"),
        (lambda: read_options(Path("pet.json")), "'pets.json'"),
    ],
)
def test_what_is_not_there_brings_what_lies_beside_it(read, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "pets-space"):
        (tmp_path / name).mkdir()
    (tmp_path / "pets.json").write_text("{}")
    with pytest.raises((FileNotFoundError, ValueError), match=rf"did you mean .*{near}"):
        read()


def test_one_function_has_the_words():
    said = {path for path in PACKAGE.rglob("*.py") if "get_close_matches" in path.read_text(encoding="utf-8")}
    said |= {path for path in PACKAGE.rglob("*.py") if "id you mean" in path.read_text(encoding="utf-8")}
    assert said == {PACKAGE / "arguments.py"}


@pytest.mark.parametrize("name", [*set_names(), "golden retriever", "Käse", "ミッキー"])
def test_a_slip_of_one_letter_is_found(name: str):
    known = [*set_names(), "golden retriever", "Käse", "ミッキー"]
    for place in range(len(name)):
        shorter = name[:place] + name[place + 1 :]
        assert repr(name) in did_you_mean(shorter, known) or shorter in known
    assert repr(name) in did_you_mean(name.upper().replace("_", "-"), known)


def test_what_is_near_nothing_is_told_what_there_is():
    assert did_you_mean("qwxz", ["cat", "dog"], "there are cat, dog") == "there are cat, dog"
    assert did_you_mean("", ["cat", "dog"], "there are cat, dog") == "there are cat, dog"
    assert did_you_mean("?", ["cat", "?!"], "none") == "none"
    assert (
        did_you_mean("cat", ["Cat", "CAT", "cats", "catty", "dog"])
        == "did you mean 'Cat' or 'CAT' or 'cats'?"
    )
