"""Edges between the texts of a class, and the trees of many classes at once, in bounded memory."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from s3clip.space.rips import (
    SpanningTree,
    chordal_distances,
    minimum_spanning_tree,
    normalized,
    spanning_tree_of_points,
    untold,
)

CHUNK_NUMBERS = 2**20
"""About how many float64 numbers (8 MiB) of points or distances are held at once while building."""

LARGEST_MATRIX = 2**24
"""Classes whose (n, n) distances are more numbers than this (128 MiB in float64, n > 4,096) go without."""


def edge_lengths(points: Tensor, margins: Tensor) -> Tensor:
    """Return the filtration value of every edge: its chordal length, measured by the margins of its ends.

    Args:
        points: (..., n, dim).
        margins: (..., n), 1 for plain lengths.

    Returns:
        (..., n, n) float64.
    """
    size = margins.double().sqrt()
    return chordal_distances(points, torch.float64).div_(size[..., :, None] * size[..., None, :])


def spanning_trees(
    points: Tensor, margins: Tensor, rows: Tensor, progress: Callable[[int], object] = untold
) -> tuple[SpanningTree, Tensor]:
    """Return the minimum spanning trees of some rows of a table, and the lengths of their edges to point 0.

    The more classes walk together, the less a step costs each, so that not their points but their distances
    alone are held for all of them.

    Args:
        points: (texts, dim).
        margins: (texts,).
        rows: (c, n) int64.
        progress: called with how many of them are done.

    Returns:
        The trees, and (c, n) lengths.
    """
    if rows.shape[1] ** 2 > LARGEST_MATRIX:
        own, sizes = points[rows], margins[rows]
        return spanning_tree_of_points(own, sizes, progress), edge_lengths_to_first(own, sizes)
    lengths = points.new_empty(*rows.shape, rows.shape[1], dtype=torch.float64)
    step = max(1, CHUNK_NUMBERS // (rows.shape[1] * points.shape[1]))
    for part, some in zip(lengths.split(step), rows.split(step), strict=True):
        part.copy_(edge_lengths(points[some], margins[some]))
    tree = minimum_spanning_tree(lengths)
    progress(rows.numel())
    return tree, lengths[:, 0]


def edge_lengths_to_first(points: Tensor, margins: Tensor) -> Tensor:
    """Return (c, n) the first row of `edge_lengths` of (c, n, dim) points and (c, n) margins."""
    exact, size = normalized(points), margins.double().sqrt()
    lengths = (2 - 2 * (exact @ exact[:, 0, :, None])[..., 0]).clamp_min(0).sqrt()
    lengths[:, 0] = 0
    return lengths / (size * size[:, :1])


def equal_sizes(owners: Tensor, dim: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield classes with equal numbers of rows together: (classes (c,), row positions (c, n)).

    Grouping needs no padding, and there are at most sqrt(2 * rows) different sizes. Groups are cut so that
    neither their points nor their distances pass `CHUNK_NUMBERS`.
    """
    counts = torch.bincount(owners)
    starts = counts.cumsum(0) - counts
    for size in counts.unique().tolist():
        group = torch.nonzero(counts == size)[:, 0]
        for chunk in group.split(max(1, CHUNK_NUMBERS // (size * max(size, dim)))):
            yield chunk, starts[chunk][:, None] + torch.arange(size, device=owners.device)
