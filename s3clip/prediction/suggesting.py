"""Which images to label next: those the head is unsure of, and that are unlike each other."""

import copy
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import whole_number
from s3clip.class_space import Examples
from s3clip.prediction.batches import embedded_batches
from s3clip.prediction.few_shot import TeachableHead

_SAME = 1e-6
"""Of 1 - cosine: nearer images are copies of each other."""

_ROUNDS = 8
_AT_ONCE = 8192


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

    The images are put into `n` groups of those that lie in one direction from the mean, by k-means on the
    sphere, and of each group the image at its centre is taken. An image counts by how unsure the head is of
    it (1 less the margin between its two best probabilities), over the square root of how many images the
    head takes for the same class, so that rare classes are seen; images near a labelled one of the head
    belong to that, and are not asked for again. Centres begin at the images that count most and lie farthest
    from those before (the greedy k-centre of Sener and Savarese, ICLR 2018; the whole is near to the weighted
    k-means of Zhdanov, 2019). Nothing is random.

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

    Examples:
        >>> len(head.suggest(images, 5))
        5
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    n = whole_number(n, "n")
    places, embeds, counts = _looked_at(head, images, image_embeds, batch_size)
    mean, labelled = embeds.mean(0), head.class_space.few_shot
    points = _directions(embeds - mean)
    near_known = points.new_full((len(points),), -torch.inf)
    if isinstance(labelled, Examples):
        known = torch.nn.functional.normalize(labelled.embeds.to(points), dim=1) - mean
        near_known = _largest_cosine(points, _directions(known))[0]
    centres = _centres(points, counts, near_known, n)
    chosen: list[int] = []
    free = 1 - near_known > _SAME
    for centre in centres:
        at = int(torch.where(free, points @ centre, -torch.inf).argmax())
        if not free[at]:
            break
        chosen.append(at)
        free &= 1 - points @ points[at] > _SAME
    return [places[at] for at in chosen]


def _looked_at(
    head: TeachableHead, images: Any, image_embeds: Tensor | None, batch_size: int
) -> tuple[list[int], Tensor, Tensor]:
    """Return the positions of the images that can be read, their embeddings, and how much each counts.

    Raises:
        ValueError: none can be read.
    """
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
    found, classes = torch.cat(embeds), torch.cat(taken_for)
    return places, found, torch.cat(unsure) / torch.bincount(classes)[classes].to(found).sqrt()


def _centres(points: Tensor, counts: Tensor, near_known: Tensor, n: int) -> Tensor:
    """Return the centres of at most `n` groups of directions; those near a labelled image are in none."""
    centres = points[_spread(points, counts, near_known, n)]
    if not len(centres):  # all are copies of labelled ones
        return centres
    for _ in range(_ROUNDS):
        cosine, group = _largest_cosine(points, centres)
        own = cosine > near_known
        sums = torch.zeros_like(centres).index_add_(0, group[own], points[own] * counts[own, None])
        moved = sums.norm(dim=1, keepdim=True) > 0
        centres = torch.where(moved, _directions(sums), centres)
    return centres


def _spread(points: Tensor, counts: Tensor, near_known: Tensor, n: int) -> list[int]:
    """Return those that count most and lie farthest from the ones before: `n`, or all that are no copies."""
    chosen: list[int] = []
    nearest = (1 - near_known).clamp_max(1)
    while len(chosen) < n:
        worth = torch.where(nearest > _SAME, counts * nearest, -1.0)
        at = int(worth.argmax())
        if worth[at] < 0:
            break
        chosen.append(at)
        nearest = torch.minimum(nearest, 1 - points @ points[at])
    return chosen


def _largest_cosine(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return (points,) the cosine with the nearest of others, and which it is; the first of equal ones."""
    parts = [(part @ others.T).max(1) for part in points.split(_AT_ONCE)]
    return torch.cat([each.values for each in parts]), torch.cat([each.indices for each in parts])


def _directions(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points, dim=1)
