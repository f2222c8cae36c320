"""What users give in the place of a model and its processor, and are told of when it will not do."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.demo import model_folder
from tests.tiny_models import build

FOLDER = str(model_folder())


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_a_type_may_be_given_by_its_name(dtype):
    assert SynonymousSpaceHead.from_backbone(FOLDER, dtype=dtype).backbone.dtype == torch.bfloat16


def test_auto_is_the_type_of_the_checkpoint(tmp_path: Path):
    Backbone.from_pretrained(FOLDER).model.to(torch.float16).save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((model_folder() / name).read_bytes())
    assert Backbone.from_pretrained(str(tmp_path), dtype="auto").dtype == torch.float16
    assert Backbone.from_pretrained(str(tmp_path), dtype="float32").dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bf16", "int8", "nn", torch.int64, 16])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=r"dtype: expected a floating type of torch"):
        Backbone.from_pretrained(FOLDER, dtype=dtype)


@pytest.mark.parametrize("name", [r"C:\models\clip", "C:/models/clip", r"models\clip", "./clip", "~/clip"])
def test_a_path_to_nothing_is_said_to_be_one(name: str):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Backbone.from_pretrained(name)


def test_an_adapter_is_no_model(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match=r"an adapter of PEFT.*merge_and_unload"):
        SynonymousSpaceHead.from_backbone(tmp_path)


def test_a_pair_the_other_way_round():
    model, processor = build("clip")
    with pytest.raises(TypeError, match="the other way round"):
        Backbone(model, (processor.image_processor, processor.tokenizer))


def test_a_wrapped_model_names_what_is_inside():
    model, processor = build("clip")
    with pytest.raises(TypeError, match=r"it wraps a CLIPModel: give its \.module"):
        Backbone(nn.DataParallel(model), processor)


def test_weights_that_are_not_in_memory():
    model, processor = build("clip")
    model.text_projection.to("meta")
    with pytest.raises(ValueError, match=r"not in memory \(the first: 'text_projection.weight'"):
        Backbone(model, processor)
