"""What users give in the place of a model and its processor, and are told of when it will not do."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from s3clip import Backbone, SynonymousSpaceHead, export_onnx
from s3clip.backbone.identity import check_fingerprint
from s3clip.demo import model_folder
from tests.tiny_models import build

FOLDER = str(model_folder())


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_a_type_may_be_given_by_its_name(dtype):
    assert SynonymousSpaceHead.from_backbone(FOLDER, dtype=dtype).backbone.dtype == torch.bfloat16


def test_the_type_of_the_checkpoint_may_be_kept_and_auto_is_a_trial_elsewhere(tmp_path: Path):
    Backbone.from_pretrained(FOLDER).model.to(torch.float16).save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((model_folder() / name).read_bytes())
    assert Backbone.from_pretrained(str(tmp_path), dtype="checkpoint").dtype == torch.float16
    assert Backbone.from_pretrained(str(tmp_path), dtype="float32").dtype == torch.float32
    for load in (Backbone.from_pretrained, SynonymousSpaceHead.from_backbone):
        with pytest.raises(ValueError, match=r'"auto" tries types with images.*"checkpoint"'):
            load(str(tmp_path), dtype="auto")
    with pytest.raises(ValueError, match=r'open_clip does not say.*not "checkpoint"'):
        Backbone.from_pretrained("open_clip:ViT-B-32/openai", dtype="checkpoint")


@pytest.mark.parametrize("dtype", ["bf16", "int8", "nn", torch.int64, 16])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=r"dtype: expected a floating type of torch"):
        Backbone.from_pretrained(FOLDER, dtype=dtype)


@pytest.mark.parametrize("name", [r"C:\models\clip", "C:/models/clip", r"models\clip", "./clip", "~/clip"])
def test_a_path_to_nothing_is_said_to_be_one(name: str):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Backbone.from_pretrained(name)


def test_an_adapter_without_peft_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"an adapter of PEFT: pip install 's3clip\[peft\]'"):
        SynonymousSpaceHead.from_backbone(tmp_path)


def test_only_an_adapter_can_be_merged():
    with pytest.raises(ValueError, match=r"merge_adapter: .* is no adapter"):
        Backbone.from_pretrained(FOLDER, merge_adapter=True)


def test_a_pair_the_other_way_round():
    model, processor = build("clip")
    with pytest.raises(TypeError, match="the other way round"):
        Backbone(model, (processor.image_processor, processor.tokenizer))


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, lambda m: torch.compile(nn.DataParallel(m))]
)
def test_a_wrapper_is_taken_off(wrap):
    model, processor = build("clip")
    wrapped, plain = Backbone(wrap(model), processor), Backbone(model, processor)
    assert wrapped.model is model
    assert wrapped.text_key() == plain.text_key()
    assert wrapped.image_key() == plain.image_key()


def test_sharded_weights_are_told_how():
    model, _ = build("clip")
    model.__class__ = type(
        "FSDPCLIPModel", (type("FSDPModule", (), {}), type(model)), {}
    )  # as fully_shard does
    with pytest.raises(TypeError, match=r"are sharded.*gather them first"):
        Backbone(model)


def with_adapter(folder: Path):
    """A model, the same with a LoRA in both towers, its processor, and the folder of the adapter."""
    peft = pytest.importorskip("peft")
    model, processor = build("clip")
    for each in (model, processor):
        each.save_pretrained(folder / "base")
    model.name_or_path = str(folder / "base")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(folder / "adapter")
    return adapted, processor


def test_an_adapter_and_its_base_by_one_name(tmp_path: Path):
    adapted, processor = with_adapter(tmp_path)
    expected = Backbone(adapted, processor).fingerprint()
    base = Backbone.from_pretrained(tmp_path / "base").fingerprint()
    assert (base["image"] - expected["image"]).abs().max() > 1e-3
    name = str(tmp_path / "adapter")
    for options in ({}, {"merge_adapter": True}, {"text_tower": False}):
        backbone = Backbone.from_pretrained(name, **options)
        assert backbone.name == name
        found = backbone.fingerprint()
        for part in ("image", "texts"):
            torch.testing.assert_close(found[part], expected[part], atol=1e-5, rtol=0)
    head = SynonymousSpaceHead.from_backbone(name).fit_classes(["cat", "dog"])
    again = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "head"))
    pixels = head.backbone.example_pixels()
    torch.testing.assert_close(again(pixels), head(pixels))


def test_an_adapted_model_can_do_what_others_can(tmp_path: Path):
    adapted, processor = with_adapter(tmp_path)
    head = SynonymousSpaceHead(adapted, processor).fit_classes(["cat", "dog"])
    pixels = head.backbone.example_pixels()
    logits = head(pixels)
    head.drop_text_tower()
    torch.testing.assert_close(head(pixels), logits)
    masks = head.segment(Image.new("RGB", (64, 64)))
    assert masks
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(export_onnx(head, tmp_path / "adapted.onnx")))
    found = session.run(["logits"], {"pixel_values": pixels.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), logits.detach(), atol=1e-4, rtol=0)


def test_an_adapter_of_the_forward_alone_is_refused():
    peft = pytest.importorskip("peft")
    model, processor = build("clip")
    config = peft.PromptTuningConfig(
        num_virtual_tokens=2, num_layers=2, token_dim=32, num_attention_heads=2, num_transformer_submodules=1
    )
    adapted = peft.PeftModel(model, peft.LoraConfig(target_modules=["q_proj"]))
    adapted.peft_config["default"] = config
    with pytest.raises(TypeError, match="PROMPT_TUNING changes the forward"):
        Backbone(adapted, processor)


def test_a_sentence_transformer(tmp_path: Path):
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    for each in build("clip"):
        each.save_pretrained(tmp_path / "clip")
    model = library.SentenceTransformer(modules=[modules.CLIPModel(str(tmp_path / "clip"))])
    head = SynonymousSpaceHead(model).fit_classes(["cat", "dog"], templates="{}")
    theirs = torch.nn.functional.normalize(torch.from_numpy(model.encode(["cat", "dog"])), dim=-1)
    torch.testing.assert_close(head.class_space.raw, theirs, atol=1e-5, rtol=0)
    model.save(str(tmp_path / "saved"))
    named = Backbone.from_pretrained(tmp_path / "saved")
    assert (named.fingerprint()["image"] == head.fingerprint()["image"]).all()


def test_offloaded_weights_compute_where_the_hooks_say():
    accelerate = pytest.importorskip("accelerate")
    model, processor = build("clip")
    expected, scale = Backbone(model, processor).fingerprint(), model.logit_scale.exp().item()
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    backbone = Backbone(model, processor)
    assert backbone.device == torch.device("cpu")
    assert backbone.logit_scale().item() == scale
    for part, rows in backbone.fingerprint().items():
        assert torch.equal(rows, expected[part])


def test_a_rounded_model_is_hinted_at():
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog"])
    saved = head.fingerprint()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():  # about as far as 4 bits round
        noise = torch.randn(weight.shape, generator=generator) * weight.std() if weight.numel() > 1 else 0
        weight.data += 0.07 * noise
    with pytest.raises(ValueError, match="so near, it may be the same one quantised"):
        check_fingerprint(saved, Backbone(model, processor).fingerprint(), "head")
    with pytest.raises(ValueError, match="made with another backbone") as caught:
        check_fingerprint(saved, Backbone(build("clip", seed=7)[0], processor).fingerprint(), "head")
    assert "quantised" not in str(caught.value)


def int8_of_torch(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def int8_of_torchao(model):
    library = pytest.importorskip("torchao.quantization")
    library.quantize_(model, library.Int8WeightOnlyConfig())
    return model


def int8_of_quanto(model):
    library = pytest.importorskip("optimum.quanto")
    library.quantize(model, weights=library.qint8)
    library.freeze(model)
    return model


@pytest.mark.parametrize("quantise", [int8_of_torch, int8_of_torchao, int8_of_quanto])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantised_model_works_and_is_hinted_at(quantise):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog"])
    pixels = head.backbone.example_pixels()
    expected, keys = head(pixels).detach(), (head.backbone.text_key(), head.backbone.image_key())
    quantised = Backbone(quantise(build("clip")[0]), processor)
    assert quantised.dtype == torch.float32  # of the weights that meet the pixels
    with pytest.raises(ValueError, match="so near, it may be the same one quantised"):
        check_fingerprint(head.fingerprint(), quantised.fingerprint(), "head")
    assert (quantised.text_key(), quantised.image_key()) != keys
    found = SynonymousSpaceHead(quantised).fit_classes(["cat", "dog"])
    logits = found(pixels)
    torch.testing.assert_close(logits, expected, atol=0.5, rtol=0)  # of 100 times a cosine
    found.drop_text_tower()
    torch.testing.assert_close(found(pixels), logits)


@pytest.fixture
def process_group(tmp_path: Path):
    """One process that is all of a group."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_model_in_ddp(process_group):
    model, processor = build("clip")
    plain = Backbone(model, processor).fingerprint()
    backbone = Backbone(nn.parallel.DistributedDataParallel(model), processor)
    assert backbone.model is model
    assert all(torch.equal(rows, plain[part]) for part, rows in backbone.fingerprint().items())


def test_a_model_that_fsdp_shards(process_group):
    """Whole it is refused, with what to do instead; towers that are sharded each work as they are."""
    library = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(library, "fully_shard"):
        pytest.skip("torch 2.6 made it public")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model, processor = build("clip")
    plain = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog"])
    pixels, known = plain.backbone.example_pixels(), plain.fingerprint()
    logits = plain(pixels)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for tower in (model.vision_model, model.text_model):
        library.fully_shard(tower, mesh=mesh)
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog"])
    torch.testing.assert_close(head(pixels), logits)
    check_fingerprint(known, head.fingerprint(), "sharded")

    model.logit_scale.data = model.logit_scale.data[None]  # it shards no scalars
    library.fully_shard(model, mesh=mesh)
    with pytest.raises(TypeError, match=r"are sharded.*get_model_state_dict with full_state_dict=True"):
        Backbone(model, processor)
    whole, _ = build("clip", seed=7)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    whole.load_state_dict({**state, "logit_scale": state["logit_scale"][0]})
    gathered = Backbone(whole, processor).fingerprint()
    assert all(torch.equal(rows, known[part]) for part, rows in gathered.items())


def test_weights_that_are_not_in_memory():
    model, processor = build("clip")
    model.text_projection.to("meta")
    with pytest.raises(ValueError, match=r"not in memory \(the first: 'text_projection.weight'"):
        Backbone(model, processor)


def test_a_folder_has_no_revision():
    with pytest.warns(UserWarning, match=r"revision: .*model is a folder, which has none; 'v1' is not used"):
        backbone = Backbone.from_pretrained(FOLDER, revision="v1")
    assert backbone.revision is None
