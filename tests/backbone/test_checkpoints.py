"""Twenty-three named checkpoints: one string loads each, in Python and on the command line.

Those of open_clip need open_clip, which is not in the extra `test`: CI has an environment of its own for it.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, cli
from s3clip.backbone.identity import check_fingerprint
from tests.checkpoints import CHECKPOINTS, Checkpoint, narrow_timm, put, small

CLASSES = ["a red fox", "blue whale", "oak"]
TEMPLATES = ["a photo of a {}.", "{} in the wild"]


def images() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (3, 60, 80, 3), generator=generator, dtype=torch.uint8).numpy()
    return [Image.fromarray(each).resize((300, 240)) for each in pixels]


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch):
    """The library, whose models of timm and of its own list are narrow."""
    library = pytest.importorskip("open_clip")
    import timm

    monkeypatch.setattr(timm, "create_model", narrow_timm(timm.create_model))
    listed = dict(library.factory._MODEL_CONFIGS)
    monkeypatch.setattr(library.factory, "_MODEL_CONFIGS", listed)
    return library


def list_small(open_clip, architecture: str) -> None:
    listed = open_clip.factory._MODEL_CONFIGS
    listed[architecture] = small(listed[architecture])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(images()):
        image.save(folder / f"{i}.png")
    return folder


def ours(checkpoint: Checkpoint) -> SynonymousSpaceHead:
    plain = HeadConfig(metric="center", scale_rule=None, centering=None)
    return SynonymousSpaceHead.from_backbone(checkpoint.name, config=plain)


def logits_of_transformers(name: str) -> torch.Tensor:
    subfolder = {"subfolder": "0_CLIPModel"} if name.startswith("sentence-transformers/") else {}
    import transformers

    model = transformers.AutoModel.from_pretrained(name, **subfolder).eval()
    processor = transformers.AutoProcessor.from_pretrained(name, **subfolder)
    backbone = Backbone(model, processor)  # for the family's padding alone; the model multiplies
    texts = [TEMPLATES[0].format(each) for each in CLASSES]
    tokens = backbone.tokens.batch(texts, backbone.text_length, torch.device("cpu"))
    with torch.no_grad():
        return model(**tokens, **backbone.preprocess(images())).logits_per_image


def logits_of_open_clip(open_clip, name: str) -> torch.Tensor:
    architecture, tag = name, None
    if name.startswith("open_clip:"):
        architecture, tag = name.removeprefix("open_clip:").split("/", 1)
    model, preprocess = open_clip.create_model_from_pretrained(architecture, tag)
    classifier = open_clip.build_zero_shot_classifier(
        model.eval(), open_clip.get_tokenizer(architecture), CLASSES, TEMPLATES
    )
    with torch.no_grad():
        features = model.encode_image(torch.stack([preprocess(image) for image in images()]), normalize=True)
        logits = model.logit_scale.exp() * features @ classifier
        return logits if model.logit_bias is None else logits + model.logit_bias


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=[each.name for each in CHECKPOINTS])
@pytest.mark.filterwarnings("ignore:.*are longer than the")
def test_one_string_loads_it_everywhere(checkpoint, request, hub, photos, tmp_path):
    open_clip = request.getfixturevalue("open_clip") if checkpoint.is_open_clip else None
    checkpoint.put(hub)
    if checkpoint.name.startswith("open_clip:"):
        list_small(open_clip, "ViT-B-32")
    head = ours(checkpoint)
    head.fit_classes(CLASSES, templates=TEMPLATES if checkpoint.is_open_clip else TEMPLATES[0])
    with torch.no_grad():
        logits = head(**head.backbone.preprocess(images()))
    name = checkpoint.name
    theirs = logits_of_open_clip(open_clip, name) if open_clip else logits_of_transformers(name)
    torch.testing.assert_close(logits, theirs, atol=1e-5, rtol=0)

    head.save_pretrained(tmp_path / "space")
    again = SynonymousSpaceHead.from_pretrained(tmp_path / "space")
    assert again.backbone.name == head.backbone.name == checkpoint.name
    assert again.backbone.revision == head.backbone.revision
    assert (head.backbone.revision is None) == checkpoint.name.startswith("open_clip:")
    assert not again.backbone.has_text_tower
    with torch.no_grad():
        torch.testing.assert_close(again(**again.backbone.preprocess(images())), logits, atol=1e-5, rtol=0)
    again.add_classes(["moss"])
    assert again.class_names == [*CLASSES, "moss"]

    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    asked = ["--backbone", checkpoint.name, "--out", tmp_path / "cli"]
    templates = [
        option for each in TEMPLATES[: len(head.class_space.templates)] for option in ("--template", each)
    ]
    plain = ["--config", head.config.model_dump_json()]
    run("fit", tmp_path / "classes.json", *asked, *templates, *plain)
    found = json.loads(run("predict", photos, "--head", tmp_path / "cli", "--format", "json"))
    expected = [answer[0].label for answer in head.predict(images())]
    assert [row["predictions"][0]["label"] for row in found] == expected
    pyarrow = pytest.importorskip("pyarrow.parquet")
    run("label", photos, "--head", tmp_path / "cli", "--out", tmp_path / "labels", "--workers", "0")
    [part] = (tmp_path / "labels").rglob("*.parquet")
    assert pyarrow.read_table(part)["label"].to_pylist() == expected


def test_whichever_way_in_it_is_the_same_model(open_clip, hub, tmp_path):
    [bioclip] = [each for each in CHECKPOINTS if each.name == "hf-hub:imageomics/bioclip-2"]
    bioclip.put(hub)
    named = Backbone.from_pretrained(bioclip.name)
    repository = hub.repositories["imageomics/bioclip-2"]
    for file, content in repository.commits[repository.branches["main"]].items():
        (tmp_path / file).write_bytes(content)
    list_small(open_clip, "ViT-L-14")
    weights = tmp_path / "open_clip_model.safetensors"
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    others = {
        "folder": Backbone.from_pretrained(f"local-dir:{tmp_path}"),
        "file": Backbone.from_pretrained(f"open_clip:ViT-L-14/{weights}"),
        "object": Backbone(model.eval(), (open_clip.get_tokenizer(f"local-dir:{tmp_path}"), preprocess)),
        "half": Backbone.from_pretrained(bioclip.name, dtype="bfloat16"),
        "no texts": Backbone.from_pretrained(bioclip.name, text_tower=False),
        "cache": Backbone.from_pretrained(bioclip.name, local_files_only=True),
        "commit": Backbone.from_pretrained(bioclip.name, revision=named.revision),
    }
    for way, backbone in others.items():
        check_fingerprint(named.fingerprint(), backbone.fingerprint(), way)
        if way in ("folder", "file", "object", "cache", "commit"):
            assert backbone.text_key() == named.text_key()
            assert backbone.image_key() == named.image_key()
    assert others["cache"].revision == others["commit"].revision == named.revision
    other = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    with pytest.raises(ValueError, match="made with another backbone"):
        check_fingerprint(named.fingerprint(), Backbone(other.eval()).fingerprint(), "other")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B32/openai", "no architecture 'ViT-B32'; did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32/laion2b", "no weights 'laion2b' for ViT-B-32; its tags are openai"),
        ("open_clip:ViT-B-32", "tags of ViT-B-32: openai"),
    ],
)
def test_what_open_clip_does_not_list(open_clip, name, said):
    with pytest.raises(ValueError, match=said):
        Backbone.from_pretrained(name)


def test_a_revision_is_of_the_hub(open_clip):
    with pytest.raises(ValueError, match="revision: open_clip:ViT-B-32/openai is not of a repository"):
        Backbone.from_pretrained("open_clip:ViT-B-32/openai", revision="main")


def test_a_configuration_of_the_hub_names_no_path(open_clip, hub):
    text = {"hf_model_name": "/etc", "hf_tokenizer_name": "/etc"}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}}
    put(hub, "user/evil", {"open_clip_config.json": json.dumps(config).encode()})
    with pytest.raises(ValueError, match=r"hf_model_name '/etc' is no repository"):
        Backbone.from_pretrained("hf-hub:user/evil")


def test_torchscript(open_clip, hub):
    """`create_model(jit=True)` and `torch.jit.script`: the same model, whose text tower stays."""
    torch.manual_seed(0)
    small_one = open_clip.CLIP(**small(open_clip.get_model_config("ViT-B-32"))).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    plain = Backbone(small_one, (tokenizer, None))
    scripted = Backbone(torch.jit.script(small_one), (tokenizer, None))
    check_fingerprint(plain.fingerprint(), scripted.fingerprint(), "scripted")
    head = SynonymousSpaceHead(scripted).fit_classes(CLASSES)
    pixels = torch.rand(2, 3, 224, 224)
    expected = SynonymousSpaceHead(plain).fit_classes(CLASSES)(pixels)
    torch.testing.assert_close(head(pixels), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="nothing can be taken out of a TorchScript model"):
        scripted.drop_text_tower()


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_list_is_long_enough():
    assert len(CHECKPOINTS) >= 20
    assert len({each.maker for each in CHECKPOINTS}) >= 5
