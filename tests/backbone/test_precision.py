"""Another type for the image tower: what it changes, what it leaves, and what a trial takes."""

from pathlib import Path

import pytest
import torch

from s3clip import Backbone, SynonymousSpaceHead, cli
from s3clip.backbone import precision
from s3clip.backbone.precision import cast_images, compile_images, try_precision
from s3clip.demo import held_out_digits, model_folder, synonym_file, write_photos
from s3clip.prediction.precision import set_precision, trial_inputs
from tests.tiny_models import FAMILIES, build

PICTURES = held_out_digits()[0][:40]


@pytest.fixture
def digits() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())


def bits(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cast_tower_is_the_same_tower_and_the_text_side_stays(family: str):
    model, processor = build(family)
    backbone = Backbone(model, processor)
    inputs = backbone.preprocess(PICTURES[:3])
    texts, scale = backbone.encode_texts(["a cat", "two dogs"]), backbone.logit_scale()
    with torch.no_grad():
        before, key = backbone.encode_images(**inputs), backbone.image_key()
        cast_images(backbone, "bfloat16")
        after = backbone.encode_images(**inputs)
    assert backbone.dtype == torch.bfloat16 == after.dtype
    assert torch.cosine_similarity(before, after.float()).min() > 0.99
    assert torch.equal(backbone.encode_texts(["a cat", "two dogs"]), texts)
    assert torch.equal(backbone.logit_scale(), scale)
    assert backbone.image_key() != key


def test_a_model_that_is_loaded_in_another_type_keeps_its_scale():
    exact = Backbone.from_pretrained(model_folder())
    half = Backbone.from_pretrained(model_folder(), dtype="bfloat16")
    assert torch.equal(half.logit_scale(), exact.logit_scale())


def a_trial(monkeypatch: pytest.MonkeyPatch, head: SynonymousSpaceHead, **limits: float) -> precision.Trial:
    """A trial on a machine that has bfloat16, whatever this one has."""
    monkeypatch.setattr(precision, "_candidates", lambda device: ["bfloat16"])
    monkeypatch.setattr(precision, "_FASTER", 0.0)
    for name, value in limits.items():
        monkeypatch.setattr(precision, name, value)
    backbone = head.backbone
    trial = set_precision(head, "auto", inputs=lambda: trial_inputs(backbone, PICTURES))
    assert trial is not None
    return trial


def test_a_trial_says_what_a_plain_comparison_says(monkeypatch: pytest.MonkeyPatch, digits):
    before = digits.predict_proba(PICTURES)
    trial = a_trial(monkeypatch, digits, LABELS=0.0)
    after = digits.predict_proba(PICTURES)
    moved = (before.max(1).values - after.max(1).values).abs()
    assert trial.dtype == "bfloat16"
    assert digits.backbone.dtype == torch.bfloat16
    same = (before.argmax(1) == after.argmax(1)).float().mean()
    assert f"of 40 images {same:.1%} keep their label" in trial.said
    assert f"scores move by {moved.mean():.4f}, {moved.max():.4f} at most" in trial.said


@pytest.mark.parametrize("limits", [{"LABELS": 1.1}, {"SCORES": -1.0}, {"_FASTER": 1e9}])
def test_what_changes_too_much_or_is_no_faster_leaves_every_bit(
    monkeypatch: pytest.MonkeyPatch, digits, limits
):
    before, key = bits(digits.backbone), digits.backbone.image_key()
    trial = a_trial(monkeypatch, digits, **limits)
    assert trial.dtype == "float32"
    assert trial.said.startswith("auto stays with float32: bfloat16 is")
    assert all(torch.equal(value, before[name]) for name, value in bits(digits.backbone).items())
    assert digits.backbone.image_key() == key


def test_of_several_types_the_fastest_that_will_do_is_taken(monkeypatch: pytest.MonkeyPatch, digits):
    seconds = iter([1.0, 0.5, 0.4, 0.3])  # as it is, then of each type
    found = iter([[1, 2], [1, 2], [1, 2], [1, 3]])  # the last one changes a label
    monkeypatch.setattr(precision, "_candidates", lambda device: ["float16", "bfloat16", "float64"])
    monkeypatch.setattr(
        precision, "_tried", lambda *_: (torch.tensor(next(found)), torch.zeros(2), next(seconds))
    )
    inputs = digits.backbone.preprocess(PICTURES[:2])
    assert try_precision(digits.backbone, inputs, lambda embeds: (embeds, embeds)).dtype == "bfloat16"


def test_a_model_that_is_narrow_already_is_not_tried(digits):
    cast_images(digits.backbone, "float16")
    trial = set_precision(digits, "auto", inputs=lambda: trial_inputs(digits.backbone, PICTURES))
    assert trial == precision.Trial("float16", "auto stays with float16: the type of the model")


def test_nothing_to_try_it_with(tmp_path: Path, digits):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    trial = set_precision(digits, "auto", inputs=lambda: trial_inputs(digits.backbone, [broken]))
    assert "no image that can be read" in trial.said


def test_code_that_cannot_be_compiled_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch, digits):
    def fails(device: torch.device) -> None:
        raise RuntimeError("\nno C++ compiler\nand a long story")

    monkeypatch.setattr(precision, "_probe", fails)
    with pytest.raises(ValueError, match=r"^compile: torch.compile does not work here: no C\+\+ compiler$"):
        compile_images(digits.backbone)
    assert not digits.backbone.compiled


def test_compiled_code_has_a_key_of_its_own(digits):
    key = digits.backbone.image_key()
    digits.backbone.compiled = True
    assert digits.backbone.image_key() != key


def test_wrong_types_and_a_head_without_a_tower_are_refused(digits):
    with pytest.raises(
        ValueError, match="dtype: expected one of auto, float32, bfloat16, float16, got 'int8'"
    ):
        set_precision(digits, "int8", inputs=dict)
    with pytest.raises(ValueError, match="this head has no image tower"):
        set_precision(SynonymousSpaceHead(), "bfloat16", inputs=dict)


@pytest.mark.parametrize(
    "verb",
    ["predict", "segment", "teach", "suggest", "calibrate", "reject", "inspect", "label", "compare", "eval"],
)
def test_every_verb_that_encodes_images_takes_the_options(verb: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["s3clip", verb, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out
    assert "--dtype" in printed
    assert "--compile" in printed


def test_predict_says_what_auto_took(tmp_path: Path, digits, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_candidates", lambda device: ["bfloat16"])
    monkeypatch.setattr(precision, "_FASTER", 0.0)
    digits.save_pretrained(tmp_path / "head")
    photos = [str(file) for file in write_photos(tmp_path / "photos")[:10]]
    monkeypatch.setattr(
        "sys.argv", ["s3clip", "predict", *photos, "--head", str(tmp_path / "head"), "--dtype", "auto"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert "dtype: auto takes bfloat16: bfloat16 is" in capsys.readouterr().err
