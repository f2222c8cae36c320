"""Which model is this? Every fingerprint and every key of a backbone is made here."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from s3clip.backbone.digests import settings_digest, tensors_digest
from s3clip.backbone.families import Family
from s3clip.backbone.image_transform import ImageTransform
from s3clip.backbone.tokens import Tokens
from s3clip.backbone.towers import SCALES, evaluating

SAME_BACKBONE = 0.999
"""Least cosine between the fingerprints of one backbone: dtype and device may differ, weights may not."""

_QUANTISED = 0.9
"""Least cosine at which a fingerprint that misses is said to look like a model with rounded weights."""

# Saved fingerprints hang on these texts, and on the waves below: a change makes every saved artifact foreign.
FINGERPRINT_TEXTS = ("a cat", "two red dogs", "the sea")

# What the first three do not see: capitals, digits, accents, marks and other scripts. None is longer than
# the shortest text towers read.
MORE_TEXTS = ("Boeing 747", "façade rosé", "NYC’s №5", "собака", "東京の猫", "गाय")

# Texts whose tokens alone are compared: cases, numbers, marks, accents and the scripts of the world.
_TOKEN_TEXTS = (
    *(*FINGERPRINT_TEXTS, *MORE_TEXTS),
    *("THE SEA, The Sea", "0123456789 3.14 1,000", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", "it's a re-entry"),
    *("naïve Ångström coöperate", "Straße İstanbul piñata résumé", "Việt Nam ﬁne", "①② ½ ℃ €", "🐈 👍🏽"),
    *("ΑΒΓ αβγ", "Привет", "שלום مرحبا", "नमस्ते สวัสดี", "中文 日本語カナ 한국어"),
)

_MOST_PROBES = 1024  # texts of a fingerprint
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The types that embeddings come in."""


class _Backbone(Protocol):
    """What is read of a `Backbone`."""

    model: nn.Module
    tokenizer: Any
    image_processor: Any
    image_inputs: tuple[str, ...]
    compiled: bool
    has_text_tower: bool
    family: Family

    @property
    def tokens(self) -> Tokens: ...
    @property
    def image_transform(self) -> Callable[..., ImageTransform]: ...
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
    """Return what tells a backbone from another: its embeddings of one fixed image and of nine fixed texts.

    The image is made by a formula at the size that the model's configuration gives (224 where it gives
    none), so it does not depend on the image processor.

    Returns:
        `"image"` (dim,) and, where texts can be encoded, `"texts"` (3, dim), `"more_texts"` (6, dim): unit
        rows, float32, on the CPU; and `"tokenizer"` (32,) uint8, a digest of the tokens of many texts and of
        those added by hand.
    """
    prints = {"image": embed_synthetic_image(backbone)}
    if backbone.has_text_tower and backbone.tokenizer is not None:
        prints["texts"] = backbone.encode_texts(FINGERPRINT_TEXTS, progress=False).cpu()
        prints["more_texts"] = backbone.encode_texts(MORE_TEXTS, progress=False).cpu()
        tokenizer = backbone.tokenizer
        added = dict(getattr(tokenizer, "get_added_vocab", dict)())
        for special in getattr(tokenizer, "all_special_tokens", ()):
            added.pop(special, None)
        digest = settings_digest(_tokens(backbone), added)
        prints["tokenizer"] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    return prints


def _tokens(backbone: _Backbone) -> list[Any]:
    given = backbone.tokens.read(list(_TOKEN_TEXTS))[0]
    return given or backbone.tokens.batch(list(_TOKEN_TEXTS), 0, torch.device("cpu"))["input_ids"].tolist()


def checked_parts(parts: dict[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Return a fingerprint that was read: embeddings as float32, a digest as it is.

    Parts of other names, of a later version, are kept: they are compared by what knows them.

    Raises:
        ValueError: another shape or type, or numbers that are not finite.
    """
    checked = {}
    shapes = {"image": (dim,), "texts": (3, dim), "more_texts": (6, dim), "tokenizer": (32,)}
    for part, value in parts.items():
        is_digest = part == "tokenizer" or (value.dtype == torch.uint8 and part not in shapes)
        shape = shapes.get(part, value.shape[:1] if is_digest else (*value.shape[:-1][:1], dim))
        fits = tuple(value.shape) == tuple(shape) and 0 < value.numel() <= _MOST_PROBES * dim
        dtypes = (torch.uint8,) if is_digest else FLOATS
        if not fits or value.dtype not in dtypes or not bool(torch.isfinite(value).all()):
            found = f"{tuple(value.shape)} {value.dtype}"
            raise ValueError(f"fingerprint.{part}: expected finite {tuple(shape)}, got {found}")
        checked[part] = value if is_digest else value.float()
    return checked


def check_fingerprint(saved: dict[str, Tensor], found: dict[str, Tensor], folder: str) -> None:
    """Compare the fingerprint of an artifact with that of a backbone, in the parts that both have.

    Warns where all embeddings agree and the tokenizer reads other texts otherwise: what was encoded holds,
    what will be added may not.

    Raises:
        ValueError: another backbone made the artifact.
    """
    for part in ("image", "texts", "more_texts"):
        if part not in saved or part not in found:
            continue
        if saved[part].shape[-1] != found[part].shape[-1]:
            raise ValueError(
                f"{folder}: made with a backbone of dimension {saved[part].shape[-1]}, this one has "
                f"{found[part].shape[-1]}; give the backbone it names, or fit the classes again"
            )
        cosine = torch.cosine_similarity(saved[part], found[part], dim=-1).min().item()
        if not cosine >= SAME_BACKBONE:
            # Rounding to 8 or 4 bits moves an embedding so far; another model is nowhere near.
            near = "; so near, it may be the same one quantised" if cosine >= _QUANTISED else ""
            raise ValueError(
                f"{folder}: made with another backbone: the {part} fingerprints agree to a cosine of "
                f"{cosine:.4f} only (at least {SAME_BACKBONE} expected){near}; give the backbone it names, "
                f"or fit the classes again"
            )
    read, reads = saved.get("tokenizer"), found.get("tokenizer")
    if read is not None and reads is not None and not torch.equal(read, reads):
        warnings.warn(
            f"{folder}: made with a tokenizer that reads some texts otherwise than this one, though those of "
            f"the fingerprint agree; classes that are added may not fit, so fit them all again",
            stacklevel=3,
        )


def text_key(backbone: _Backbone) -> bytes:
    """Return 32 bytes by which a cache of texts tells backbones apart.

    They are a digest of all that a text's embedding is computed from: every weight that is not of the image
    side alone, the configuration, the tokenizer and its settings, the length of texts; and of the bits of
    three embeddings, which show what else changes them: dtype, device and kernels by their rounding, hooks
    and adapters. It is made anew for every fit: see `tensors_digest`.
    """
    embeddings = backbone.encode_texts(FINGERPRINT_TEXTS, progress=False).cpu()
    tokenizer = backbone.tokenizer
    return settings_digest(
        _side(backbone, (*backbone.family.image_side, *SCALES), ("vision_config", "image_config")),
        embeddings,
        tokenizer,
        None if hasattr(tokenizer, "backend_tokenizer") else _tokens(backbone),
        (backbone.text_length, backbone.tokens.padding, backbone.tokens.inputs, str(backbone.dtype)),
    )


def image_key(backbone: _Backbone) -> str:
    """Return 64 hex digits by which caches of image embeddings tell backbones apart.

    They are made of every weight that is not of the text side alone, the configuration, and what the image
    processor is; the dtype, and whether torch.compile makes the code, are among them. Unlike bits of an
    embedding they do not depend on the device or on how many threads compute.
    """
    processor = backbone.image_processor
    shown = None
    if processor is not None and backbone.family.is_open_clip:
        shown = backbone.image_transform()([_probe_image(64, 48), _probe_image(211, 307)])
    side = _side(backbone, (*backbone.family.text_side, *SCALES), ("text_config",))
    compiled = ("compiled",) if backbone.compiled else ()  # which rounds otherwise
    return settings_digest(side, str(backbone.dtype), processor, shown, *compiled).hex()


def _side(backbone: _Backbone, other: tuple[str, ...], other_configs: tuple[str, ...]) -> bytes:
    """Return the digest of the weights and settings of a model but for those of the other side."""
    model = backbone.model
    state = {**dict(model.named_buffers()), **model.state_dict()}
    own = {name: value for name, value in state.items() if name.split(".", 1)[0] not in other}
    tensors = [(name, value) for name, value in own.items() if isinstance(value, Tensor)]
    rest = {name: value for name, value in own.items() if not isinstance(value, Tensor)}
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    settings = {key: value for key, value in settings.items() if key not in other_configs}
    return settings_digest(type(model), tensors_digest(tensors), rest, settings)


def _probe_image(width: int, height: int) -> Image.Image:
    pixels = _waves(3, height, width).sigmoid().mul(255).byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def embed_synthetic_image(backbone: _Backbone) -> Tensor:
    """Return the embedding of the image of waves: (dim,) in float32 on the CPU."""
    inputs = synthetic_image_inputs(backbone.model, patches="spatial_shapes" in backbone.image_inputs)
    inputs = {key: value.to(backbone.device) for key, value in inputs.items()}
    exact = torch.autocast(backbone.device.type, enabled=False)
    with torch.no_grad(), exact, evaluating(backbone.model):
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
