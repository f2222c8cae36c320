"""The embedded demo: its files, its pictures, and what plain transformers code gets out of it."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor

from s3clip.demo import held_out_digits, model_folder, synonym_file, training_digits
from tests import ROOT, STUDIES

SCRIPT = STUDIES / "train_demo.py"


@pytest.fixture(scope="module")
def clip():
    return CLIPModel.from_pretrained(model_folder()).eval(), CLIPProcessor.from_pretrained(model_folder())


@pytest.fixture(scope="module")
def synonyms():
    return json.loads(synonym_file().read_text(encoding="utf-8"))


def test_files_are_small_and_the_weights_are_float16():
    assert sum(path.stat().st_size for path in model_folder().iterdir()) + synonym_file().stat().st_size < 2e6
    with safe_open(model_folder() / "model.safetensors", "pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_auto_classes_find_the_clip_and_compute_in_float32():
    model, report = AutoModel.from_pretrained(model_folder(), output_loading_info=True)
    assert isinstance(model, CLIPModel)
    assert model.dtype == torch.float32
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert isinstance(AutoProcessor.from_pretrained(model_folder()), CLIPProcessor)


def test_the_temperature_was_learnt_within_the_bound_of_clip(clip):
    model, _ = clip
    assert 15 < model.logit_scale.exp().item() <= 100  # it starts at 14.3


def test_token_ids_are_the_same_in_every_version_of_transformers(clip):
    _, processor = clip
    texts = ["a photo of a Seven.", "7", "fünf", "goose-egg"]
    # Seen with 4.49, 4.57 and 5.23: whole words where the captions had them, letters where not.
    expected = [
        [796, 320, 535, 514, 320, 604, 269, 797],
        [796, 278, 797],
        [796, 729, 797],
        [796, 70, 78, 78, 82, 324, 268, 68, 70, 326, 797],
    ]
    assert processor.tokenizer(texts)["input_ids"] == expected
    assert processor.tokenizer.decode(expected[0], skip_special_tokens=True) == "a photo of a seven ."


def test_an_unknown_word_is_spelt_in_known_pieces(clip):
    _, processor = clip
    [first, *pieces, last] = processor.tokenizer("Xyzzy ☃")["input_ids"]
    assert (first, last) == (processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id)
    assert processor.tokenizer.unk_token_id not in pieces


def test_pictures_are_the_digits_of_scikit_learn_each_once():
    parts = [training_digits(), held_out_digits()]
    digits = load_digits()
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), digits.target)
    pictures = [picture for part, _ in parts for picture in part]
    assert {(picture.mode, picture.size) for picture in pictures} == {("L", (32, 32))}
    # Every pixel of the source became a square of 4 x 4, its ink (0 to 16) a grey (255 to 0).
    ink = (255 - np.stack([np.asarray(picture) for picture in pictures]).astype(float)) * 16 / 255
    for row, column in ((0, 0), (3, 3), (1, 2)):
        np.testing.assert_allclose(ink[:, row::4, column::4], digits.images, atol=0.04)


def test_held_out_pictures_are_not_among_the_training_pictures():
    trained_on = {picture.tobytes() for picture in training_digits()[0]}
    held_out = {picture.tobytes() for picture in held_out_digits()[0]}
    assert (len(trained_on), len(held_out)) == (1297, 500)
    assert not trained_on & held_out


def test_synonym_file_names_the_digits_in_order(synonyms):
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert synonyms["format"] == "s3clip-synonyms/1"
    assert [entry["name"] for entry in synonyms["classes"]] == words
    assert [entry["id"] for entry in synonyms["classes"]] == list(range(10))
    texts = [text for entry in synonyms["classes"] for text in [entry["name"], *entry["synonyms"]]]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("template", ["a photo of a {}.", "{}"])
def test_plain_names_read_held_out_digits(clip, synonyms, template):
    model, processor = clip
    pictures, labels = held_out_digits()
    names = [template.format(entry["name"]) for entry in synonyms["classes"]]
    with torch.no_grad():
        output = model(**processor(text=names, images=pictures, padding=True, return_tensors="pt"))
    # Measured: 97.4 % and 97.2 %.
    assert (output.logits_per_image.argmax(1).numpy() == labels).mean() > 0.96


def test_a_short_training_run_writes_a_folder_that_loads(tmp_path):
    folder = tmp_path / "model"
    command = [sys.executable, SCRIPT, "--out", folder, "--steps", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=tmp_path)
    assert {path.name for path in folder.iterdir()} == {path.name for path in model_folder().iterdir()}
    for path in model_folder().iterdir():
        if path.suffix != ".safetensors":  # the embedded files are those that the script writes
            assert (folder / path.name).read_bytes() == path.read_bytes()
    shapes = {name: tensor.shape for name, tensor in CLIPModel.from_pretrained(folder).state_dict().items()}
    assert shapes == {k: v.shape for k, v in CLIPModel.from_pretrained(model_folder()).state_dict().items()}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing half-written is left beside it


def test_the_script_refuses_a_folder_that_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_demo.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert f"does not exist yet, got {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
