"""Named checkpoints in their real file layouts, small and random, as repositories of the loopback Hub.

Configurations are the real ones of open_clip and transformers with one or two layers of little width; the
sizes of images and patches, poolings, activations and tokenizers' settings stay. CLIP's tokenizer is the real
one, which open_clip carries; others are of small vocabularies: letters for WordPiece (BiomedCLIP),
XLM-RoBERTa and SigLIP. Weights are random.
"""

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save as save_tensors

from tests.hub_server import Hub, Repository
from tests.tiny_models import (
    BERT_TEXT,
    FAMILIES,
    XLM_TEXT,
    bert_tokenizer,
    build,
    siglip_tokenizer,
    xlm_roberta_tokenizer,
)

WIDTH = 64
BIOMED_BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
BIOMED_CLIP = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": BIOMED_BERT,
        "hf_tokenizer_name": BIOMED_BERT,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
"""As the repository has it; open_clip's own list does not."""

Files = dict[str, bytes]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint by its name.

    Attributes:
        name: the one string.
        maker: whose it is.
        put: puts its repositories on a Hub.
    """

    name: str
    maker: str
    put: Callable[[Hub], None]

    @property
    def is_open_clip(self) -> bool:
        return ":" in self.name


def put(hub: Hub, repository: str, files: Files) -> str:
    """Make a repository of files, or add to one; return the commit."""
    found = hub.repositories.setdefault(repository, Repository())
    return found.add({**found.commits[found.branches["main"]], **files})


def saved(*objects: Any) -> Files:
    """The files that `save_pretrained` of objects writes."""
    with tempfile.TemporaryDirectory() as folder:
        for each in objects:
            each.save_pretrained(folder)
        return files_of(Path(folder))


def files_of(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Of transformers.


def of_transformers(family: str, repository: str, folder: str = "") -> Callable[[Hub], None]:
    def put_it(hub: Hub) -> None:
        if family not in FAMILIES:
            pytest.skip("the installed transformers has no such family")
        try:
            files = saved(*build(family))
        except AttributeError:  # transformers 4.49: see tiny_models
            pytest.skip("its processor cannot be saved here")
        put(hub, repository, {folder + name: content for name, content in files.items()})

    return put_it


def of_sentence_transformers(repository: str) -> Callable[[Hub], None]:
    """As sentence-transformers/clip-ViT-B-32 lies on the Hub: the model in a folder, nothing beside it."""
    modules = [
        {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    ]

    def put_it(hub: Hub) -> None:
        of_transformers("clip", repository, "0_CLIPModel/")(hub)
        put(hub, repository, {"modules.json": json.dumps(modules).encode()})

    return put_it


# Of open_clip.


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an architecture at little width. Models of timm become small by `narrow_timm`."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = WIDTH
    if "timm_model_name" not in vision:
        vision |= {"layers": 1, "width": WIDTH, "head_width": 16}
    if "hf_model_name" not in text:
        text |= {"layers": 2, "width": WIDTH, "heads": 4}
    if text.get("hf_tokenizer_name", "").startswith("timm/"):
        text["vocab_size"] = len(siglip_tokenizer())
    elif "xlm" in text.get("hf_tokenizer_name", "") and "hf_model_name" not in text:
        text["vocab_size"] = len(xlm_roberta_tokenizer())
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"layers": 1, "width": WIDTH, "heads": 4, "attn_pooler_heads": 4}
        vision["attn_pooler_heads"] = 4
    return config


def narrow_timm(create: Callable[..., Any]) -> Callable[..., Any]:
    """`timm.create_model`, of one block and little width."""

    def narrow(name: str, **kwargs: Any) -> Any:
        blocks: dict[str, Any] = {"depth": 1, "embed_dim": WIDTH, "num_heads": 4}
        if name.startswith("fastvit"):
            blocks = {"layers": (1, 1, 1, 1), "embed_dims": (16, 16, 32, WIDTH // 2)}
        elif name.startswith("convnext"):
            blocks = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, WIDTH)}
        return create(name, **kwargs, **blocks)

    return narrow


def open_clip_files(
    config: dict[str, Any], weights: str = "open_clip_model.safetensors", **preprocess: Any
) -> Files:
    """The files of a repository of open_clip: configuration and weights."""
    import open_clip

    both = {"model_cfg": config, "preprocess_cfg": preprocess}
    files = {"open_clip_config.json": json.dumps(both).encode()}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "open_clip_config.json").write_bytes(files["open_clip_config.json"])
        torch.manual_seed(0)
        state = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False).state_dict()
        state = {
            key: torch.randn_like(own) * 0.2 if key == "positional_embedding" else own
            for key, own in state.items()
        }
        if weights.endswith(".safetensors"):
            return {**files, weights: save_tensors({key: own.contiguous() for key, own in state.items()})}
        torch.save(state, Path(folder, weights))
        return {**files, weights: Path(folder, weights).read_bytes()}


def of_open_clip(architecture: str, repository: str, **kwargs: Any) -> Callable[[Hub], None]:
    def put_it(hub: Hub) -> None:
        import open_clip

        config = (
            copy.deepcopy(BIOMED_CLIP)
            if architecture == "BiomedCLIP"
            else open_clip.get_model_config(architecture)
        )
        text = config["text_cfg"]
        for key in ("hf_model_name", "hf_tokenizer_name"):  # the loopback Hub knows no short ids
            if text.get(key) == "xlm-roberta-large":
                text[key] = "FacebookAI/xlm-roberta-large"
        tokenizer = text.get("hf_tokenizer_name")
        if text.get("hf_model_name") == BIOMED_BERT:
            put(hub, BIOMED_BERT, saved(bert_tokenizer(256), _bert_config()))
        elif "hf_model_name" in text:
            put(hub, text["hf_model_name"], saved(xlm_roberta_tokenizer(77), _xlm_config()))
        elif tokenizer:
            own = siglip_tokenizer(64) if tokenizer.startswith("timm/") else xlm_roberta_tokenizer(77)
            put(hub, tokenizer, saved(own))
        put(hub, repository, open_clip_files(small(config), **kwargs))

    return put_it


def _bert_config() -> Any:
    return transformers.BertConfig(**{**BERT_TEXT, "max_position_embeddings": 256})


def _xlm_config() -> Any:
    return transformers.XLMRobertaConfig(**{**XLM_TEXT, "max_position_embeddings": 80})


_HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
_PE = {**_HALF, "interpolation": "bilinear"}
_ZERO_ONE = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"}


def hub_checkpoint(repository: str, architecture: str, maker: str, **kwargs: Any) -> Checkpoint:
    return Checkpoint(f"hf-hub:{repository}", maker, of_open_clip(architecture, repository, **kwargs))


def transformers_checkpoint(repository: str, family: str, maker: str) -> Checkpoint:
    return Checkpoint(repository, maker, of_transformers(family, repository))


CHECKPOINTS = (
    transformers_checkpoint("openai/clip-vit-base-patch32", "clip", "OpenAI"),
    transformers_checkpoint("google/siglip-base-patch16-224", "siglip", "Google"),
    transformers_checkpoint("google/siglip2-base-patch16-naflex", "siglip2", "Google"),
    transformers_checkpoint("facebook/metaclip-2-worldwide-huge-quickgelu", "metaclip_2", "Meta"),
    transformers_checkpoint("OFA-Sys/chinese-clip-vit-base-patch16", "chinese_clip", "Alibaba"),
    transformers_checkpoint("kakaobrain/align-base", "align", "Kakao"),
    Checkpoint(
        "sentence-transformers/clip-ViT-B-32",
        "UKP",
        of_sentence_transformers("sentence-transformers/clip-ViT-B-32"),
    ),
    hub_checkpoint("imageomics/bioclip", "ViT-B-16", "Imageomics", weights="open_clip_pytorch_model.bin"),
    hub_checkpoint("imageomics/bioclip-2", "ViT-L-14", "Imageomics"),
    hub_checkpoint("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "BiomedCLIP", "Microsoft"),
    hub_checkpoint("timm/PE-Core-B-16", "PE-Core-B-16", "Meta", **_PE),
    hub_checkpoint("timm/PE-Core-T-16-384", "PE-Core-T-16-384", "Meta", **_PE),
    hub_checkpoint("timm/MobileCLIP2-S0-OpenCLIP", "MobileCLIP2-S0", "Apple", **_ZERO_ONE),
    hub_checkpoint("apple/DFN2B-CLIP-ViT-B-16", "ViT-B-16-quickgelu", "Apple"),
    hub_checkpoint("apple/DFN5B-CLIP-ViT-H-14-378", "ViT-H-14-378-quickgelu", "Apple"),
    hub_checkpoint("timm/ViT-B-16-SigLIP", "ViT-B-16-SigLIP", "Google", **_HALF),
    hub_checkpoint("timm/ViT-B-16-SigLIP2", "ViT-B-16-SigLIP2", "Google", **_HALF),
    hub_checkpoint("timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k", "EVA02-B-16", "BAAI"),
    hub_checkpoint("laion/CLIP-convnext_base_w-laion2B-s13B-b82K", "convnext_base_w", "LAION"),
    hub_checkpoint(
        "laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k",
        "xlm-roberta-large-ViT-H-14",
        "LAION",
    ),
    hub_checkpoint(
        "timm/vit_huge_patch14_clip_224.metaclip2_worldwide", "ViT-H-14-worldwide-quickgelu", "Meta"
    ),
    hub_checkpoint("laion/CoCa-ViT-B-32-laion2B-s13B-b90k", "coca_ViT-B-32", "LAION"),
    Checkpoint(
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "LAION",
        of_open_clip("ViT-B-32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    ),
)
