"""Labelled images in files of strangers: what does not fit is refused by name."""

import json
import math
from pathlib import Path

import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.artifact.folder import DamagedFileError, load_artifact
from tests.artifact.test_artifact import rewrite


@pytest.fixture(scope="module")
def taught():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 8, generator=generator)
    head = SynonymousSpaceHead().fit_embeddings([c[None] for c in centres], ["a", "b", "c"], logit_scale=5.0)
    labels = torch.arange(90) % 3
    images = centres.roll(1, 0)[labels] + 0.3 * torch.randn(90, 8, generator=generator)
    head.fit_few_shot(image_embeds=images, labels=labels)
    assert head.few_shot.strength is not None
    return head


@pytest.fixture(params=[True, False], ids=["examples", "residual"])
def saved(taught, tmp_path: Path, request) -> Path:
    return taught.save_pretrained(tmp_path / "space", examples=request.param)


BOTH = {
    "a strength of 0": lambda c: c["few_shot"].update(strength=0.0),
    "a strength of NaN": lambda c: c["few_shot"].update(strength=math.nan),
    "counts of other classes": lambda c: c["few_shot"].update(seen=[1, 2]),
    "a count below 0": lambda c: c["few_shot"].update(seen=[1, 2, -1]),
    "a gain of 2": lambda c: c["few_shot"]["top1"].update(gain=2.0),
    "a threshold of 1e300": lambda c: c["few_shot"].update(threshold=1e300),
    "a field that is not known": lambda c: c["few_shot"].update(more=1),
}


@pytest.mark.parametrize("change", BOTH.values(), ids=BOTH)
def test_a_report_of_a_stranger_is_refused(saved: Path, change):
    rewrite(saved, change_config=change)
    with pytest.raises(DamagedFileError, match="save the head again"):
        load_artifact(saved)


TENSORS = {
    "a label of no class": lambda t: t["examples.labels"].__setitem__(0, 3),
    "a label below none": lambda t: t["examples.labels"].__setitem__(0, -2),
    "labels of int32": lambda t: t.update({"examples.labels": t["examples.labels"].int()}),
    "labels in two dimensions": lambda t: t.update({"examples.labels": t["examples.labels"][None]}),
    "fewer labels": lambda t: t.update({"examples.labels": t["examples.labels"][:5].clone()}),
    "no labels": lambda t: t.pop("examples.labels"),
    "no images": lambda t: t.update(
        {"examples.labels": t["examples.labels"][:0], "examples.embeds": t["examples.embeds"][:0]}
    ),
    "embeddings of float32": lambda t: t.update({"examples.embeds": t["examples.embeds"].float()}),
    "embeddings of another dimension": lambda t: t.update(
        {"examples.embeds": t["examples.embeds"][:, :3].clone()}
    ),
    "an embedding of length 2": lambda t: t["examples.embeds"][0].mul_(2),
    "an embedding of NaN": lambda t: t["examples.embeds"][0].mul_(torch.nan),
    "a residual beside them": lambda t: t.update({"residual.bias": torch.zeros(3)}),
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_labelled_images_of_a_stranger_are_refused(taught, tmp_path: Path, change):
    folder = taught.save_pretrained(tmp_path)
    rewrite(folder, change_tensors=change)
    with pytest.raises(DamagedFileError, match="save the head again"):
        load_artifact(folder)


RESIDUALS = {
    "weights of other classes": lambda t: t.update(
        {"residual.weights": t["residual.weights"][:, :2].clone()}
    ),
    "weights of float16": lambda t: t.update({"residual.weights": t["residual.weights"].half()}),
    "weights of NaN": lambda t: t["residual.weights"].mul_(torch.nan),
    "weights of 1e30": lambda t: t["residual.weights"].fill_(1e30),
    "no bias": lambda t: t.pop("residual.bias"),
}


@pytest.mark.parametrize("change", RESIDUALS.values(), ids=RESIDUALS)
def test_a_residual_of_a_stranger_is_refused(taught, tmp_path: Path, change):
    folder = taught.save_pretrained(tmp_path, examples=False)
    rewrite(folder, change_tensors=change)
    with pytest.raises(DamagedFileError, match="save the head again"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        ("examples.labels", lambda t: t + 3),
        ("examples.labels", lambda t: t.float()),
        ("examples.embeds", lambda t: t.float()),
        ("examples.embeds", lambda t: t * 3),
        ("examples.embeds", lambda t: t[:, :1].expand(-1, 8)),
        ("examples.embeds", lambda t: t[:4]),
    ],
)
def test_the_tensors_of_a_state_dict_are_checked(taught, ending, change):
    state = taught.state_dict()
    with pytest.raises(ValueError, match=r"examples|stored"):
        SynonymousSpaceHead().load_state_dict({**state, ending: change(state[ending])}, strict=False)


def test_an_artifact_without_labelled_images_says_so(taught, tmp_path: Path):
    head = SynonymousSpaceHead().fit_embeddings([torch.ones(1, 8)], ["a"], logit_scale=5.0)
    config = json.loads((head.save_pretrained(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["few_shot"] is None
    assert config["examples"] is None
