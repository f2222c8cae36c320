"""The backbone against the models' own logits, in every family that the installed transformers has."""

import functools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from s3clip.backbone.backbone import Backbone
from tests import tiny_models

torch.set_num_threads(1)

every_family = pytest.mark.parametrize(
    "family",
    [
        *tiny_models.FAMILIES,
        *(
            pytest.param(
                family,
                marks=pytest.mark.skip(reason=f"transformers {transformers.__version__} has no {family}"),
            )
            for family in tiny_models.ABSENT
        ),
    ],
)

# Of different lengths, one of them twice, not in order of length.
TEXTS = ["ox", "a big grey dog", "cat", "ox", "a red cat", "dog"]


@functools.cache
def built(family):
    """Model and processor of a family, not to be changed."""
    return tiny_models.build(family)


@functools.cache
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40 + 3 * i, 50 - i, 3), dtype=np.uint8)) for i in range(3)]


def own_inputs(family, processor, texts):
    """What a family's own processor gives for texts and images, called as its documentation says."""
    if isinstance(processor, tuple):
        tokenizer, image_processor = processor
        return {
            **tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt"),
            **image_processor(images=images(), return_tensors="pt"),
        }
    padding = {
        "siglip": {"padding": "max_length"},
        "siglip2": {"max_length": 16, "max_num_patches": 16, "patch_size": 8},
        "align": {},
        "owlvit": {},
        "owlv2": {},
    }.get(family, {"padding": True})
    inputs = processor(text=texts, images=images(), return_tensors="pt", truncation=True, **padding)
    if family in ("siglip", "siglip2"):
        # The published tokenizers give none.
        inputs.pop("attention_mask", None)
    return inputs


def own_logits(family, model, processor, texts):
    """logits_per_image of the model itself; for FLAVA, which has none, from its features."""
    inputs = own_inputs(family, processor, texts)
    with torch.no_grad():
        if family != "flava":
            return model(**inputs).logits_per_image
        image = model.get_image_features(inputs.pop("pixel_values"))
        text = model.get_text_features(**inputs)
        rows = [
            nn.functional.normalize((f if torch.is_tensor(f) else f.pooler_output)[:, 0])
            for f in (image, text)
        ]
        return model.logit_scale.exp() * rows[0] @ rows[1].T


def logits(backbone, texts):
    with torch.no_grad():
        cosines = backbone.encode_images(**backbone.preprocess(images())) @ backbone.encode_texts(texts).T
        bias = backbone.logit_bias()
        return backbone.logit_scale() * cosines + (0 if bias is None else bias)


@every_family
def test_logits_are_the_models_own(family):
    model, processor = built(family)
    backbone = Backbone(model, processor)
    ours, theirs = logits(backbone, TEXTS), own_logits(family, model, processor, TEXTS)
    torch.testing.assert_close(ours, theirs, atol=1e-3 if family == "align" else 1e-4, rtol=0)
    # The comparison means something only where images and texts tell apart.
    assert theirs.std(0).min() > 0.01
    assert theirs[:, [0, 1, 2, 4, 5]].std(1).min() > 0.01
    assert backbone.activation == ("sigmoid" if family in ("siglip", "siglip2") else "softmax")
    assert backbone.dim == backbone.encode_texts(["ox"]).shape[1]


@every_family
def test_a_text_has_one_embedding_whatever_its_batch(family):
    backbone = Backbone(*built(family))
    together = backbone.encode_texts(TEXTS)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(TEXTS)))
    for batch_size in (1, 2):
        torch.testing.assert_close(
            backbone.encode_texts(TEXTS, batch_size=batch_size), together, atol=1e-5, rtol=0
        )
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(backbone.encode_texts([text])[0], together[i], atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.encode_texts(TEXTS[::-1]).flip(0), together, atol=1e-5, rtol=0)


def test_distinct_texts_are_encoded_once_longest_first():
    model, processor = tiny_models.build("clip")
    shapes = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    Backbone(model, processor).encode_texts([*TEXTS, *TEXTS], batch_size=2)
    # 5 distinct texts of 13, 9, 5, 5 and 4 tokens, each batch as wide as its longest.
    assert shapes == [(2, 13), (2, 5), (1, 4)]


def test_no_texts_give_no_rows():
    assert Backbone(*built("clip")).encode_texts([]).shape == (0, tiny_models.DIM)


@pytest.mark.parametrize(
    ("family", "length"), [("clip", 77), ("siglip", 16), ("owlvit", 16), ("altclip", 64), ("blip", 64)]
)
def test_long_texts_are_truncated_with_one_warning(family, length):
    model, processor = built(family)
    backbone = Backbone(model, processor)
    assert backbone.text_length == length
    long = "abcdefgh" * 10
    texts = [long, "ox", long + "i", long]
    with pytest.warns(UserWarning, match=rf"2 of 3 distinct texts .* {length} tokens .*'abcdefgh") as caught:
        rows = backbone.encode_texts(texts, batch_size=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    torch.testing.assert_close(rows[0], rows[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = logits(backbone, texts)
    torch.testing.assert_close(ours, own_logits(family, model, processor, texts), atol=1e-4, rtol=0)


def test_short_texts_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Backbone(*built("clip")).encode_texts(["a" * 75])


def test_text_length_is_the_smaller_of_tokenizer_and_model():
    model, processor = built("clip")
    image_processor = processor.image_processor
    assert Backbone(model, (tiny_models.clip_tokenizer(10), image_processor)).text_length == 10
    assert Backbone(model, (tiny_models.clip_tokenizer(int(1e30)), image_processor)).text_length == 77
    assert Backbone(model).text_length == 77


def test_roberta_positions_begin_after_padding():
    model, processor = tiny_models.build("altclip")
    processor.tokenizer.model_max_length = int(1e30)
    backbone = Backbone(model, processor)
    assert backbone.text_length == 64  # of 66 positions
    with pytest.warns(UserWarning, match="1 of 1"):
        backbone.encode_texts(["a" * 100])


@every_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(family, dtype):
    model, processor = tiny_models.build(family)
    reference = Backbone(*built(family))
    # Kept within the range of half precision, which random weights may leave.
    backbone = Backbone(model.to(dtype), processor)
    assert backbone.dtype == dtype
    inputs = backbone.preprocess(images())
    assert inputs["pixel_values"].dtype == dtype
    rows = backbone.encode_images(**inputs)
    assert rows.dtype == dtype
    # Pixels in single precision are cast.
    assert torch.equal(backbone.encode_images(**reference.preprocess(images())), rows)
    exact = reference.encode_images(**reference.preprocess(images()))
    assert (rows.float() * exact).sum(1).min() > 0.98
    texts = backbone.encode_texts(TEXTS)
    assert texts.dtype == torch.float32
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(len(TEXTS)))
    assert (texts * reference.encode_texts(TEXTS)).sum(1).min() > 0.98
    assert backbone.logit_scale().dtype == torch.float32


@every_family
def test_dropping_the_text_tower_frees_it_and_keeps_images(family):
    model, processor = tiny_models.build(family)
    backbone = Backbone(model, processor)
    length, dim = backbone.text_length, backbone.dim
    inputs = backbone.preprocess(images())
    with torch.no_grad():
        before = backbone.encode_images(**inputs)
    fingerprint = backbone.fingerprint()
    backbone.drop_text_tower()
    backbone.drop_text_tower()
    kept = ("vision_model.", "visual_projection.", "image_model.", "image_projection.")
    scalars = {"logit_scale", "logit_bias", "temperature"}
    left = {name.removeprefix("model.") for name in backbone.state_dict()}
    assert {name for name in left if not name.startswith(kept)} <= scalars
    whole = built(family)[0].state_dict()
    assert left == {name for name in whole if name.startswith(kept) or name in scalars}
    with torch.no_grad():
        assert torch.equal(backbone.encode_images(**inputs), before)
    assert not backbone.has_text_tower
    assert (backbone.text_length, backbone.dim) == (length, dim)
    assert backbone.logit_scale() == Backbone(*built(family)).logit_scale()
    after = backbone.fingerprint()  # of texts too: by the tower that was here
    assert after.keys() == fingerprint.keys() > {"image", "texts"}
    assert all(torch.equal(after[part], rows) for part, rows in fingerprint.items())
    with pytest.raises(RuntimeError, match="text tower of this backbone was dropped"):
        backbone.encode_texts(["ox"])


# Scale.


def test_scale_and_bias_follow_the_parameters():
    model, processor = tiny_models.build("siglip")
    backbone = Backbone(model, processor)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-3.0)
    assert backbone.logit_scale().shape == backbone.logit_bias().shape == ()
    assert backbone.logit_scale().item() == pytest.approx(np.exp(1.5))
    assert backbone.logit_bias().item() == -3.0
    backbone.logit_scale().backward()
    assert model.logit_scale.grad.item() == pytest.approx(np.exp(1.5))
    assert Backbone(*built("clip")).logit_bias() is None


def test_temperature_divides():
    backbone = Backbone(*built("align"))
    assert backbone.logit_scale().item() == pytest.approx(1 / 0.07)


@pytest.mark.skipif("aimv2" not in tiny_models.FAMILIES, reason="transformers has no AIMv2 yet")
def test_aimv2_clamps_its_scale():
    model, processor = tiny_models.build("aimv2")
    backbone = Backbone(model, processor)
    with torch.no_grad():
        model.logit_scale.fill_(5.0)
    assert backbone.logit_scale().item() == pytest.approx(100.0)  # not exp(5) = 148
    torch.testing.assert_close(
        logits(backbone, TEXTS), own_logits("aimv2", model, processor, TEXTS), atol=1e-4, rtol=0
    )
    with torch.no_grad():
        model.logit_scale.fill_(-1.0)
    assert backbone.logit_scale().item() == 1.0


# Images.


@every_family
def test_interpolation_goes_where_it_is_understood(family):
    model, processor = built(family)
    backbone = Backbone(model, processor)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    if "interpolate_pos_encoding" not in backbone.image_inputs:
        with pytest.raises(TypeError, match="interpolate_pos_encoding: the image tower of"):
            backbone.encode_images(pixels, interpolate_pos_encoding=True)
        return
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
        ours = backbone.encode_images(pixels, interpolate_pos_encoding=True)
    theirs = theirs if torch.is_tensor(theirs) else theirs.pooler_output
    theirs = theirs[:, 0] if theirs.ndim == 3 else theirs
    torch.testing.assert_close(ours, nn.functional.normalize(theirs))


def test_families_that_interpolate():
    interpolating = {
        family
        for family in tiny_models.FAMILIES
        if "interpolate_pos_encoding" in Backbone(*built(family)).image_inputs
    }
    assert {"clip", "siglip", "altclip", "chinese_clip", "clipseg", "blip", "owlvit", "owlv2", "flava"} <= (
        interpolating
    )
    assert not interpolating & {"align", "groupvit", "aimv2", "siglip2", "tipsv2"}


@pytest.mark.skipif("siglip2" not in tiny_models.FAMILIES, reason="transformers has no SigLIP 2 yet")
def test_siglip2_says_what_is_missing():
    backbone = Backbone(*built("siglip2"))
    pixels = backbone.preprocess(images())["pixel_values"]
    with pytest.raises(TypeError, match="spatial_shapes: Siglip2Model needs it"):
        backbone.encode_images(pixels)


def test_raw_pixels_are_refused():
    with pytest.raises(TypeError, match=r"pixel_values: expected .* got torch.uint8"):
        Backbone(*built("clip")).encode_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_gradients_reach_the_pixels():
    backbone = Backbone(*built("clip"))
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    backbone.encode_images(pixels)[:, 0].sum().backward()
    assert pixels.grad.abs().sum(dim=(1, 2, 3)).min() > 0


def test_preprocess_reads_images_of_any_mode_as_rgb():
    backbone = Backbone(*built("align"))  # whose image processor converts nothing
    image = images()[0]
    for mode in ("L", "RGBA", "P"):
        other = image.convert(mode)
        ours = backbone.preprocess([other])["pixel_values"]
        theirs = backbone.image_processor(images=[other.convert("RGB")], return_tensors="pt")
        torch.testing.assert_close(ours, theirs["pixel_values"])


def test_preprocess_refuses_what_is_no_image():
    backbone = Backbone(*built("clip"))
    with pytest.raises(TypeError, match="images: expected PIL images, got ndarray at position 1"):
        backbone.preprocess([images()[0], np.zeros((3, 3, 3))])
    with pytest.raises(ValueError, match="images: expected at least one"):
        backbone.preprocess([])


class EncodeImages(nn.Module):
    """The backbone's image side as a module, to be traced."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values):
        return self.backbone.encode_images(pixel_values)


class GetImageFeatures(nn.Module):
    """The model's own image side as a module, to be traced."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        out = self.model.get_image_features(pixel_values=pixel_values)
        return out if torch.is_tensor(out) else out.pooler_output


def compiles(module, pixels):
    torch._dynamo.reset()
    with torch.no_grad():
        return torch.compile(module, fullgraph=True, backend="eager")(pixels)


def exports(module, pixels):
    return torch.export.export(module, (pixels,)).module()(pixels)


@pytest.mark.parametrize("transform", [compiles, exports])
@pytest.mark.parametrize("family", ["clip", "siglip", "align"])
def test_traced_where_the_model_alone_is(family, transform):
    model, processor = built(family)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    try:
        alone = transform(GetImageFeatures(model), pixels)
    except Exception as error:
        pytest.skip(f"{type(model).__name__} itself is not traced: {type(error).__name__}")
    ours = transform(EncodeImages(Backbone(model, processor)), pixels)
    torch.testing.assert_close(ours, nn.functional.normalize(alone), atol=1e-5, rtol=0)


# Fingerprint.


@every_family
def test_fingerprint_tells_models_apart_and_ignores_the_image_processor(family):
    model, processor = built(family)
    prints = Backbone(model, processor).fingerprint()
    assert prints["image"].dtype == prints["texts"].dtype == torch.float32
    backbone = Backbone(model)
    assert list(backbone.fingerprint()) == ["image"]
    assert torch.equal(backbone.fingerprint()["image"], prints["image"])
    assert prints["image"].shape == (backbone.dim,)
    assert prints["texts"].shape == (3, backbone.dim)
    assert prints["more_texts"].shape == (6, backbone.dim)
    for rows in (prints[part] for part in ("image", "texts", "more_texts")):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]))
    other = Backbone(*tiny_models.build(family, seed=1)).fingerprint()
    assert (prints["image"] * other["image"]).sum() < 0.99
    assert (prints["texts"] * other["texts"]).sum(1).max() < 0.99
    assert prints["texts"].std(0).max() > 1e-3


# Modes, state, progress.


def test_texts_are_encoded_in_evaluation_mode_and_modes_restored():
    model, processor = tiny_models.build("groupvit")  # with batch norms
    backbone = Backbone(model, processor)
    expected = backbone.encode_texts(TEXTS)
    backbone.train()
    model.vision_model.eval()
    modes = {name: module.training for name, module in backbone.named_modules()}
    assert torch.equal(backbone.encode_texts(TEXTS), expected)
    backbone.fingerprint()
    assert {name: module.training for name, module in backbone.named_modules()} == modes


def test_state_is_the_models_under_its_name():
    model, processor = built("clip")
    assert list(Backbone(model, processor).state_dict()) == [f"model.{name}" for name in model.state_dict()]


def test_progress_is_shown_when_asked_and_not_outside_a_terminal(capsys):
    backbone = Backbone(*built("clip"))
    backbone.encode_texts(TEXTS)
    assert capsys.readouterr().err == ""
    backbone.encode_texts(TEXTS, progress=True)
    assert "5/5" in capsys.readouterr().err
    backbone.encode_texts(TEXTS, progress=False)
    assert capsys.readouterr().err == ""


# Bad texts, weights and processors.


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("cat", TypeError, "one string 'cat'"),
        (["cat", 3], TypeError, "got int at position 1"),
        (["cat", ""], ValueError, "text at position 1 is empty"),
        ([" \n"], ValueError, "text at position 0 is empty"),
    ],
)
def test_bad_texts(texts, error, message):
    with pytest.raises(error, match=f"texts: .*{message}"):
        Backbone(*built("clip")).encode_texts(texts)


def test_bad_batch_size():
    with pytest.raises(ValueError, match="batch_size: expected a positive number, got 0"):
        Backbone(*built("clip")).encode_texts(["cat"], batch_size=0)


@pytest.mark.parametrize(
    ("value", "what"), [(0.0, "zero"), (float("nan"), "not finite"), (1e30, "not finite")]
)
def test_useless_embeddings_name_the_text(value, what):
    model, processor = tiny_models.build("clip")
    with torch.no_grad():
        model.text_projection.weight.fill_(value)
    with pytest.raises(ValueError, match=f"texts: the embedding of 'a big grey dog' is {what}"):
        Backbone(model, processor).encode_texts(TEXTS)


def test_without_a_processor():
    backbone = Backbone(built("clip")[0])
    with pytest.raises(ValueError, match="processor: texts cannot be encoded without a tokenizer"):
        backbone.encode_texts(["cat"])
    with pytest.raises(ValueError, match="processor: images cannot be preprocessed"):
        backbone.preprocess(images())
    inputs = Backbone(*built("clip")).preprocess(images())
    torch.testing.assert_close(
        backbone.encode_images(**inputs), Backbone(*built("clip")).encode_images(**inputs)
    )


def test_bad_processors():
    model, processor = built("clip")
    with pytest.raises(TypeError, match=r"processor: expected a processor .* got str"):
        Backbone(model, "openai/clip")
    with pytest.raises(TypeError, match=r"processor: expected a pair .* got 3 values"):
        Backbone(model, (processor.tokenizer, processor.image_processor, None))


# Refused models.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Blip2Model", "blip-2"),
        ("Blip2ForImageTextRetrieval", "blip-2"),
        ("XCLIPModel", "xclip"),
        ("VideoPrismClipModel", "videoprism"),
        ("LlavaForConditionalGeneration", "llava"),
        ("ViTModel", "vit"),
        ("BertModel", "bert"),
        ("CLIPVisionModelWithProjection", "clip_vision_model"),
        ("CLIPForImageClassification", "clip"),
        ("OwlViTForObjectDetection", "owlvit"),
        ("BlipForConditionalGeneration", "blip"),
    ],
)
def test_models_without_a_joint_space_are_refused_by_name(name, kind):
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    with torch.device("meta"):
        model = getattr(transformers, name)(transformers.AutoConfig.for_model(kind))
    with pytest.raises(TypeError, match=f"model: {name} has no joint space") as raised:
        Backbone(model)
    assert ("its base_model, a OwlViTModel" in str(raised.value)) == (name == "OwlViTForObjectDetection")


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="model: expected a torch module, got str"):
        Backbone("openai/clip-vit-base-patch32")


def test_towers_of_different_widths_are_refused():
    model, processor = tiny_models.build("clip")
    model.text_projection = nn.Linear(32, 8, bias=False)
    with pytest.raises(ValueError, match="texts are embedded in 8 dimensions, images in 16"):
        Backbone(model, processor).encode_texts(["cat"])


# Loading.


@every_family
def test_from_pretrained_finds_class_and_processor(family, tmp_path):
    model, processor = built(family)
    if isinstance(processor, tuple) or (family == "siglip" and transformers.__version__.startswith("4.49")):
        pytest.skip("its processor needs torchvision or sentencepiece")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path))
    assert type(backbone.model) is type(model)
    assert not backbone.model.training
    assert backbone.name == str(tmp_path)
    assert backbone.revision is None
    torch.testing.assert_close(logits(backbone, TEXTS), logits(Backbone(model, processor), TEXTS))


def test_from_pretrained_casts_and_passes_arguments_on(tmp_path):
    model, processor = built("clip")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(
        str(tmp_path), dtype=torch.bfloat16, device="cpu", attn_implementation="eager", local_files_only=True
    )
    assert backbone.dtype == torch.bfloat16
    # The scale alone, whose rounding would move every logit, keeps its own type.
    assert {p.dtype for name, p in backbone.named_parameters() if "scale" not in name} == {torch.bfloat16}
    assert backbone.logit_scale() == Backbone(model, processor).logit_scale()
    assert backbone.device == torch.device("cpu")
    assert backbone.model.config._attn_implementation == "eager"


def test_name_and_revision_are_read_from_the_model(tmp_path):
    model, processor = tiny_models.build("clip")
    assert Backbone(model, processor).name is None
    model.config._commit_hash = "0123abcd"
    backbone = Backbone(model, processor, name="user/clip", revision="main")
    assert (backbone.name, backbone.revision) == ("user/clip", "0123abcd")
    model.save_pretrained(tmp_path)
    loaded = Backbone(transformers.CLIPModel.from_pretrained(tmp_path), processor)
    assert loaded.name == str(tmp_path)


@pytest.mark.parametrize(
    ("family", "wrapper"),
    [
        ("owlvit", "OwlViTForObjectDetection"),
        ("owlv2", "Owlv2ForObjectDetection"),
        ("clipseg", "CLIPSegForImageSegmentation"),
        ("flava", "FlavaForPreTraining"),
    ],
)
def test_from_pretrained_takes_the_dual_encoder_out_of_a_checkpoint(family, wrapper, tmp_path):
    core, processor = built(family)
    config = core.config
    if family == "clipseg":
        config.extract_layers, config.reduce_dim, config.decoder_num_attention_heads = [0, 1], 16, 2
    if family == "flava":
        config.image_codebook_config.hidden_size = 8
        config.image_codebook_config.vocab_size = 16
    model = getattr(transformers, wrapper)(config)
    model.base_model.load_state_dict(core.state_dict())
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path))
    assert type(backbone.model) is type(core)
    torch.testing.assert_close(logits(backbone, TEXTS), logits(Backbone(core, processor), TEXTS))


def test_from_pretrained_refuses_random_weights(tmp_path):
    core, processor = built("blip")
    transformers.BlipForConditionalGeneration(core.config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of BlipModel \(the first: '"):
        Backbone.from_pretrained(str(tmp_path))


# open_clip.


class Visual(nn.Module):
    """An image tower as open_clip has them: pixels to (batch, dim)."""

    def __init__(self, dim=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, 4, stride=4)
        self.image_size = (16, 16)
        self.output_dim = dim

    def forward(self, pixels):
        return self.conv1(pixels).tanh().mean((2, 3))


class OpenClip(nn.Module):
    """The interface of open_clip's CLIP, with its names of the text side; layer norm in float32 is kept."""

    def __init__(self, bias=None):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(16, 6))
        self.text_projection = nn.Parameter(torch.randn(6, 8))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.visual = Visual()
        self.transformer = nn.Linear(6, 6)
        self.token_embedding = nn.Embedding(40, 6)
        self.ln_final = nn.LayerNorm(6)
        self.rows = 0

    def encode_image(self, image, normalize=False):
        return self.visual(image)

    def encode_text(self, text, normalize=False):
        self.rows += len(text)
        states = self.ln_final(self.transformer(self.token_embedding(text) + self.positional_embedding))
        return states[torch.arange(len(text)), text.argmax(1)] @ self.text_projection


class CustomTextClip(nn.Module):
    """The interface of open_clip's CustomTextCLIP: the whole text tower is `text`."""

    def __init__(self):
        super().__init__()
        self.visual = Visual()
        self.text = nn.EmbeddingBag(40, 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, image):
        return self.visual(image)

    def encode_text(self, text):
        return self.text(text)


def letters(texts, context_length=16, padding=0):
    """A tokenizer as open_clip has them: fixed width, padded, 39 ends, cut with the end kept."""
    tokens = torch.full((len(texts), context_length), padding)
    for row, text in zip(tokens, texts, strict=True):
        ids = [*(ord(letter) % 32 + 1 for letter in text[: context_length - 1]), 39]
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def to_pixels(image):
    return torch.from_numpy(np.array(image.resize((16, 16)), dtype=np.float32)).permute(2, 0, 1) / 255


@pytest.fixture
def open_clip():
    torch.manual_seed(0)
    return OpenClip().eval()


def test_open_clip_logits(open_clip):
    backbone = Backbone(open_clip, (letters, to_pixels))
    texts = ["ox", "a big dog", "cat", "ox"]
    inputs = backbone.preprocess(images())
    assert inputs["pixel_values"].shape == (3, 3, 16, 16)
    ours = backbone.logit_scale() * backbone.encode_images(**inputs) @ backbone.encode_texts(texts).T
    assert open_clip.rows == 3
    pixels = torch.stack([to_pixels(image) for image in images()])
    theirs = np.exp(2.0) * nn.functional.cosine_similarity(
        open_clip.encode_image(pixels)[:, None], open_clip.encode_text(letters(texts))[None], dim=-1
    )
    torch.testing.assert_close(ours, theirs)
    assert (backbone.dim, backbone.text_length, backbone.activation) == (8, 16, "softmax")
    assert backbone.logit_bias() is None
    assert (backbone.name, backbone.revision) == (None, None)
    assert backbone.fingerprint()["texts"].shape == (3, 8)


def test_open_clip_with_a_bias_is_sigmoid():
    backbone = Backbone(OpenClip(bias=-9.0), (letters, to_pixels))
    assert backbone.activation == "sigmoid"
    assert backbone.logit_bias().item() == -9.0


@pytest.mark.parametrize("padding", [0, 39])  # 39: the end token pads too, as in SigLIP
def test_open_clip_truncation_is_seen(open_clip, padding):
    backbone = Backbone(open_clip, (functools.partial(letters, padding=padding), None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.encode_texts(["a" * 15])  # with its end token just as long as is read
    with pytest.warns(UserWarning, match="1 of 2 distinct texts are longer than the 16 tokens"):
        backbone.encode_texts(["ox", "a" * 16])


def test_open_clip_in_half_precision_follows_the_convolution(open_clip):
    open_clip.visual.conv1.half()
    backbone = Backbone(open_clip, (letters, to_pixels))
    assert backbone.dtype == torch.float16
    assert backbone.encode_images(**backbone.preprocess(images())).dtype == torch.float16


@pytest.mark.parametrize("kind", [OpenClip, CustomTextClip])
def test_open_clip_text_tower_can_be_dropped(kind):
    model = kind().eval()
    backbone = Backbone(model, (letters, to_pixels))
    inputs = backbone.preprocess(images())
    before = backbone.encode_images(**inputs)
    backbone.drop_text_tower()
    assert set(backbone.state_dict()) == {
        "model.logit_scale",
        "model.visual.conv1.weight",
        "model.visual.conv1.bias",
    }
    assert torch.equal(backbone.encode_images(**inputs), before)
    with pytest.raises(RuntimeError, match="dropped"):
        backbone.encode_texts(["ox"])


def test_a_tower_that_cannot_be_told_apart_is_not_dropped():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.logit_scale = nn.Parameter(torch.tensor(1.0))

        def encode_image(self, image):
            return self.body(image.mean((1, 2, 3))[:, None].expand(-1, 4))

        def encode_text(self, text):
            return self.body(text[:, :4].float())

    backbone = Backbone(Shared(), (letters, to_pixels))
    assert backbone.dim == 4  # measured
    with pytest.raises(ValueError, match="Shared has no text and image towers that can be told apart"):
        backbone.drop_text_tower()
    assert backbone.has_text_tower


def test_open_clip_without_a_tokenizer_says_its_own_length(open_clip):
    with pytest.raises(ValueError, match="text_length: neither the processor nor the configuration"):
        Backbone(open_clip).text_length  # noqa: B018
    open_clip.context_length = 16
    assert Backbone(open_clip).text_length == 16


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_image_tower_is_loaded_alone(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, processor = tiny_models.build(family)
    if isinstance(processor, tuple):
        pytest.skip("its processor cannot be saved here")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    read: list[str] = []
    whole = Backbone(model, processor)
    original = Backbone.__init__

    def watch(self: Backbone, model: torch.nn.Module, *args: object, **kwargs: object) -> None:
        read.extend(f"{name} {p.numel()}" for name, p in model.named_parameters() if "text" in name)
        original(self, model, *args, **kwargs)

    monkeypatch.setattr(Backbone, "__init__", watch)
    alone = Backbone.from_pretrained(str(tmp_path), text_tower=False)
    # Not to the bit: where weights lie in memory decides how some processors round. The weights are, below.
    torch.testing.assert_close(alone.fingerprint()["image"], whole.fingerprint()["image"], rtol=0, atol=1e-6)
    assert torch.equal(alone.logit_scale(), whole.logit_scale())
    assert (alone.dim, alone.activation, alone.has_text_tower) == (whole.dim, whole.activation, False)
    left = {name: value for name, value in alone.model.state_dict().items()}
    expected = model.state_dict()
    assert left.keys() < expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in left.items())
    if family != "flava":
        assert not any(".layers." in name for name in read if name.startswith("text_model")), read
    with pytest.raises(RuntimeError, match="text tower"):
        alone.encode_texts(["a"])


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "../nowhere", "~/nowhere"])
def test_a_path_to_nowhere_is_no_repository(name: str):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Backbone.from_pretrained(name)


def test_a_checkpoint_that_lacks_more_than_texts_is_read_whole(tmp_path: Path):
    model, processor = tiny_models.build("clip")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights.*visual_projection"):
        Backbone.from_pretrained(str(tmp_path), text_tower=False)


# Parts that load but are empty.

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_folder_without_tokenizer_files_encodes_no_text(family: str, tmp_path: Path):
    model, processor = built(family)
    if isinstance(processor, tuple):
        pytest.skip("its processor cannot be saved here")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for name in TOKENIZER_FILES:
        (tmp_path / name).unlink(missing_ok=True)
    try:
        backbone = Backbone.from_pretrained(str(tmp_path))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return  # transformers itself refuses
    backbone.encode_images(**backbone.preprocess(images()))
    for texts in (["cat", "dog"], ["cat"]):
        with pytest.raises(
            ValueError, match=r"processor: its \w+ reads all texts as the same tokens.*missing"
        ):
            backbone.encode_texts(texts)


@pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="its tokenizers are made of files alone"
)
def test_a_vocabulary_of_some_words_is_enough_for_them():
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "zebra": 4, "okapi": 5}
    model, processor = built("chinese_clip")
    tokenizer = type(processor.tokenizer)(vocab=words, model_max_length=64)
    backbone = Backbone(model, (tokenizer, None))
    rows = backbone.encode_texts(["zebra", "okapi"])
    assert (rows[0] - rows[1]).norm() > 1e-3
    backbone.encode_texts(["zebra"])
    with pytest.raises(ValueError, match="reads all texts as the same tokens"):
        backbone.encode_texts(["gnu", "emu"])


def test_tokens_beyond_the_table_are_named():
    model, processor = tiny_models.build("clip")
    processor.tokenizer.add_tokens(["<new>"])
    backbone = Backbone(model, processor)
    backbone.encode_texts(["a cat"])
    with pytest.raises(ValueError, match="reads 'a <new>' with the token 514, and the text tower knows 514"):
        backbone.encode_texts(["a cat", "a <new>"])
    if hasattr(model.text_model, "resize_token_embeddings"):  # from transformers 5 on
        model.text_model.resize_token_embeddings(515)
        backbone.encode_texts(["a <new>"])


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_pixels_of_another_family_are_a_warning(family: str):
    if family not in tiny_models.FAMILIES:
        pytest.skip(f"transformers has no {family}")
    model, processor = built(family)
    with pytest.warns(UserWarning, match=r"takes the mean \(0.48.* is it that of another model"):
        Backbone(model, (processor.tokenizer, tiny_models.clip_image_processor()))


def test_a_text_tower_that_was_never_trained_is_a_warning():
    model, processor = tiny_models.build("clip")
    backbone = Backbone(model, processor)
    backbone.encode_texts(["a cat"])  # neither tower was: a model made to be trained, or for a test
    with torch.no_grad():
        model.vision_model.post_layernorm.weight.mul_(1.01)
    with pytest.warns(UserWarning, match="the text tower of CLIPModel was never trained"):
        backbone.encode_texts(["a cat"])
    with torch.no_grad():
        model.text_model.final_layer_norm.bias.add_(0.01)
    backbone.encode_texts(["a cat"])


def test_images_of_every_mode_are_read_as_everywhere():
    """What is clear lies on white, as where `predict` opens it, and 16 bits are scaled."""
    backbone = Backbone(*tiny_models.build("clip"))
    ink = np.zeros((30, 30), dtype=np.uint8)
    ink[8:20, 10:14] = 255
    plain = Image.fromarray(np.dstack([255 - ink] * 3))
    clear = Image.fromarray(np.dstack([np.zeros_like(ink)] * 3 + [ink]))
    deep = Image.fromarray((255 - ink).astype(np.uint16) * 257)
    expected = backbone.preprocess([plain])["pixel_values"]
    for image in (clear, deep, plain.convert("L"), clear.convert("LA")):
        torch.testing.assert_close(backbone.preprocess([image])["pixel_values"], expected)
