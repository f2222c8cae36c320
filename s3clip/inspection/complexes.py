"""The Rips complex of a class as something to look at: edges, spanning tree, and a place in the plane."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from s3clip.space.edges import equal_sizes
from s3clip.space.rips import minimum_spanning_tree
from s3clip.space.synonymous_space import SynonymousSpace, check_paired


@dataclass(frozen=True)
class ClassComplex:
    """The complex of one class, on its n distinct texts.

    Attributes:
        rows: (n,) int64, their rows among the texts of the class; row 0 is its own name.
        lengths: (n, n) float64, the scale from which on two texts share an edge.
        tree: (n - 1, 2) int64, the edges of the minimum spanning tree as positions in `rows`, the shortest
            first: the bars of H0 die at their lengths.
        deaths: (n - 1,) float64, their lengths.
        plane: (n, 2) float64, where to draw the texts; see `classical_scaling`.
        shown: the share of the spread of the texts that the plane shows, in [0, 1].
    """

    rows: Tensor
    lengths: Tensor
    tree: Tensor
    deaths: Tensor
    plane: Tensor
    shown: float


def class_complexes(space: SynonymousSpace, classes: Tensor) -> dict[int, ClassComplex]:
    """Return the complexes of some classes by their positions.

    Args:
        space: on the CPU.
        classes: (c,) int64 ascending.

    Raises:
        ValueError: a class has more texts than can be shown.
    """
    count = len(space.scales)
    first_row = torch.searchsorted(space.owners, torch.arange(count))
    sizes = torch.bincount(space.owners[space.duplicate_of.unique()], minlength=count)
    check_paired(torch.zeros_like(sizes).index_copy(0, classes, sizes[classes]), "a picture of its complex")
    found: dict[int, ClassComplex] = {}
    for group, rows in _distinct(space, classes):
        lengths = space.edge_lengths(rows)
        ends, deaths = _tree_edges(lengths)
        plane, shown = classical_scaling(lengths)
        for i, index in enumerate(group.tolist()):
            found[index] = ClassComplex(
                rows[i] - first_row[index], lengths[i], ends[i], deaths[i], plane[i], float(shown[i])
            )
    return found


class Joining(NamedTuple):
    """When a text comes to the component that is kept.

    Attributes:
        distance: the least scale at which they are one component.
        enough: that scale to two decimals, upwards, where what is kept is the largest component there too.
    """

    distance: float
    enough: float | None


def joinings(space: SynonymousSpace, classes: Tensor) -> dict[int, Joining]:
    """Return by its row when each text that a scale rule dropped joins those that are kept.

    Args:
        space: on the CPU.
        classes: (c,) int64 ascending, whose texts.
    """
    kept = torch.zeros(len(space.owners), dtype=torch.bool)
    kept[space.kept] = True
    found: dict[int, Joining] = {}
    for _, rows in _distinct(space, classes):
        rows = rows[~kept[rows].all(1)]
        if not len(rows):
            continue
        order, lengths = space.trees(rows)
        walks = rows.gather(1, order)
        for walk, steps, held in zip(walks.tolist(), lengths.tolist(), kept[walks].tolist(), strict=True):
            found |= {row: each for row, each in zip(walk, _joined(steps, held), strict=True) if each}
    return found


def _joined(lengths: list[float], kept: list[bool]) -> list[Joining | None]:
    """Return when each text joins those that are kept; None for these.

    At every scale the components are runs of the walk, split where its edges pass the scale.

    Args:
        lengths: of the n - 1 edges of a walk.
        kept: whether each of the n texts is kept.
    """
    after = _widest(lengths, kept)
    before = _widest(lengths[::-1], kept[::-1])[::-1]
    distances = [min(pair) for pair in zip(after, before, strict=True)]
    enough = [math.ceil(100 * distance) / 100 for distance in distances]
    largest: dict[float, list[bool]] = {}
    for scale in {each for each, held in zip(enough, kept, strict=True) if not held}:
        labels = [0, *accumulate(int(length > scale) for length in lengths)]
        sizes = Counter(labels)
        largest[scale] = [sizes[label] == max(sizes.values()) for label in labels]
    return [
        None if held else Joining(distance, scale if largest[scale][i] else None)
        for i, (distance, scale, held) in enumerate(zip(distances, enough, kept, strict=True))
    ]


def _widest(lengths: list[float], kept: list[bool]) -> list[float]:
    """Return the longest edge between each text of a walk and the last before it that is kept."""
    found = [0.0 if kept[0] else math.inf]
    for length, held in zip(lengths, kept[1:], strict=True):
        found.append(0.0 if held else max(found[-1], length))
    return found


def _distinct(space: SynonymousSpace, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some classes (c,) with equally many distinct texts together, and the rows (c, n) of these."""
    mine = torch.zeros(len(space.scales), dtype=torch.bool)
    mine[classes] = True
    itself = space.duplicate_of == torch.arange(len(space.owners))
    distinct = torch.nonzero(itself & mine[space.owners])[:, 0]
    own = torch.searchsorted(classes, space.owners[distinct])
    for group, positions in equal_sizes(own, space.raw.shape[1]):
        yield classes[group], distinct[positions]


def _tree_edges(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (c, n - 1, 2) ends and (c, n - 1) lengths of the tree's edges, the shortest first."""
    order, reached_by = minimum_spanning_tree(lengths)
    n = order.shape[-1]
    # A point is reached from the nearest of those that the walk found before it.
    walk = lengths.gather(1, order[..., None].expand(-1, -1, n)).gather(
        2, order[:, None, :].expand(-1, n, -1)
    )
    later = torch.ones(n, n, dtype=torch.bool).triu()
    source = walk.masked_fill(later, torch.inf)[:, 1:].argmin(-1)
    ends = torch.stack([order.gather(1, source), order[:, 1:]], -1)
    by_length = reached_by.argsort(dim=-1, stable=True)
    return ends.gather(1, by_length[..., None].expand_as(ends)), reached_by.gather(1, by_length)


def classical_scaling(distances: Tensor) -> tuple[Tensor, Tensor]:
    """Place points in the plane by classical multidimensional scaling (Torgerson 1952).

    Of distances between vectors these are their first two principal components. Signs, which are arbitrary,
    are chosen so that the coordinate of largest size on each axis is positive.

    Args:
        distances: (..., n, n) float64.

    Returns:
        (..., n, 2) coordinates, and (...) the share of the spread that they show, in [0, 1].
    """
    squares = distances.square()
    inner = -0.5 * (
        squares
        - squares.mean(-1, keepdim=True)
        - squares.mean(-2, keepdim=True)
        + squares.mean((-1, -2), True)
    )
    values, vectors = torch.linalg.eigh(inner)
    values = values.clamp_min(0)  # lengths measured by margins need not be those of any points
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    axes = vectors * largest.sign() * values.sqrt()[..., None, :]
    plane = torch.nn.functional.pad(axes.flip(-1)[..., :2], (0, max(0, 2 - distances.shape[-1])))
    total = values.sum(-1)
    shown = torch.where(total > 0, values.flip(-1)[..., :2].sum(-1) / total.clamp_min(1e-300), 1.0)
    return plane, shown
