"""A head whose image tower computes in the type that is asked for, or that a trial with its images finds."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.image_transform import ImageTransform
from s3clip.backbone.precision import (
    TRIAL_IMAGES,
    Trial,
    cast_images,
    check_precision,
    compile_images,
    try_precision,
)
from s3clip.images.sources import Sample, Shard, read
from s3clip.prediction.batches import AnsweringHead, opened_batches

Inputs = Callable[[], Mapping[str, Tensor]]
"""Gives the arguments of `Backbone.encode_images` for the images of a trial; none where none can be read."""


def set_precision(
    head: AnsweringHead,
    dtype: str | None,
    *,
    compiled: bool = False,
    inputs: Inputs,
    kept: Trial | None = None,
) -> Trial | None:
    """Let the image tower of a head compute in another type, or as compiled code.

    Args:
        head: fitted. Its backbone is changed in place; the text tower, the scale and the space stay.
        dtype: "float32", "bfloat16", "float16", or "auto": see `s3clip.backbone.precision.try_precision`;
            None: the model's own.
        compiled: use torch.compile.
        inputs: asked for a trial alone.
        kept: what an earlier run took, which "auto" takes without a trial.

    Returns:
        What a trial found, or was kept; None where none was asked for.

    Raises:
        ValueError: another `dtype`, a head without a backbone, or code that cannot be compiled here.
    """
    check_precision(dtype)
    if dtype is None and not compiled:
        return None
    if head.backbone is None:
        raise ValueError("dtype: this head has no image tower")
    if compiled:  # first: the code of the two types is not the same
        compile_images(head.backbone)
    if dtype != "auto":
        if dtype is not None:
            cast_images(head.backbone, dtype)
        return None
    if kept is not None:
        cast_images(head.backbone, kept.dtype)
        return kept
    found = inputs()
    if not found:
        own = str(head.backbone.dtype).removeprefix("torch.")
        return Trial(own, f"auto stays with {own}: there is no image that can be read to try it with")
    return try_precision(head.backbone, found, lambda embeds: _answers(head, embeds))


def trial_inputs(backbone: Backbone, images: Any) -> Mapping[str, Tensor]:
    """Return the arguments of `encode_images` for the first of some images, those that can be read."""
    transform = backbone.image_transform()
    with warnings.catch_warnings(action="ignore"):  # of those that cannot, the verb itself warns
        for _, _, opened in opened_batches(images, TRIAL_IMAGES, True):
            if inputs := transform(opened):
                return inputs
    return {}


def first_inputs(transform: ImageTransform, shards: Iterable[Shard]) -> Mapping[str, Tensor]:
    """Return the arguments of `encode_images` for the first pictures of shards, those that can be read.

    What cannot be reached is passed over: whoever reads all of it says so.
    """
    opening = partial(Sample.open, needed=transform.needed)
    for shard in shards:
        try:
            for batch in read([shard], opening=opening, transform=transform, batch_size=TRIAL_IMAGES):
                if batch.value is not None:
                    found: Mapping[str, Tensor] = batch.value
                    return found
        except ConnectionError:
            continue
    return {}


@torch.no_grad()
def _answers(head: AnsweringHead, embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Return (images,) the positions of the best classes, and their probabilities."""
    logits = head(image_embeds=embeds.to(head.space.raw.device)).float()
    best = logits.argmax(1)
    probabilities = head.current_calibration.probabilities(logits)
    return best, probabilities.gather(1, best[:, None])[:, 0]
