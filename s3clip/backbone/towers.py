"""What a dual encoder says of itself: its towers, what they read, how wide its space is."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# What an image tower may read beside the pixels.
_PATCH_INPUTS = ("pixel_attention_mask", "spatial_shapes")
_INTERPOLATION = "interpolate_pos_encoding"
SCALES = ("logit_scale", "logit_bias", "temperature")
"""They change logits, and no embedding."""
IMAGE_TOWERS = ("vision_model", "image_model", "visual")


def image_tower(model: nn.Module) -> nn.Module:
    """Return the image tower of a dual encoder, or the whole model where it has no usual name."""
    towers = (getattr(model, name, None) for name in IMAGE_TOWERS)
    return next((tower for tower in towers if isinstance(tower, nn.Module)), model)


def drop_text_side(model: nn.Module, names: tuple[str, ...]) -> None:
    """Set to None those children and parameters of a model that are called so.

    Raises:
        ValueError: there are none, or no image tower that stands beside them, or they cannot be taken out.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "drop_text_tower: nothing can be taken out of a TorchScript model; give the one it was made of"
        )
    own = [*model.named_children(), *model.named_parameters(recurse=False)]
    present = [name for name, _ in own if name in names]
    if not present or image_tower(model) is model:
        raise ValueError(
            f"drop_text_tower: {type(model).__name__} has no text and image towers that can be told "
            f"apart; expected an image tower named one of {IMAGE_TOWERS} and a text side among {names}"
        )
    for name in present:
        setattr(model, name, None)


def accepted_image_inputs(model: Any) -> tuple[str, ...]:
    """Return what the image tower of a model of transformers reads beside the pixels.

    Whether it interpolates positions, `get_image_features` alone does not say: in transformers 5 it passes
    on whatever it is given, at which some towers fail (GroupViT); AIMv2 names it, and its tower fails.
    """
    method = inspect.signature(model.get_image_features).parameters
    accepted = [name for name in _PATCH_INPUTS if name in method]
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in method.values())
    tower = inspect.signature(image_tower(model).forward).parameters
    if _INTERPOLATION in tower and (passes_on or _INTERPOLATION in method):
        accepted.append(_INTERPOLATION)
    return tuple(accepted)


def accepted_text_inputs(method: Callable[..., Any], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return `input_ids` and what else of the wanted a method that encodes texts names."""
    named = inspect.signature(method).parameters
    return tuple(name for name in wanted if name == "input_ids" or name in named)


def pixel_weight_name(model: nn.Module) -> str:
    """Return the name of the parameter that meets the pixels: of those with most dimensions the first.

    That is a convolution's kernel. Others may have another dtype: open_clip keeps layer norms and scales in
    float32.
    """
    weights = {id(p): p.ndim for p in image_tower(model).parameters() if p.is_floating_point()}
    names = {name: weights[id(p)] for name, p in model.named_parameters() if id(p) in weights}
    if not names:
        raise TypeError(f"model: {type(model).__name__} has no floating-point parameters in its image tower")
    return max(names, key=lambda name: names[name])


def weight_of(model: Any, name: str) -> Tensor:
    """Return the parameter of a dotted name. Not by `get_parameter`, which TorchScript has not."""
    found: Any = model
    for part in name.split("."):
        found = getattr(found, part)
    weight: Tensor = found
    return weight


def execution_device(model: Any, name: str) -> torch.device:
    """Return the device that a weight computes on: its own, or where a hook of accelerate brings it."""
    device = weight_of(model, name).device
    if device.type != "meta":
        return device
    *owner, _ = name.split(".")
    modules = [model]
    for part in owner:
        modules.append(getattr(modules[-1], part))
    on = (getattr(_hook(module), "execution_device", None) for module in reversed(modules))
    return torch.device(next((each for each in on if each is not None), device))


def is_offloaded(module: nn.Module) -> bool:
    """Whether a hook of accelerate brings the weights of a module when it is called."""
    return bool(getattr(_hook(module), "offload", False))


def own_tensor(model: Any, name: str) -> Tensor:
    """Return a parameter of the model itself, read from where accelerate has put it."""
    parameter: Tensor = getattr(model, name)
    if not parameter.is_meta:
        return parameter
    kept: Tensor = _hook(model).weights_map[name]
    return kept


def _hook(module: nn.Module) -> Any:
    """Return the hook that accelerate has put on a module; of several, the one that moves weights."""
    hook: Any = getattr(module, "_hf_hook", None)
    return next((each for each in getattr(hook, "hooks", ()) if getattr(each, "offload", False)), hook)


def configured_dim(model: Any) -> int | None:
    """Return the width of the joint space by the model's configuration, None where it does not say."""
    config = getattr(model, "config", None)
    # SigLIP and TIPSv2 project nothing: the space is that of the image tower's states.
    width = getattr(config, "projection_dim", None) or getattr(
        getattr(config, "vision_config", None), "hidden_size", None
    )
    return width or getattr(getattr(model, "visual", None), "output_dim", None)


def text_positions(model: nn.Module) -> int | None:
    """Return how many positions the text tower has for tokens, None where the configuration does not say."""
    config = getattr(getattr(model, "config", None), "text_config", None)
    rows = getattr(config, "max_position_embeddings", None)
    if rows is None:
        return None
    # RoBERTa-like towers (AltCLIP) count positions from padding_idx + 1.
    text_model = getattr(model, "text_model", None)
    tables = text_model.named_modules() if isinstance(text_model, nn.Module) else ()
    for name, table in tables:
        padding = getattr(table, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return int(rows) - int(padding) - 1
    return int(rows)


def known_tokens(model: nn.Module) -> int | None:
    """Return how many rows the text tower's table of tokens has, None where no module is called so."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("token_embedding", "word_embeddings")):
            return module.num_embeddings
    return None


def looks_untrained(module: nn.Module) -> bool | None:
    """Whether all norms of a module are as they are made, weights of 1 and biases of 0; None without any."""
    norms = [own for own in module.modules() if "norm" in type(own).__name__.lower()]
    weights = [weight for norm in norms if isinstance(weight := getattr(norm, "weight", None), Tensor)]
    biases = [bias for norm in norms if isinstance(bias := getattr(norm, "bias", None), Tensor)]
    if not weights or any(weight.is_meta for weight in weights):
        return None
    return all(bool((own == 1).all()) for own in weights) and not any(bool(own.any()) for own in biases)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each module back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
