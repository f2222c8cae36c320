"""In which number type an image tower computes: the one that is asked for, or what a short trial finds."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.towers import SCALES, evaluating

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""What can be asked for; "auto" is a trial."""

TRIAL_IMAGES = 64
"""How many images a trial takes at most."""
LABELS = 0.995
"""The least share of images whose label has to stay."""
SCORES = 0.01
"""By how much their scores may move, on average."""

_FASTER = 1.2  # what is not faster than this is not worth another rounding
_AT_ONCE = 16  # images that are timed at once
_SQUARE = 384  # sides of the product that tells whether a processor has the type at all

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(images, dim) embeddings -> (images,) labels and (images,) scores in [0, 1]."""


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        dtype: that is taken, by its name.
        said: why, in a sentence.
    """

    dtype: str
    said: str


def check_precision(dtype: str | None) -> None:
    """Raise ValueError for what is neither None nor a `Precision`."""
    if dtype is not None and dtype not in get_args(Precision):
        raise ValueError(f"dtype: expected one of {', '.join(get_args(Precision))}, got {dtype!r}")


def cast_images(backbone: Backbone, dtype: str) -> None:
    """Let the image tower of a backbone compute in another type; its text tower and its scale stay.

    Kernels of convolutions lie by channel then, as GPUs read them.
    """
    for owner, name, value in _image_tensors(backbone):
        _put(owner, name, value.to(getattr(torch, dtype)))
    for part in _image_parts(backbone):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_images(backbone: Backbone) -> None:
    """Let torch.compile make the image tower's code, when images are encoded for the first time.

    Raises:
        ValueError: it cannot here, as where there is no C++ compiler.
    """
    try:
        _probe(backbone.device)
    except Exception as error:  # of many kinds, most of them of its own
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"compile: torch.compile does not work here: {said}") from error
    backbone.compiled = True


def try_precision(backbone: Backbone, inputs: Mapping[str, Tensor], answer: Answer) -> Trial:
    """Cast the image tower to the type that this device is fastest in, if that changes hardly an answer.

    Tried are those that processors have units for: on GPUs and MPS float16, and bfloat16 where there is
    that; on a CPU those whose products are faster (AMX, AVX512-BF16, AVX512-FP16 and the like). A model that
    is not in float32 stays what it is.

    Args:
        backbone: changed in place where another type is taken.
        inputs: of `Backbone.encode_images`, for `TRIAL_IMAGES` images; of more, the first are taken.
        answer: what is made of embeddings.

    Returns:
        What was taken, and by how much labels and scores moved.
    """
    own = str(backbone.dtype).removeprefix("torch.")
    wanted = _candidates(backbone.device) if own == "float32" else []
    if not wanted:
        why = "the type of the model" if own != "float32" else f"{backbone.device} has no faster one"
        return Trial(own, f"auto stays with {own}: {why}")
    placed = backbone.placed({key: value[:TRIAL_IMAGES] for key, value in inputs.items()})
    kept = _image_tensors(backbone)
    labels, scores, seconds = _tried(backbone, placed, answer)
    taken, fastest, found = own, _FASTER, []
    for name in wanted:
        cast_images(backbone, name)
        new_labels, new_scores, new_seconds = _tried(backbone, placed, answer)
        for owner, part, value in kept:
            _put(owner, part, value)
        share = (labels == new_labels).double().mean().item()
        moved = (scores - new_scores).abs().double()
        faster = seconds / new_seconds
        found.append(
            f"{name} is {faster:.2f} x as fast as {own} here; of {len(labels)} images {share:.1%} keep their "
            f"label, and scores move by {moved.mean().item():.4f}, {moved.max().item():.4f} at most"
        )
        if faster >= fastest and share >= LABELS and moved.mean().item() <= SCORES:
            taken, fastest = name, faster
    said = "; ".join(found)
    if taken == own:
        return Trial(own, f"auto stays with {own}: {said}")
    cast_images(backbone, taken)
    return Trial(taken, f"auto takes {taken}: {said}")


def _tried(backbone: Backbone, inputs: Mapping[str, Tensor], answer: Answer) -> tuple[Tensor, Tensor, float]:
    """Return labels, scores and the least seconds that some of the images took, each."""
    count, embeds, seconds = len(inputs["pixel_values"]), [], []
    with torch.inference_mode(), evaluating(backbone.model):
        backbone.encode_images(**{key: value[:_AT_ONCE] for key, value in inputs.items()})  # warms up
        for start in range(0, count, _AT_ONCE):
            some = {key: value[start : start + _AT_ONCE] for key, value in inputs.items()}
            begun = time.perf_counter()
            embeds.append(backbone.encode_images(**some).float().cpu())  # waits for the device
            seconds.append((time.perf_counter() - begun) / len(embeds[-1]))
        labels, scores = answer(torch.cat(embeds).to(backbone.device))
    return labels.cpu(), scores.cpu(), min(seconds)


def _candidates(device: torch.device) -> list[str]:
    """Return the types that a device may be faster in than in float32."""
    if device.type == "cuda":
        return ["float16", *(["bfloat16"] if torch.cuda.is_bf16_supported(including_emulation=False) else [])]
    if device.type == "mps":
        return ["float16"]
    seconds: dict[str, float] = {}
    for name in ("float32", "float16", "bfloat16") * 3:
        square = torch.ones(_SQUARE, _SQUARE, device=device, dtype=getattr(torch, name))
        begun = time.perf_counter()
        square @ square
        seconds[name] = min(seconds.get(name, torch.inf), time.perf_counter() - begun)
    return [name for name in ("float16", "bfloat16") if seconds["float32"] > _FASTER * seconds[name]]


def _image_parts(backbone: Backbone) -> list[nn.Module]:
    text_side = backbone.family.text_side
    return [part for name, part in backbone.model.named_children() if name not in text_side]


def _image_tensors(backbone: Backbone) -> list[tuple[nn.Module, str, Tensor]]:
    """Return the floating-point parameters and buffers that are not of the text side, each with its owner."""
    model, left = backbone.model, (*backbone.family.text_side, *SCALES)
    owners = [module for part in _image_parts(backbone) for module in part.modules()]
    found = []
    for owner in (model, *owners):
        for name, value in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)):
            if value.is_floating_point() and not (owner is model and name in left):
                found.append((owner, name, value.data))
    return found


def _put(owner: nn.Module, name: str, value: Tensor) -> None:
    tensor: Any = getattr(owner, name)
    tensor.data = value


@cache
def _probe(device: torch.device) -> None:
    """Compile next to nothing."""
    compiled: Any = torch.compile(nn.Linear(2, 2).to(device))
    with torch.no_grad():
        compiled(torch.ones(2, 2, device=device))
