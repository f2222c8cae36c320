"""One string names a model: how it is read, what is said where it cannot be, and what an artifact keeps."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.artifact.card import model_card
from s3clip.artifact.folder import load_artifact, named_backbone, save_artifact
from s3clip.backbone.names import ModelName, hub_repository, is_public
from s3clip.class_space import BackboneReference
from tests.checkpoints import of_sentence_transformers, of_transformers, put, saved
from tests.tiny_models import build


def test_names_without_a_scheme_are_taken_as_they_are(tmp_path: Path):
    for name in ("openai/clip-vit-base-patch32", "gpt2", str(tmp_path), tmp_path):
        assert ModelName.read(name) == ModelName(os.fspath(name), None, os.fspath(name))


def test_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert ModelName.read("hf-hub:imageomics/bioclip").place == "imageomics/bioclip"
    listed = ModelName.read("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert (listed.scheme, listed.place, listed.tag) == ("open_clip", "ViT-B-32", "laion2b_s34b_b79k")
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/RemoteCLIP.pt").touch()
    assert ModelName.read("local-dir:model").text == f"local-dir:{tmp_path / 'model'}"
    weights = ModelName.read("open_clip:ViT-B-32/model/RemoteCLIP.pt")
    assert weights.text == f"open_clip:ViT-B-32/{tmp_path / 'model' / 'RemoteCLIP.pt'}"
    assert ModelName.read(weights.text) == replace(weights, tag=str(tmp_path / "model" / "RemoteCLIP.pt"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("openclip:ViT-B-32/openai", "open_clip"),
        ("open-clip:ViT-B-32/openai", "open_clip"),
        ("hf_hub:imageomics/bioclip", "hf-hub"),
        ("hf://imageomics/bioclip", "hf-hub"),
        ("HF-HUB:imageomics/bioclip", "hf-hub"),
        ("localdir:models/a", "local-dir"),
    ],
)
def test_a_misspelt_scheme_is_asked_about(name: str, meant: str):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'\\?") as caught:
        Backbone.from_pretrained(name)
    assert "hf-hub:user/name" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xyz:a/b", "there is no scheme 'xyz'"),
        ("https://huggingface.co/openai/clip", "got the address"),
        ("hf-hub:", "expected hf-hub:user/name"),
        ("hf-hub:../secret/place", "expected hf-hub:user/name"),
        ("open_clip:ViT-B-32", "expected open_clip:ARCHITECTURE/TAG"),
    ],
)
def test_what_is_no_name(name: str, said: str):
    with pytest.raises(ValueError, match=said):
        ModelName.read(name)


@pytest.mark.parametrize("name", ["local-dir:nowhere", "open_clip:ViT-B-32/no/such.pt"])
def test_names_of_nothing(name: str):
    with pytest.raises(FileNotFoundError, match=r"there is no folder|neither a tag nor a file"):
        ModelName.read(name)


@pytest.mark.parametrize("name", ["hf-hub:a/b", "open_clip:ViT-B-32/openai"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"pip install 's3clip\[open_clip\]'"):
        Backbone.from_pretrained(name)


def test_what_others_can_load():
    public = ("openai/clip", "hf-hub:a/b", "open_clip:ViT-B-32/openai")
    assert all(map(is_public, public))
    assert [hub_repository(name) for name in public] == ["openai/clip", "a/b", None]
    private = (
        "/a/b",
        "../a",
        "local-dir:/a",
        "local-dir:a",
        "open_clip:ViT-B-32//a/b.pt",
        "hf-hub:/a",
        "x:a/b",
    )
    assert not any(map(is_public, private))


# Repositories and folders of other kinds.


def test_a_repository_of_open_clip_alone_says_its_name(hub):
    put(hub, "imageomics/bioclip", {"open_clip_config.json": b"{}"})
    with pytest.raises(ValueError, match="as that, its name is hf-hub:imageomics/bioclip"):
        Backbone.from_pretrained("imageomics/bioclip")


def test_a_folder_of_open_clip_alone_says_its_name(tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"its name is local-dir:{tmp_path}"):
        Backbone.from_pretrained(tmp_path)


def test_of_both_kinds_transformers_goes_first(hub):
    of_transformers("clip", "laion/both")(hub)
    commit = put(hub, "laion/both", {"open_clip_config.json": b"{}"})
    backbone = Backbone.from_pretrained("laion/both")
    assert (backbone.name, backbone.revision) == ("laion/both", commit)


def test_of_both_kinds_the_error_says_the_other(hub):
    put(hub, "timm/both", {"config.json": b'{"model_type": "no_such"}', "open_clip_config.json": b"{}"})
    with pytest.raises(ValueError, match="no_such") as caught:
        Backbone.from_pretrained("timm/both")
    assert "its name is hf-hub:timm/both" in caught.value.__notes__[0]


def test_a_text_tower_of_sentence_transformers_is_no_model(hub):
    of_sentence_transformers("sentence-transformers/other")(hub)
    modules = [{"path": "0_CLIPModel", "type": "a.CLIPModel"}, {"path": "1_Dense", "type": "a.Dense"}]
    put(hub, "sentence-transformers/other", {"modules.json": json.dumps(modules).encode()})
    with pytest.raises(ValueError, match="with Dense after its CLIPModel"):
        Backbone.from_pretrained("sentence-transformers/other")
    put(hub, "sentence-transformers/other", {"modules.json": b'[{"path": "../up", "type": "a.CLIPModel"}]'})
    with pytest.raises(ValueError, match=r"modules\.json"):
        Backbone.from_pretrained("sentence-transformers/other")


def test_a_folder_of_sentence_transformers(tmp_path: Path):
    for object_ in build("clip"):
        object_.save_pretrained(tmp_path / "0_CLIPModel")
    (tmp_path / "modules.json").write_text(
        '[{"path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]'
    )
    whole, images = Backbone.from_pretrained(tmp_path), Backbone.from_pretrained(tmp_path, text_tower=False)
    assert whole.name == str(tmp_path)
    assert (whole.fingerprint()["image"] == images.fingerprint()["image"]).all()
    assert not images.has_text_tower


def test_a_moving_branch_is_pinned(hub):
    """The commit is recorded, and the next load reads it, whatever the branch is by then."""
    model, processor = build("clip")
    commit = put(hub, "user/clip", saved(model, processor))
    head = SynonymousSpaceHead.from_backbone("user/clip").fit_classes(["a", "b"])
    put(hub, "user/clip", saved(build("clip", seed=1)[0]))
    assert head.class_space.backbone.reference == BackboneReference(name="user/clip", revision=commit)
    again = Backbone.from_pretrained("user/clip", revision=commit)
    assert (again.fingerprint()["image"] == head.fingerprint()["image"]).all()


# Artifacts.


@pytest.fixture
def space(head: SynonymousSpaceHead):
    return head.fit_classes(["cat", "dog"]).class_space


def called(space, name: str):
    reference = BackboneReference(name=name, revision=None)
    return replace(space, backbone=replace(space.backbone, reference=reference))


@pytest.mark.parametrize("name", ["hf-hub:imageomics/bioclip", "open_clip:ViT-B-32/laion2b_s34b_b79k"])
def test_an_artifact_keeps_the_name(name: str, space, tmp_path: Path):
    save_artifact(tmp_path, called(space, name))
    loaded = load_artifact(tmp_path)
    assert named_backbone(loaded, str(tmp_path)) == (name, None)
    assert named_backbone(loaded, str(tmp_path), of_hub=True) == (name, None)
    card = str(model_card(loaded, "user/space"))
    assert f"`{name}`" in card
    assert "base_model: imageomics/bioclip\n" in card or "base_model" not in card
    assert ("base_model" in card) == name.startswith("hf-hub:")


@pytest.mark.parametrize("name", ["local-dir:/etc", "open_clip:ViT-B-32//etc/passwd", "local-dir:here"])
def test_an_artifact_of_the_hub_names_nothing_of_this_machine(name: str, space):
    with pytest.raises(ValueError, match="is no repository of the Hub"):
        named_backbone(called(space, name), "user/space", of_hub=True)


@pytest.mark.parametrize("name", ["local-dir:/no/such/place", "open_clip:ViT-B-32//no/such/file.pt"])
def test_a_folder_that_went_is_said(name: str, space):
    with pytest.raises(ValueError, match="is not at /no/such/"):
        named_backbone(called(space, name), "space")


@pytest.mark.parametrize("name", ["hf-hub:imageomics/bioclip", "open_clip:ViT-B-32/openai"])
def test_what_is_pushed_keeps_a_public_name(name: str, hub, head: SynonymousSpaceHead):
    head.fit_classes(["cat", "dog"])
    head.backbone.name = name
    head.push_to_hub("user/space", token="hf_of_the_tests")
    files = hub.repositories["user/space"].commits[hub.repositories["user/space"].branches["main"]]
    assert json.loads(files["config.json"])["backbone"]["name"] == name
    head.backbone.name = "local-dir:/models/mine"
    head.push_to_hub("user/space", token="hf_of_the_tests")
    files = hub.repositories["user/space"].commits[hub.repositories["user/space"].branches["main"]]
    assert json.loads(files["config.json"])["backbone"]["name"] is None
