"""Which images to label next: those the head is unsure of, and that are unlike each other."""

from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import whole_number
from s3clip.class_space import Examples
from s3clip.prediction.batches import embedded_batches
from s3clip.prediction.few_shot import TeachableHead

_SAME = 1e-6
"""Of 1 - cosine: nearer images are copies of each other."""


@torch.no_grad()
def suggest(
    head: TeachableHead,
    images: Any = None,
    n: int = 20,
    *,
    image_embeds: Tensor | None = None,
    batch_size: int = 32,
) -> list[int]:
    """Return which images are the most useful to label for `fit_few_shot`, the most useful first.

    One after the other: the largest product of how unsure the head is of an image (1 less the margin between
    its two best probabilities), of how far it lies from those chosen before and from the head's labelled
    images (1 - cosine, about the mean of all), and of one over the square root of how many images the head
    takes for the same class, so that rare classes are seen. (A margin with the greedy k-centre of Sener and
    Savarese, ICLR 2018.) Nothing is random.

    Args:
        head: a fitted head.
        images: as for `predict`, some hundreds or more.
        n: how many.
        image_embeds: (images, dim) embeddings instead.
        batch_size: images per call of the image tower.

    Returns:
        Positions among the images; fewer than `n` where the others are copies of those, of labelled images,
        or no readable images, which a warning names.

    Raises:
        ValueError: `n` below 1; else as for `predict`.
    """
    n = whole_number(n, "n")
    calibration = head.current_calibration
    places: list[int] = []
    embeds, unsure, taken_for = [], [], []
    first = 0
    for batch in embedded_batches(head, images, image_embeds, batch_size, skip_broken=True):
        places += [first + i for i, is_readable in enumerate(batch.readable) if is_readable]
        first += len(batch.readable)
        best = calibration.scaled(batch.logits).softmax(1).topk(min(2, batch.logits.shape[1]), dim=1)
        margin = best.values[:, 0] - best.values[:, 1] if best.values.shape[1] > 1 else best.values[:, 0] - 1
        unsure.append(1 - margin)
        taken_for.append(best.indices[:, 0])
        embeds.append(batch.embeds.float())
    if not places:
        raise ValueError("images: expected images to choose from, got none that can be read")
    points, labelled = torch.cat(embeds), head.class_space.few_shot
    mean = points.mean(0)
    points = _directions(points - mean)
    nearest = points.new_ones(len(points))
    if isinstance(labelled, Examples):
        for part in _directions(labelled.embeds.to(points) - mean).split(1024):
            nearest = torch.minimum(nearest, 1 - (points @ part.T).amax(1))
    classes = torch.cat(taken_for)
    useful = torch.cat(unsure) / torch.bincount(classes)[classes].sqrt()
    chosen: list[int] = []
    while len(chosen) < n:
        worth = torch.where(nearest > _SAME, useful * nearest, -1.0)
        at = int(worth.argmax())
        if worth[at] < 0:
            break
        chosen.append(at)
        nearest = torch.minimum(nearest, 1 - points @ points[at])
    return [places[at] for at in chosen]


def _directions(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points, dim=1)
