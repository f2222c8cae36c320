"""Tiny random dual encoders of every family, with tokenizers and processors built offline.

`build(family)` gives a real model of transformers and its real processor, seeded, in evaluation mode.
`FAMILIES` are those that the installed transformers has; `ABSENT` are the others.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

Built = tuple[Any, Any]

IMAGE_SIZE = 32
DIM = 16
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PIXELS = {"image_size": IMAGE_SIZE, "patch_size": 8}
SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789.,!'-")


# Tokenizers: one token for each letter.


def clip_tokenizer(text_length: int = 77) -> Any:
    """Tokens are bytes; begins with 512, ends with 513, padded with 513."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}),
        "merges.txt": "#version: 0.2\n",
    }
    return _tokenizer_of_files(transformers.CLIPTokenizerFast, files, text_length)


def bert_tokenizer(text_length: int = 64) -> Any:
    """Tokens are letters; pads with 0, begins with 2, ends with 3."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
    return _tokenizer_of_files(transformers.BertTokenizerFast, {"vocab.txt": "\n".join(tokens)}, text_length)


def xlm_roberta_tokenizer(text_length: int = 64) -> Any:
    """Tokens are letters; begins with 0, pads with 1, ends with 2."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS]
    # A Unigram with Metaspace is what transformers 5 makes of the saved vocabulary.
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=text_length)


def siglip_tokenizer(text_length: int = 16) -> Any:
    """Tokens are letters; ends with 1, pads with 1; gives a mask, as the class in transformers does."""
    tokens = ["<unk>", "</s>", "▁", *LETTERS]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=text_length,
        pad_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _tokenizer_of_files(kind: Any, files: dict[str, str], text_length: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        return kind.from_pretrained(folder, model_max_length=text_length)


# Text configurations that fit the tokenizers.

CLIP_TEXT = {
    **SMALL,
    "vocab_size": 514,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
    "max_position_embeddings": 77,
}
BERT_TEXT = {**SMALL, "vocab_size": 5 + 2 * len(LETTERS), "pad_token_id": 0, "max_position_embeddings": 64}
XLM_TEXT = {
    **SMALL,
    "vocab_size": 5 + len(LETTERS),
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 66,
}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SIGLIP_TEXT = {
    **SMALL,
    "vocab_size": 3 + len(LETTERS),
    "max_position_embeddings": 16,
    **dict.fromkeys(IDS, 1),
}


# Image processors.


def clip_image_processor() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)


def square_image_processor(kind: str, **kwargs: Any) -> Any:
    return getattr(transformers, kind)(size=SQUARE, **kwargs)


# Families.


def _clip() -> Built:
    config = transformers.CLIPConfig(
        text_config=CLIP_TEXT, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    return transformers.CLIPModel(config), transformers.CLIPProcessor(
        clip_image_processor(), clip_tokenizer()
    )


def _siglip() -> Built:
    config = transformers.SiglipConfig(text_config=SIGLIP_TEXT, vision_config={**SMALL, **PIXELS})
    model = transformers.SiglipModel(config)
    image_processor, tokenizer = square_image_processor("SiglipImageProcessor"), siglip_tokenizer()
    kind = transformers.SiglipProcessor
    if getattr(kind, "tokenizer_class", None) == "SiglipTokenizer":
        # transformers 4.49 takes this class alone, which needs sentencepiece: built without the check.
        processor = kind.__new__(kind)
        processor.image_processor, processor.tokenizer = image_processor, tokenizer
    else:
        processor = kind(image_processor, tokenizer)
    return _with_sigmoid(model), processor


def _siglip2() -> Built:
    vision = {**SMALL, "num_patches": 16, "patch_size": 8}
    config = transformers.Siglip2Config(text_config=SIGLIP_TEXT, vision_config=vision)
    model = transformers.Siglip2Model(config)
    image_processor = transformers.Siglip2ImageProcessor(max_num_patches=16, patch_size=8)
    return _with_sigmoid(model), transformers.Siglip2Processor(image_processor, siglip_tokenizer())


def _metaclip_2() -> Built:
    config = transformers.MetaClip2Config(
        text_config=XLM_TEXT, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    processor = transformers.CLIPProcessor(clip_image_processor(), xlm_roberta_tokenizer(66))
    return transformers.MetaClip2Model(config), processor


def _altclip() -> Built:
    config = transformers.AltCLIPConfig(
        text_config={**XLM_TEXT, "project_dim": 24}, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    processor = transformers.AltCLIPProcessor(clip_image_processor(), xlm_roberta_tokenizer())
    return transformers.AltCLIPModel(config), processor


def _chinese_clip() -> Built:
    config = transformers.ChineseCLIPConfig(
        text_config=BERT_TEXT, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    image_processor = square_image_processor("ChineseCLIPImageProcessor", crop_size=SQUARE)
    processor = transformers.ChineseCLIPProcessor(image_processor, bert_tokenizer())
    return transformers.ChineseCLIPModel(config), processor


def _align() -> Built:
    vision = {
        "image_size": IMAGE_SIZE,
        "hidden_dim": DIM,
        "in_channels": [32, 32],
        "out_channels": [32, 4 * DIM],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "depthwise_padding": [],
        "width_coefficient": 0.25,
        "depth_coefficient": 1.0,
    }
    config = transformers.AlignConfig(
        text_config=BERT_TEXT, vision_config=vision, projection_dim=DIM, temperature_init_value=0.07
    )
    model = transformers.AlignModel(config)
    # As initialised by transformers, images come out as zeros.
    for module in model.vision_model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    image_processor = square_image_processor("EfficientNetImageProcessor")
    return model, transformers.AlignProcessor(image_processor, bert_tokenizer())


def _clipseg() -> Built:
    config = transformers.CLIPSegConfig(
        text_config=CLIP_TEXT, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    processor = transformers.CLIPSegProcessor(square_image_processor("ViTImageProcessor"), clip_tokenizer())
    return transformers.CLIPSegModel(config), processor


def _blip() -> Built:
    text = {**BERT_TEXT, "encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3}
    # Its own 1e-10 would make every image the same.
    vision = {**SMALL, **PIXELS, "initializer_range": 0.02}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    processor = transformers.BlipProcessor(square_image_processor("BlipImageProcessor"), bert_tokenizer())
    return transformers.BlipModel(config), processor


def _tipsv2() -> Built:
    config = transformers.Tipsv2Config(text_config=SIGLIP_TEXT, vision_config={**SMALL, **PIXELS})
    # Its own image processor needs torchvision.
    return transformers.Tipsv2Model(config), (
        siglip_tokenizer(),
        square_image_processor("SiglipImageProcessor"),
    )


def _aimv2() -> Built:
    config = transformers.Aimv2Config(
        text_config=CLIP_TEXT, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    processor = transformers.CLIPProcessor(clip_image_processor(), clip_tokenizer())
    return transformers.Aimv2Model(config), processor


def _groupvit() -> Built:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "depths": [1, 1, 1],
        "num_hidden_layers": 3,
        "num_group_tokens": [4, 2, 0],
        "num_output_groups": [4, 2, 0],
        "num_attention_heads": 2,
        **PIXELS,
    }
    config = transformers.GroupViTConfig(
        text_config=CLIP_TEXT, vision_config=vision, projection_dim=DIM, projection_intermediate_dim=24
    )
    processor = transformers.CLIPProcessor(clip_image_processor(), clip_tokenizer())
    return transformers.GroupViTModel(config), processor


def _vision_text_dual_encoder() -> Built:
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**SMALL, **PIXELS), transformers.BertConfig(**BERT_TEXT), projection_dim=DIM
    )
    processor = transformers.VisionTextDualEncoderProcessor(
        square_image_processor("ViTImageProcessor"), bert_tokenizer()
    )
    return transformers.VisionTextDualEncoderModel(config), processor


def _owlvit() -> Built:
    text = {**CLIP_TEXT, "max_position_embeddings": 16, "pad_token_id": 0}
    config = transformers.OwlViTConfig(
        text_config=text, vision_config={**SMALL, **PIXELS}, projection_dim=DIM
    )
    image_processor = square_image_processor("OwlViTImageProcessor", crop_size=SQUARE)
    processor = transformers.OwlViTProcessor(image_processor, clip_tokenizer(16))
    return transformers.OwlViTModel(config), processor


def _owlv2() -> Built:
    text = {**CLIP_TEXT, "max_position_embeddings": 16, "pad_token_id": 0}
    config = transformers.Owlv2Config(text_config=text, vision_config={**SMALL, **PIXELS}, projection_dim=DIM)
    image_processor = square_image_processor("Owlv2ImageProcessor")
    return transformers.Owlv2Model(config), transformers.Owlv2Processor(image_processor, clip_tokenizer(16))


def _flava() -> Built:
    config = transformers.FlavaConfig(
        text_config=BERT_TEXT,
        image_config={**SMALL, **PIXELS},
        multimodal_config=SMALL,
        hidden_size=32,
        projection_dim=DIM,
    )
    image_processor = square_image_processor("FlavaImageProcessor", crop_size=SQUARE)
    return transformers.FlavaModel(config), transformers.FlavaProcessor(image_processor, bert_tokenizer())


def _with_sigmoid(model: Any) -> Any:
    """Give scale and bias values of a trained model; as initialised, a forgotten bias would not be seen."""
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-4.7)
    return model


# Family -> the class that must exist, and the builder.
_BUILDERS: dict[str, tuple[str, Callable[[], Built]]] = {
    "clip": ("CLIPModel", _clip),
    "siglip": ("SiglipModel", _siglip),
    "siglip2": ("Siglip2Model", _siglip2),
    "metaclip_2": ("MetaClip2Model", _metaclip_2),
    "altclip": ("AltCLIPModel", _altclip),
    "chinese_clip": ("ChineseCLIPModel", _chinese_clip),
    "align": ("AlignModel", _align),
    "clipseg": ("CLIPSegModel", _clipseg),
    "blip": ("BlipModel", _blip),
    "tipsv2": ("Tipsv2Model", _tipsv2),
    "aimv2": ("Aimv2Model", _aimv2),
    "groupvit": ("GroupViTModel", _groupvit),
    "vision-text-dual-encoder": ("VisionTextDualEncoderModel", _vision_text_dual_encoder),
    "owlvit": ("OwlViTModel", _owlvit),
    "owlv2": ("Owlv2Model", _owlv2),
    "flava": ("FlavaModel", _flava),
}
FAMILIES = [family for family, (name, _) in _BUILDERS.items() if hasattr(transformers, name)]
ABSENT = [family for family in _BUILDERS if family not in FAMILIES]


def build(family: str, *, seed: int = 0) -> Built:
    """Return a model of a family, with random weights, and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = _BUILDERS[family][1]()
    # As initialised, a class token hardly sees the other tokens: an error in a mask would not show.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(5)
    return model.eval(), processor
