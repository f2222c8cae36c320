"""Names that are not known: one wording of what is near, in one place."""

from pathlib import Path

import pytest

import s3clip
from s3clip.arguments import did_you_mean
from s3clip.texts.sets import set_names

PACKAGE = Path(s3clip.__file__).parent


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
