"""Runs in another type, or of pictures decoded near their size: recorded, kept, and encoded once each."""

import json

import pytest
import torch

from s3clip import Backbone
from s3clip.backbone import precision
from s3clip.demo import model_folder
from s3clip.evaluation.runs.run import evaluate
from tests.local_sets import IMAGES, open_digits, write_digits

FEW = {"methods": ["name"], "bootstrap": 10, "batch_size": 50}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def evaluated(digits, cache, **how):
    """The run of a model that is loaded anew, and how many images it encoded."""
    backbone = Backbone.from_pretrained(model_folder())
    run = evaluate([open_digits(digits)], backbone=backbone, cache=cache, **FEW, **how)
    return run, run.measured.benchmarks[0].images_encoded


@pytest.mark.filterwarnings("ignore")
def test_what_auto_took_is_kept_in_the_cache(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_FASTER", 0.0)
    monkeypatch.setattr(precision, "_candidates", lambda device: ["bfloat16"])
    run, encoded = evaluated(digits, tmp_path, dtype="auto")
    assert (run.model.dtype, encoded) == ("bfloat16", IMAGES)
    assert run.measured.precision.startswith("auto takes bfloat16: bfloat16 is")
    monkeypatch.setattr(precision, "_candidates", lambda device: [])
    again, encoded = evaluated(digits, tmp_path, dtype="auto")
    assert (again.model.dtype, encoded) == ("bfloat16", 0)
    assert again.measured.precision == run.measured.precision
    assert again.benchmarks == run.benchmarks
    asked, encoded = evaluated(digits, tmp_path, dtype="bfloat16")  # the same, by whatever way
    assert (asked.model.fingerprint, encoded) == (run.model.fingerprint, 0)
    elsewhere, _ = evaluated(digits, tmp_path / "other", dtype="auto")
    assert elsewhere.model.dtype == "float32"


@pytest.mark.filterwarnings("ignore")
def test_every_way_has_its_own_place_and_is_found_there(digits, tmp_path):
    ways = [{}, {"near_size": True}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "near_size": True}]
    first = [evaluated(digits, tmp_path, **how) for how in ways]
    assert [encoded for _, encoded in first] == [IMAGES] * len(ways)
    again = [evaluated(digits, tmp_path, **how) for how in ways]
    assert [encoded for _, encoded in again] == [0] * len(ways)
    for (one, _), (other, _), how in zip(first, again, ways, strict=True):
        assert one.benchmarks == other.benchmarks
        assert one.settings.near_size == ("near_size" in how)
        assert one.model.dtype == how.get("dtype", "float32")


def test_a_note_that_is_damaged_is_named(digits, tmp_path):
    backbone = Backbone.from_pretrained(model_folder())
    note = tmp_path / backbone.image_key()[:16] / "precision.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"dtype": "int8", "said": ""}))
    with pytest.raises(ValueError, match=r"precision\.json"):
        evaluate([open_digits(digits)], backbone=backbone, cache=tmp_path, dtype="auto", **FEW)
    assert backbone.dtype == torch.float32
