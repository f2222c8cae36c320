"""Which model is this? Every fingerprint and every key of a backbone is made here."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from s3clip.backbone.towers import evaluating

SAME_BACKBONE = 0.999
"""Least cosine between the fingerprints of one backbone: dtype and device may differ, weights may not."""

# Saved fingerprints hang on these texts, and on the waves below: a change makes every saved artifact foreign.
FINGERPRINT_TEXTS = ("a cat", "two red dogs", "the sea")


class _Backbone(Protocol):
    """What is read of a `Backbone`."""

    model: nn.Module
    tokenizer: Any
    image_processor: Any
    image_inputs: tuple[str, ...]
    has_text_tower: bool

    @property
    def encode_texts(self) -> Callable[..., Tensor]: ...
    @property
    def encode_images(self) -> Callable[..., Tensor]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def text_length(self) -> int: ...


def fingerprint(backbone: _Backbone) -> dict[str, Tensor]:
    """Return embeddings that tell a backbone from another: of one fixed image and of three fixed texts.

    The image is made by a formula at the size that the model's configuration gives (224 where it gives
    none), so it does not depend on the image processor.

    Returns:
        `"image"` (dim,) and, where texts can be encoded, `"texts"` (3, dim): unit rows, float32, on the CPU.
    """
    prints = {"image": embed_synthetic_image(backbone)}
    if backbone.has_text_tower and backbone.tokenizer is not None:
        prints["texts"] = backbone.encode_texts(FINGERPRINT_TEXTS, progress=False).cpu()
    return prints


def check_fingerprint(saved: dict[str, Tensor], found: dict[str, Tensor], folder: str) -> None:
    """Compare the fingerprint of an artifact with that of a backbone; texts only where both have them.

    Raises:
        ValueError: another backbone made the artifact.
    """
    for part in saved.keys() & found.keys():
        if saved[part].shape[-1] != found[part].shape[-1]:
            raise ValueError(
                f"{folder}: made with a backbone of dimension {saved[part].shape[-1]}, this one has "
                f"{found[part].shape[-1]}; give the backbone it names, or fit the classes again"
            )
        cosine = torch.cosine_similarity(saved[part], found[part], dim=-1).min().item()
        if not cosine >= SAME_BACKBONE:
            raise ValueError(
                f"{folder}: made with another backbone: the {part} fingerprints agree to a cosine of "
                f"{cosine:.4f} only (at least {SAME_BACKBONE} expected); give the backbone it names, or fit "
                f"the classes again"
            )


def text_key(backbone: _Backbone) -> bytes:
    """Return 32 bytes by which a cache of texts tells backbones apart.

    They are a digest of the bits of the embeddings of three texts and of the tokenizer's class, size and
    length and the dtype: equal for two backbones whose difference shows in none of these.
    """
    texts = backbone.encode_texts(FINGERPRINT_TEXTS, progress=False).cpu().numpy()
    tokenizer = backbone.tokenizer
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else None
    facts = (type(tokenizer).__name__, size, backbone.text_length, str(backbone.dtype))
    return hashlib.blake2b(texts.tobytes() + repr(facts).encode(), digest_size=32).digest()


def image_key(backbone: _Backbone, text_side: tuple[str, ...]) -> str:
    """Return 64 hex digits by which caches of image embeddings tell backbones apart.

    They are made of the weights but for those of the text side, their type, and the settings of the image
    processor. Unlike bits of an embedding they do not depend on the device or on how many threads compute.
    """
    digest = hashlib.sha256(repr((type(backbone.model).__name__, str(backbone.dtype))).encode())
    for name, value in sorted(backbone.model.state_dict().items()):
        if name.split(".")[0] in text_side:
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    processor = backbone.image_processor
    # A function's own text holds its address, which is another in every process.
    said = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(processor))
    settings = processor.to_dict() if hasattr(processor, "to_dict") else said
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def embed_synthetic_image(backbone: _Backbone) -> Tensor:
    """Return the embedding of the image of waves: (dim,) in float32 on the CPU."""
    inputs = synthetic_image_inputs(backbone.model, patches="spatial_shapes" in backbone.image_inputs)
    inputs = {key: value.to(backbone.device) for key, value in inputs.items()}
    with torch.no_grad(), evaluating(backbone.model):
        return backbone.encode_images(**inputs)[0].float().cpu()


def synthetic_image_inputs(model: nn.Module, *, patches: bool) -> dict[str, Tensor]:
    """Return the inputs of a fixed image of waves, at the size of the model's own images.

    Args:
        model: The dual encoder; its configuration gives the size, or else its image tower.
        patches: Give (1, patches, patch size) with mask and shape, as SigLIP 2 reads them, not
            (1, channels, height, width).
    """
    config = getattr(model, "config", None)
    images: Any = getattr(config, "vision_config", None) or getattr(config, "image_config", None)
    channels = getattr(images, "num_channels", None) or 3
    if patches:
        grid, patch = math.isqrt(images.num_patches), images.patch_size
        pixels = _waves(channels, grid * patch, grid * patch).reshape(channels, grid, patch, grid, patch)
        return {
            "pixel_values": pixels.permute(1, 3, 2, 4, 0).reshape(1, grid * grid, -1),
            "pixel_attention_mask": torch.ones(1, grid * grid, dtype=torch.long),
            "spatial_shapes": torch.tensor([[grid, grid]]),
        }
    visual = getattr(model, "visual", None)
    size = (
        getattr(images, "image_size", None)
        or getattr(visual, "image_size", None)  # open_clip
        or getattr(visual, "input_resolution", None)  # OpenAI's clip
        or 224
    )
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": _waves(channels, height, width)[None]}


def _waves(channels: int, height: int, width: int) -> Tensor:
    """Return waves that differ by channel c, with x and y in [0, 1): (channels, height, width)."""
    c = torch.arange(channels, dtype=torch.float64)[:, None, None]
    y = torch.arange(height, dtype=torch.float64)[None, :, None] / height
    x = torch.arange(width, dtype=torch.float64)[None, None, :] / width
    return (torch.sin(2 * math.pi * ((c + 1) * x + (c + 2) * y)) + torch.cos(2 * math.pi * x * y)).float()
