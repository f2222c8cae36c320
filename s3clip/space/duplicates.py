"""Which texts of a class are one: those whose embeddings are the same up to rounding, or linked by such."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.space.edges import CHUNK_NUMBERS, LARGEST_MATRIX, equal_sizes, spanning_trees
from s3clip.space.rips import components, untold

SAME_TEXT = math.sqrt(2e-6)
"""Chordal distance up to which two texts are one point: cos >= 1 - 1e-6."""

CLOSE = 2 * SAME_TEXT
"""Texts that are further apart than this need no look at whether they are one."""


def merge_duplicates(unit: Tensor, owners: Tensor, progress: Callable[[int], object] = untold) -> Tensor:
    """Return for each row the row that stands for it, whatever the order of the texts.

    The own name stands for what equals it; among others, the one nearest to the own name.
    """
    stands_for = torch.arange(len(owners), device=owners.device)
    for _, rows in equal_sizes(owners, unit.shape[1]):
        points = unit[rows]
        # A cheap look first: most classes have no two texts as close as this. What is decided by products is
        # decided in float64: switches of the whole process (TF32, bfloat16) change those of float32.
        points = points.double()
        if len(rows) == 1 and rows.shape[1] ** 2 > LARGEST_MATRIX:
            alone = alone_texts(points[0], progress)
            alone[0] = False  # the own name says which of them stands for the others
            rows = rows[:, ~alone]
        else:
            pairs = (points @ points.mT > 1 - CLOSE**2 / 2).sum((1, 2))
            rows = rows[pairs > rows.shape[1]]
            progress(points[:, :, 0].numel())
        if rows.shape[1] == 1 or not len(rows):
            continue
        tree, to_name = spanning_trees(unit, torch.ones_like(unit[:, 0]), rows)
        labels = components(tree, to_name.new_full((len(rows),), SAME_TEXT))
        nearest = torch.full_like(to_name, torch.inf).scatter_reduce(-1, labels, to_name, "amin")
        is_first = to_name == nearest.gather(-1, labels)
        position = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
        first = torch.full_like(position, rows.shape[1]).scatter_reduce(
            -1, labels, torch.where(is_first, position, rows.shape[1]), "amin"
        )
        stands_for[rows] = rows.gather(-1, first.gather(-1, labels))
    return stands_for


def alone_texts(points: Tensor, progress: Callable[[int], object]) -> Tensor:
    """Return which of (n, dim) unit vectors have no other within `CLOSE`.

    Along any direction two vectors are no further apart than they are: those that are sorted along one are
    compared with their surroundings only.
    """
    seen = points - points.mean(0)
    direction = normalize(seen.T @ (seen @ seen[seen.norm(dim=1).argmax()]), dim=0)
    along, order = (points @ direction).sort()
    ends = torch.searchsorted(along, along + CLOSE, right=True)
    alone = torch.empty_like(order, dtype=torch.bool)
    first = torch.searchsorted(along, along - CLOSE)
    step = max(1, CHUNK_NUMBERS // len(points))
    for start in range(0, len(points), step):
        rows = order[start : start + step]
        others = order[first[start] : ends[start : start + step][-1]]
        close = points[rows] @ points[others].T > 1 - CLOSE**2 / 2
        alone[rows] = close.sum(1) == 1  # itself
        progress(len(rows))
    return alone
