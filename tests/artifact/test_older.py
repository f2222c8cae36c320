"""Artifacts that older versions saved, one folder for each format: they load, and answer as they did.

Every change of the format adds a folder, written by the version before it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.artifact.folder import FORMAT
from s3clip.demo import model_folder

SAVED = Path(__file__).parent / "saved"


@pytest.mark.parametrize("backbone", [None, str(model_folder())], ids=["embeddings", "demo"])
@pytest.mark.parametrize("folder", sorted(SAVED.iterdir()), ids=lambda folder: f"format {folder.name}")
def test_an_older_artifact_answers_as_it_did(folder: Path, backbone: str | None):
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    head = SynonymousSpaceHead.from_pretrained(folder, backbone=backbone)
    images = torch.randn(40, 64, generator=torch.Generator().manual_seed(expected["seed"]))[:5]
    answers = head.predict(image_embeds=images)
    torch.testing.assert_close(head(image_embeds=images), torch.tensor(expected["logits"]), atol=1e-5, rtol=0)
    # What labelled images add is solved anew, up to a tolerance.
    torch.testing.assert_close(
        head.predict_proba(image_embeds=images), torch.tensor(expected["probabilities"]), atol=1e-5, rtol=0
    )
    assert [[answer.text for answer in own] for own in answers] == expected["texts"]
    assert [[answer.accepted for answer in own] for own in answers] == expected["accepted"]
    assert [each.id for each in head.classes] == [0, "n3", None]
    if "groups" in expected:
        assert [each.groups for each in head.classes] == expected["groups"]
        assert [list(each.groups) for each in head.classes] == [list(own) for own in expected["groups"]]
        assert [each.names for each in head.classes] == expected["names"]
        assert [each.negatives for each in head.classes] == expected["negatives"]
    if "sets" in expected:
        sets = head.predict_sets(image_embeds=images)
        assert [[answer.class_index for answer in own] for own in sets] == expected["sets"]


def test_every_format_has_one():
    assert {f"s3clip-space/{folder.name}" for folder in SAVED.iterdir()} == {
        f"s3clip-space/{number}" for number in range(1, int(FORMAT.rpartition("/")[2]) + 1)
    }


def test_an_older_artifact_is_saved_in_the_format_of_today(tmp_path: Path):
    head = SynonymousSpaceHead.from_pretrained(SAVED / "1", backbone=None)
    config = json.loads((head.save_pretrained(tmp_path) / "config.json").read_text(encoding="utf-8"))
    before = json.loads((SAVED / "1" / "config.json").read_text(encoding="utf-8"))
    assert (config.pop("format"), before.pop("format")) == (FORMAT, "s3clip-space/1")
    assert config.pop("model_type") == "s3clip"
    before["head"]["points"] = "texts"
    now, then = _without_none(config), _without_none(before)  # what came later is not there
    assert {key for key in now if now[key] != then[key]} == {"space_file", "space_sha256"}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", ["1", "2"])
def test_what_older_ones_hold_are_texts_and_stays_so(form: str):
    head = SynonymousSpaceHead.from_pretrained(SAVED / form, backbone=str(model_folder()))
    assert head.config.points == "texts"
    assert head.classes[0].rows == len(head.classes[0].texts or []) == 8  # four names, with a descriptor each
    head.add_classes([{"name": "one", "synonyms": ["ace"], "descriptors": ["a stroke"]}], cache=False)
    assert head.classes[-1].texts == ["one", "ace", "one, which is a stroke", "ace, which is a stroke"]
    with pytest.raises(ValueError, match=r"points: .*fit again with HeadConfig\(points='concepts'\)"):
        head.reconfigure(points="concepts")


def test_a_newer_format_is_refused(tmp_path: Path):
    config = json.loads((SAVED / "1" / "config.json").read_text(encoding="utf-8"))
    number = int(FORMAT.rpartition("/")[2]) + 1
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": f"s3clip-space/{number}"}))
    with pytest.raises(ValueError, match="update s3clip"):
        SynonymousSpaceHead.from_pretrained(tmp_path, backbone=None)
