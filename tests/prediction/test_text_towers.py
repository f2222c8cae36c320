"""Classes encoded by one text tower do not go together with those of another, whichever way they come."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.artifact.folder import save_artifact
from s3clip.demo import model_folder


def tuned(head: SynonymousSpaceHead) -> SynonymousSpaceHead:
    """Change the text tower of a head, as fine-tuning does; the image tower stays."""
    with torch.no_grad():
        for weight in head.backbone.model.text_model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return head


def original(name=None):
    return SynonymousSpaceHead(Backbone.from_pretrained(str(name or model_folder())))


@pytest.fixture
def fitted():
    return tuned(original()).fit_classes(["one", "two"], cache=False)


def by_adding(head, folder):
    head.drop_text_tower().add_classes(["three"], cache=False)


def by_adding_after_saving(head, folder):
    saved = head.drop_text_tower().save_pretrained(folder / "saved")
    SynonymousSpaceHead.from_pretrained(saved).add_classes(["three"], cache=False)


def by_adding_to_a_copy(head, folder):
    copy.deepcopy(head.drop_text_tower()).add_classes(["three"], cache=False)


def by_merging(head, folder):
    head.drop_text_tower().merge(original().fit_classes(["three"], cache=False))


def by_merging_into_it(head, folder):
    original().fit_classes(["three"], cache=False).merge(head.drop_text_tower())


def by_merging_what_was_saved(head, folder):
    saved = head.drop_text_tower().save_pretrained(folder / "saved")
    loaded = SynonymousSpaceHead.from_pretrained(saved)
    loaded.merge(original().fit_classes(["three"], cache=False))


def by_a_state_dict(head, folder):
    state = head.drop_text_tower().state_dict()
    again = original().drop_text_tower()
    again.load_state_dict(state)
    again.add_classes(["three"], cache=False)


WAYS = [each for name, each in list(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_classes_of_another_text_tower_are_refused(fitted, way, tmp_path: Path):
    with pytest.raises(ValueError, match=r"another backbone|the texts fingerprints|text tower"):
        way(fitted, tmp_path)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_classes_of_the_same_text_tower_are_taken(way, tmp_path: Path):
    way(original().fit_classes(["one", "two"], cache=False), tmp_path)


def test_a_space_that_does_not_say_which_text_tower_made_it_takes_no_more(fitted, tmp_path: Path):
    """As saved by older versions after the text tower was dropped."""
    space = fitted.class_space
    alone = replace(space.backbone, fingerprint={"image": space.backbone.fingerprint["image"]})
    space = replace(space, backbone=alone)
    saved = save_artifact(tmp_path / "saved", space)
    with pytest.raises(ValueError, match="nothing says which text tower"):
        SynonymousSpaceHead.from_pretrained(saved).add_classes(["three"], cache=False)
    with pytest.raises(ValueError, match="nothing says which text tower"):
        SynonymousSpaceHead.from_pretrained(saved).merge(original().fit_classes(["three"], cache=False))
    # All of them anew is no mixture.
    again = SynonymousSpaceHead.from_pretrained(saved).fit_classes(["three"], cache=False)
    assert again.class_names == ["three"]


def test_a_fit_anew_is_of_the_text_tower_that_is_there_now(fitted, tmp_path: Path):
    """What was known of the tower before does not speak of the new embeddings."""
    folder = fitted.save_pretrained(tmp_path / "saved")
    whole = Backbone.from_pretrained(str(model_folder()))
    with pytest.raises(ValueError, match="texts fingerprints"):
        SynonymousSpaceHead.from_pretrained(folder, backbone=whole)
    head = SynonymousSpaceHead(fitted.backbone)
    head.load_state_dict(fitted.state_dict())
    tuned(head).fit_classes(["four"], cache=False).add_classes(["five"], cache=False)
    loaded = SynonymousSpaceHead.from_pretrained(
        head.save_pretrained(tmp_path / "anew"), backbone=head.backbone
    )
    assert loaded.class_names == ["four", "five"]
