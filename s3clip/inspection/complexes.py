"""The Rips complex of a class as something to look at: edges, spanning tree, and a place in the plane."""

import math
from dataclasses import dataclass
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


def class_complexes(space: SynonymousSpace) -> list[ClassComplex]:
    """Return the complex of every class, in order. The space lies on the CPU.

    Raises:
        ValueError: a class has more texts than can be shown.
    """
    distinct = torch.nonzero(space.duplicate_of == torch.arange(len(space.owners)))[:, 0]
    first_row = torch.searchsorted(space.owners, torch.arange(len(space.scales)))
    check_paired(torch.bincount(space.owners[distinct]), "a picture of its complex")
    found: list[ClassComplex | None] = [None] * len(space.scales)
    for group, positions in equal_sizes(space.owners[distinct], space.raw.shape[1]):
        rows = distinct[positions]
        lengths = space.edge_lengths(rows)
        ends, deaths = _tree_edges(lengths)
        plane, shown = classical_scaling(lengths)
        for i, index in enumerate(group.tolist()):
            found[index] = ClassComplex(
                rows[i] - first_row[index], lengths[i], ends[i], deaths[i], plane[i], float(shown[i])
            )
    return [each for each in found if each is not None]


class Joining(NamedTuple):
    """When a text comes to the component that is kept.

    Attributes:
        distance: the least scale at which they are one component; 0 for a text that is kept.
        enough: that scale to two decimals, upwards, where what is kept is the largest component there too.
    """

    distance: float
    enough: float | None


def joining(lengths: Tensor, kept: Tensor) -> list[Joining]:
    """Return when each text joins those that are kept, by the spanning tree.

    Args:
        lengths: (n, n) of the edges of a class.
        kept: (n,) bool, which texts are kept: one component.
    """
    ends, deaths = (each[0].tolist() for each in _tree_edges(lengths[None]))
    found = []
    for text, is_kept in enumerate(kept.tolist()):
        if is_kept:
            found.append(Joining(0.0, None))
            continue
        # Edge after edge, the shortest first, until the text lies where something is kept.
        labels = list(range(len(kept)))
        distance, own = math.inf, set[int]()
        for (a, b), death in zip(ends, deaths, strict=True):
            labels = [labels[b] if label == labels[a] else label for label in labels]
            own = {i for i, label in enumerate(labels) if label == labels[text]}
            if bool(kept[list(own)].any()):
                distance = death
                break
        enough = math.ceil(100 * distance) / 100
        for (a, b), death in zip(ends, deaths, strict=True):
            if death <= enough:
                labels = [labels[b] if label == labels[a] else label for label in labels]
        largest = max(labels.count(label) for label in set(labels))
        found.append(Joining(distance, enough if labels.count(labels[text]) == largest else None))
    return found


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
