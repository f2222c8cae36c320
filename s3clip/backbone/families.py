"""What differs between families of dual encoders: one table, and the small functions that it names.

A new family is a new row. A family without one is read as CLIP is: most differences (what the towers read,
how the scale is called, how wide the space is) show in the model itself, see `towers.py`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from s3clip.backbone.tokens import FunctionTokens, Tokens
from s3clip.backbone.towers import IMAGE_TOWERS, image_tower, is_offloaded, looks_untrained


def joint_embedding(output: Any) -> Tensor:
    """Return the embedding in what a `get_*_features` method gave: (batch, width).

    transformers 4 gives a tensor, 5 an object with the embedding in `pooler_output`, or a tuple with it in
    second place where the configuration asks for tuples. FLAVA embeds every token; the first stands for the
    whole.
    """
    if not torch.is_tensor(output):
        output = output[1] if isinstance(output, tuple) else output.pooler_output
    embedding: Tensor = output[:, 0] if output.ndim == 3 else output
    return embedding


def _image_features(model: Any, pixel_values: Tensor, **inputs: Any) -> Tensor:
    return joint_embedding(model.get_image_features(pixel_values=pixel_values, **inputs))


def _text_features(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return joint_embedding(model.get_text_features(**inputs))


def _first_state_projected(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Transformers 4.57 projects a pooled output that Chinese-CLIP's text tower does not have (PR #42351)."""
    features: Tensor = model.text_projection(model.text_model(**inputs)[0][:, 0])
    return features


def _beside_a_padded_row(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Encode texts together with a copy of the first that ends in padding.

    AIMv2's text tower is causal, but transformers leaves the causal mask out when a batch has no padding, and
    then attends to both sides: the same text would have two embeddings. One padded row keeps the mask.
    """
    padded = inputs["attention_mask"][:1].clone()
    padded[:, -1] = 0
    more = {"input_ids": inputs["input_ids"][:1], "attention_mask": padded}
    return _text_features(model, {key: torch.cat([inputs[key], row]) for key, row in more.items()})[:-1]


def _open_clip_image_features(model: Any, pixel_values: Tensor) -> Tensor:
    features: Tensor = model.encode_image(pixel_values)
    return features


def _open_clip_text_features(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    features: Tensor = model.encode_text(inputs["input_ids"])
    return features


@dataclass(frozen=True)
class Family:
    """How the models of a family are called. The defaults are those of CLIP in transformers.

    Attributes:
        methods: what a model must have, for images and for texts.
        scales: names of the parameter that makes logits of cosines, the first that is there.
        text_side: names of all children and parameters of the model that only texts need.
        image_side: those that only images need.
        tokens: how texts become tokens.
        padding: arguments of the tokenizer that say how a batch is padded.
        text_inputs: what the text tower is given of a tokenizer's output, if its method names it.
        text_features: embeddings of tokens, not normalised: (texts, width).
        image_features: embeddings of pixels, not normalised: (images, width).
        mean: of the colours that are taken off pixels, where all checkpoints of a family agree.
        is_open_clip: whether models have open_clip's interface: the processor is a function of one image, and
            the image tower reads nothing but pixels.
    """

    methods: tuple[str, str] = ("get_image_features", "get_text_features")
    scales: tuple[str, ...] = ("logit_scale", "temperature")
    # The last three: FLAVA's multimodal encoder, which reads texts.
    text_side: tuple[str, ...] = (
        "text_model",
        "text_projection",
        "text_to_mm_projection",
        "image_to_mm_projection",
        "multimodal_model",
    )
    image_side: tuple[str, ...] = (*IMAGE_TOWERS, "visual_projection", "image_projection")
    tokens: type[Tokens] | type[FunctionTokens] = Tokens
    padding: Mapping[str, Any] = field(default_factory=lambda: {"padding": "longest"})
    text_inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    text_features: Callable[[Any, dict[str, Tensor]], Tensor] = _text_features
    image_features: Callable[..., Tensor] = _image_features
    mean: float | None = None
    is_open_clip: bool = False


CLIP = Family()

_SIGLIP = replace(
    CLIP,
    # Trained on texts padded to a fixed length, padding seen; some tokenizers give a mask all the same, and
    # it would change every embedding. A text is read off the last token of one padded on the right; its
    # tokenizers' class pads on the left where a checkpoint does not say.
    padding={"padding": "max_length", "padding_side": "right"},
    text_inputs=("input_ids",),
    mean=0.5,
)

FAMILIES = {
    "clip": CLIP,
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP,
    "chinese_clip": replace(CLIP, text_features=_first_state_projected),
    "aimv2": replace(CLIP, text_features=_beside_a_padded_row),
    # The models of open_clip and OpenAI's clip, by their methods.
    "open_clip": Family(
        methods=("encode_image", "encode_text"),
        scales=("logit_scale",),
        text_side=(
            "text",
            "text_decoder",
            "transformer",
            "token_embedding",
            "positional_embedding",
            "ln_final",
            "text_projection",
        ),
        tokens=FunctionTokens,
        text_inputs=("input_ids",),
        text_features=_open_clip_text_features,
        image_features=_open_clip_image_features,
        is_open_clip=True,
    ),
}
"""By `config.model_type`."""


def family_of(model: nn.Module) -> Family:
    """Return how a model is called, by its methods and its configuration.

    Raises:
        TypeError: it is no dual encoder.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch module, got {type(model).__name__}")
    named = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", "clip"), CLIP)
    for family in (named, FAMILIES["open_clip"]):
        has_scale = any(torch.is_tensor(getattr(model, name, None)) for name in family.scales)
        if has_scale and all(callable(getattr(model, name, None)) for name in family.methods):
            return family
    core = getattr(model, "base_model", model)
    hint = f"; its base_model, a {type(core).__name__}, may have one" if core is not model else ""
    raise TypeError(
        f"model: {type(model).__name__} has no joint space of single images and texts{hint}. Expected a dual "
        "encoder: get_image_features, get_text_features and logit_scale or temperature (CLIP, SigLIP and "
        "others of transformers), or encode_image, encode_text and logit_scale (open_clip)"
    )


def check_loaded(model: nn.Module) -> None:
    """Raise ValueError for a model whose weights, or some of them, are neither in memory nor offloaded."""
    for prefix, module in model.named_modules():
        if is_offloaded(module):  # accelerate brings its weights when it is called
            continue
        for name, weight in module.named_parameters(prefix, recurse=False):
            if weight.is_meta:
                raise ValueError(
                    f"model: the weights of {type(model).__name__} are not in memory (the first: {name!r}, "
                    "on the device meta, as init_empty_weights leaves them); load it without that"
                )


def warn_of_other_pixels(family: Family, image_processor: Any) -> None:
    """Warn where an image processor scales pixels otherwise than all models of a family read them."""
    mean = getattr(image_processor, "image_mean", None)
    if family.mean is None or not isinstance(mean, list | tuple):
        return
    # The means of CLIP and of ImageNet are nearer to each other than this, and change no answer.
    if max(abs(each - family.mean) for each in mean) > 0.02:
        warnings.warn(
            f"processor: its image_processor takes the mean {tuple(mean)} off the pixels, and all models of "
            f"this family read them less {family.mean}; is it that of another model?",
            stacklevel=3,
        )


def warn_of_untrained_texts(model: nn.Module, family: Family) -> None:
    """Warn where the text tower is as it is made, beside an image tower that is not."""
    sides = (getattr(model, name, None) for name in family.text_side)
    texts = [side for side in sides if isinstance(side, nn.Module)]
    if looks_untrained(nn.ModuleList(texts)) and looks_untrained(image_tower(model)) is False:
        warnings.warn(
            f"model: the text tower of {type(model).__name__} was never trained (all its norms are as they "
            f"are made), and its image tower was; load a checkpoint that has both",
            stacklevel=3,
        )
