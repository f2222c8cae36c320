"""Answers of a chat model on disk: found again for the same question alone, whatever of it changes."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from s3clip.texts.generation.journal import Journal, Question
from s3clip.texts.synonyms import SynonymClass

ASKED = {
    "model": "a/chat",
    "prompt_version": 3,
    "domain": "a bird",
    "server": "http://one",
    "position": 1,
    "name": "owl",
}
OTHERS = {
    "model": st.text(min_size=1, max_size=8),
    "prompt_version": st.integers(0, 9),
    "domain": st.none() | st.text(max_size=8),
    "server": st.none() | st.sampled_from(["http://one", "http://one/", "http://two", "together"]),
    "position": st.integers(0, 5),
    "name": st.sampled_from(["owl", "Owl", "barn owl"]),
}


def journal(folder: Path, asked: dict) -> Journal:
    question = Question(**{key: asked[key] for key in ("model", "prompt_version", "domain")})
    return Journal(folder / "x.partial.jsonl", question, asked["server"])


@settings(max_examples=100, deadline=None)
@given(changed=st.sampled_from(sorted(OTHERS)), data=st.data())
def test_an_answer_is_that_of_its_question_alone(changed, data):
    asked = {**ASKED, changed: data.draw(OTHERS[changed])}
    with tempfile.TemporaryDirectory() as folder:
        written = journal(Path(folder), ASKED)
        written.add({1: SynonymClass(name="owl", synonyms=["screech owl"])})
        written.close()
        found = journal(Path(folder), asked).read({asked["position"]: asked["name"]})
    assert bool(found) == (asked == ASKED)
