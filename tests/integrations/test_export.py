"""One ONNX graph of image tower and head: ONNX Runtime's logits are torch's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s3clip import SynonymousSpaceHead, export_onnx
from tests.tiny_models import FAMILIES, IMAGE_SIZE, build

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PETS = {"cat": ["feline", "kitty"], "dog": ["hound"], "kuh ü": []}


# All families of tests/tiny_models.py that read pixels passed this; these are of one kind each.
@pytest.mark.parametrize("family", ["clip", "siglip", "align", "blip", "vision-text-dual-encoder"])
def test_the_logits_are_those_of_torch(family: str, tmp_path: Path):
    torch.manual_seed(0)  # weights and pixels are drawn
    head = SynonymousSpaceHead(*build(family)).fit_classes(PETS, templates="{}")
    path = export_onnx(head, tmp_path / "pets.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["pets.onnx"]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pixels = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE)
        found = session.run(["logits"], {"pixel_values": pixels.numpy()})[0]
        np.testing.assert_allclose(found, head(pixels).detach().numpy(), rtol=1e-5, atol=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["class_names"]) == list(PETS)
    assert told["activation"] == head.activation
    assert "thresholds" not in told


def test_the_graph_says_what_is_accepted(tmp_path: Path):
    torch.manual_seed(0)
    head = SynonymousSpaceHead(*build("clip")).fit_classes(PETS, templates="{}")
    pixels = torch.randn(20, 3, IMAGE_SIZE, IMAGE_SIZE)
    embeds = head.backbone.encode_images(pixels).detach()
    head.set_class_shares({"cat": 0.7, "dog": 0.2, "kuh ü": 0.1})
    for labels in (None, torch.arange(20)[:, None] % torch.tensor([2, 3, 5]) == 0):
        if labels is None:
            head.fit_rejection(image_embeds=embeds, false_accept_rate=0.5)
        else:
            head.calibrate(image_embeds=embeds, labels=labels)
        session = ort.InferenceSession(str(export_onnx(head, tmp_path / "pets.onnx")))
        logits = session.run(["logits"], {"pixel_values": pixels.numpy()})[0]
        least = np.array(json.loads(session.get_modelmeta().custom_metadata_map["thresholds"]))
        sure = np.abs(logits - least) > 1e-3  # what lies on a threshold may fall to either side
        for row, found, mask in zip(logits, head.predict(image_embeds=embeds), sure, strict=True):
            for each in found:
                if mask[each.class_index]:
                    assert each.accepted == (row >= least)[each.class_index]
        assert 0 < (logits >= least).sum() < logits.size


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_negatives_are_in_the_graph(family: str, tmp_path: Path):
    torch.manual_seed(0)
    pets = [
        {"name": "cat", "synonyms": ["feline"], "negatives": ["a sofa", "a bed"]},
        {"name": "dog", "synonyms": ["hound"]},
        {"name": "kuh ü", "negatives": ["a field"]},
    ]
    head = SynonymousSpaceHead(*build(family)).fit_classes(pets, templates="{}")
    session = ort.InferenceSession(str(export_onnx(head, tmp_path / "a.onnx")))
    pixels = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    found = session.run(["logits"], {"pixel_values": pixels.numpy()})[0]
    np.testing.assert_allclose(found, head(pixels).detach().numpy(), rtol=1e-5, atol=1e-4)


def test_a_tower_that_reads_patches_is_refused(tmp_path: Path):
    if "siglip2" not in FAMILIES:
        pytest.skip("this transformers has no SigLIP 2")
    head = SynonymousSpaceHead(*build("siglip2")).fit_classes(PETS, templates="{}")
    with pytest.raises(ValueError, match="patches"):
        export_onnx(head, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_half_precision_is_exported_in_float32_and_stays_itself(tmp_path: Path):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model.bfloat16(), processor).fit_classes(PETS)
    path = export_onnx(head, tmp_path / "a.onnx")
    assert head.backbone is not None
    assert head.backbone.dtype == torch.bfloat16
    assert head.backbone.has_text_tower
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float)"


def refuse(*args, **kwargs):
    raise RuntimeError("no such operator")


def test_a_refused_export_leaves_the_file_that_was_there(
    head: SynonymousSpaceHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    head.fit_classes(PETS)
    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(ValueError, match="torch cannot express this model"):
        export_onnx(head, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_heads_and_paths_are_named(head: SynonymousSpaceHead, tmp_path: Path):
    with pytest.raises(ValueError, match="not fitted"):
        export_onnx(head, tmp_path / "a.onnx")
    head.fit_classes(PETS)
    for path in (tmp_path, tmp_path / "no" / "a.onnx"):
        with pytest.raises(ValueError, match="path: expected a file"):
            export_onnx(head, path)
    alone = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "h"), backbone=None)
    with pytest.raises(ValueError, match="no backbone"):
        export_onnx(alone, tmp_path / "a.onnx")


def test_from_the_command_line(tmp_path: Path):
    model, processor = build("clip")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    head = SynonymousSpaceHead.from_backbone(tmp_path / "model").fit_classes(PETS)
    head.save_pretrained(tmp_path / "head")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "s3clip.cli",
            "export",
            tmp_path / "head",
            "--out",
            tmp_path / "pets.onnx",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pets.onnx").stat().st_size > 1000
