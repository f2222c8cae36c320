"""Labels that the other images contradict."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s3clip.class_space.examples import NONE_OF_THESE, copies
from s3clip.prediction.batches import all_logits
from s3clip.prediction.calibrating import best_temperature
from s3clip.prediction.few_shot import TeachableHead, label_positions
from s3clip.space.residual import basis
from s3clip.space.strength import choose, fold_of, held_out

WRONG = 0.05
"""The share of labels that are taken to be wrong, and then any class's, before an image is looked at."""


@dataclass(frozen=True)
class LabelDoubt:
    """An image whose label the other images contradict.

    Attributes:
        image: its position among those given.
        given: the position of the class that it is labelled with.
        likely: of the class that it seems to show.
        wrong: the probability that the label is wrong, in [0, 1], as learned without this image.
    """

    image: int
    given: int
    likely: int
    wrong: float


@torch.no_grad()
def check_labels(
    head: TeachableHead,
    images: Any = None,
    labels: Any = None,
    *,
    image_embeds: Tensor | None = None,
    batch_size: int = 32,
) -> list[LabelDoubt]:
    """Return the images whose label is contradicted by the words and the other labelled images.

    Each image is asked by what `fit_few_shot` would learn without it and its copies, ten parts in turn. The
    class it is labelled with has a probability of p; by Bayes' rule the label is wrong with a probability of
    w / (w + (1 - WRONG) p), where w = WRONG / classes. Those above a half are listed. (The confident learning
    of Northcutt et al., JAIR 2021, with its thresholds, one a class, found less here.) The head stays as it
    is; labelled images that it has count for nothing.

    Args:
        head: a fitted head.
        images: as for `predict`.
        labels: as for `fit_few_shot`; images with None, of no class, are not asked.
        image_embeds: (images, dim) embeddings instead.
        batch_size: images per call of the image tower.

    Returns:
        The doubtful ones, the most likely wrong first.

    Raises:
        ValueError, TypeError: see `fit_few_shot`.

    Examples:
        >>> wrong = [1, *labels[1:200]]  # the first shows another digit
        >>> head.check_labels(images[:200], wrong)[0].image
        0
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    positions = torch.tensor(label_positions(labels, head.classes), dtype=torch.int64, device="cpu")
    embeds = all_logits(head, images, image_embeds, batch_size)[1]
    if len(embeds) != len(positions):
        raise ValueError(f"labels: expected one for each of {len(embeds)} images, got {len(positions)}")
    asked = (positions != NONE_OF_THESE).nonzero()[:, 0]
    own, embeds = positions[asked], embeds[asked.to(embeds.device)]
    if len(own.unique()) < 2:
        raise ValueError("labels: expected images of two or more classes, to compare them")
    with torch.autocast(embeds.device.type, enabled=False):
        parts = [head.folded.logits(part, head.logit_scale) for part in embeds.split(1024)]
        logits = _held_out(torch.cat(parts).cpu().double(), embeds.cpu().double(), own)
    temperature = best_temperature(logits.numpy(), own.numpy(), WRONG)
    logs = (logits / temperature).log_softmax(1).gather(1, own[:, None])[:, 0]
    by_chance = math.log(WRONG / (1 - WRONG) / logits.shape[1])
    order = logs.argsort(stable=True)
    likely = logits.argmax(1)
    return [
        LabelDoubt(int(asked[i]), int(own[i]), int(likely[i]), 1 / (1 + math.exp(float(logs[i]) - by_chance)))
        for i in order[(logs[order] < by_chance) & (likely[order] != own[order])].tolist()
    ]


def _held_out(logits: Tensor, embeds: Tensor, labels: Tensor) -> Tensor:
    """Return (images, classes) logits with a residual that was learned without the image."""
    found, groups = basis(embeds), copies(embeds.half())
    strength = choose(found, logits, labels, groups).strength
    if strength is None:
        return logits
    folds, taught = fold_of(labels, groups), logits.clone()
    for out, _, added in held_out(found, logits, labels, folds, [strength]):
        taught[out] += added
    return taught
