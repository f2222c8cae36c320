"""0-dimensional persistent homology of the Vietoris-Rips filtration, batched, in pure torch.

H0 of a Rips filtration is single linkage: every point is born at 0, the n - 1 finite death times are the
edge lengths of a minimum spanning tree (Gower and Ross 1969), and the components at a scale ε are what
remains of the tree when the edges longer than ε are cut. So one Prim walk over the distances gives
everything. Points that share an edge are at distance <= ε.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from s3clip.space.boruvka import spanning_edges, walk

CACHED_NUMBERS = 2**19
"""About how many float64 numbers (4 MiB) of points are multiplied at once: what a core's cache holds is
read several times faster than what it does not."""


def untold(count: int) -> None:
    """Take what nobody asks about: so many points more are done."""


def chordal_distances(points: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the pairwise distances |a - b| of the points after projection to the unit sphere.

    The Gram matrix is taken in float64: in float32, sqrt(2 - 2 cos) errs by up to 7e-4 near zero, and
    distances that small decide what counts as the same text.

    Args:
        points: (..., n, dim), any floating dtype, any length but zero.
        dtype: of the distances; None: float64 for float64 points, else float32.

    Returns:
        (..., n, n) in [0, 2], symmetric, zero on the diagonal.

    Raises:
        ValueError: fewer than two dimensions, or a point of length zero or not finite.
    """
    if points.ndim < 2:
        raise ValueError(f"points: expected a tensor of shape (..., n, dim), got {tuple(points.shape)}")
    if dtype is None:
        dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    n, dim = points.shape[-2:]
    sets = points.reshape(-1, n, dim)
    distances = torch.empty(len(sets), n, n, dtype=dtype, device=points.device)
    at = _device_of_float64(points)
    cached = CACHED_NUMBERS // max(1, n * dim) if at.type == "cpu" else len(sets)
    step = max(1, min(len(sets), cached))
    wide = torch.empty(step, n, dim, dtype=torch.float64, device=at)
    for part, own in zip(distances.split(step), sets.split(step), strict=True):
        exact = wide[: len(own)].copy_(own)
        products = exact @ exact.mT
        lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
        _check_lengths(lengths)
        # Dividing the products, not the points, saves two passes over all points. On some processors a
        # product of a matrix with its own transpose is not symmetric; the sum with its transpose is.
        doubled = (products + products.mT).div_(lengths[:, :, None] * lengths[:, None])
        part.copy_((2 - doubled).clamp_min_(0).sqrt_().to(dtype))
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    return distances.reshape(*points.shape[:-1], n)


def within(lengths: Tensor, scale: Tensor) -> Tensor:
    """Return which edges are in the complex at a scale: those of length <= ε, up to rounding.

    ε is often the length of an edge, and rounding must not cut that edge when it is measured again.

    Args:
        lengths: (..., n, n).
        scale: (...).
    """
    return lengths <= scale[..., None, None] * (1 + 1e-6)


class SpanningTree(NamedTuple):
    """A minimum spanning tree in the order in which Prim's algorithm finds it, starting at point 0.

    Attributes:
        order: (..., n) int64, the points in the order of the walk.
        lengths: (..., n - 1), `lengths[i]` is the edge by which `order[i + 1]` was reached; inf for padding.

    The walk leaves a component only when nothing in it is left, so at every scale the components are
    consecutive runs of `order`, split where `lengths` passes the scale.
    """

    order: Tensor
    lengths: Tensor


def minimum_spanning_tree(distances: Tensor, sizes: Tensor | None = None) -> SpanningTree:
    """Return the minimum spanning tree of each distance matrix by a Prim walk from point 0.

    Args:
        distances: (..., n, n), symmetric and non-negative.
        sizes: (...) integers in [1, n]: only the first `size` points exist. None: all.

    Raises:
        ValueError: not square, no point, or sizes that do not fit.
    """
    if distances.ndim < 2 or distances.shape[-1] != distances.shape[-2] or distances.shape[-1] == 0:
        raise ValueError(f"distances: expected shape (..., n, n), n >= 1, got {tuple(distances.shape)}")
    batch, n = distances.shape[:-2], distances.shape[-1]
    flat = distances.reshape(-1, n, n)
    unreachable = torch.finfo(flat.dtype).max  # below inf, which marks what is reached
    if sizes is not None:
        if sizes.shape != batch or bool(((sizes < 1) | (sizes > n)).any()):
            raise ValueError(f"sizes: expected shape {tuple(batch)} with values in [1, {n}], got {sizes}")
        padding = torch.arange(n, device=flat.device) >= sizes.reshape(-1, 1)
        flat = flat.masked_fill(padding[:, None, :] | padding[:, :, None], unreachable)
    order, lengths = _prim_walk(flat)
    lengths = lengths.masked_fill(lengths == unreachable, torch.inf)
    return SpanningTree(order.reshape(*batch, n), lengths.reshape(*batch, n - 1))


def spanning_tree_of_points(
    points: Tensor, margins: Tensor, progress: Callable[[int], object] = untold
) -> SpanningTree:
    """Return the minimum spanning tree of points as `minimum_spanning_tree` of their distances does.

    Memory is linear in the points, as the distances are taken in tiles (`s3clip.space.boruvka`).

    Args:
        points: (c, n, dim), any length but zero.
        margins: (c, n) > 0, by which edges are measured: |a - b| / sqrt(σ_a σ_b), a and b unit vectors.
        progress: called with the number of points that are done, after each part.

    Raises:
        ValueError: a point of length zero or not finite.
    """
    order = torch.empty_like(margins, dtype=torch.int64)
    lengths = torch.empty_like(margins[:, 1:], dtype=torch.float64)
    for tree, (own, sizes) in enumerate(zip(normalized(points), margins, strict=True)):
        order[tree], lengths[tree] = walk(*spanning_edges(own, sizes, progress))
    return SpanningTree(order, lengths)


def normalized(points: Tensor) -> Tensor:
    """Return (..., n, dim) points in float64 and of length one.

    Raises:
        ValueError: a point of length zero or not finite.
    """
    exact = points.to(device=_device_of_float64(points), dtype=torch.float64)
    lengths = exact.norm(dim=-1, keepdim=True)
    _check_lengths(lengths)
    unit: Tensor = exact / lengths
    return unit


def _device_of_float64(points: Tensor) -> torch.device:
    # MPS has no float64; the sizes are small enough for the CPU.
    return torch.device("cpu") if points.device.type == "mps" else points.device


def _check_lengths(lengths: Tensor) -> None:
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("points: expected finite vectors of non-zero length, got one that is not")


def _prim_walk(distances: Tensor) -> tuple[Tensor, Tensor]:
    """Walk all trees of (c, n, n) distances at once from point 0.

    Returns:
        (c, n) the order of the walk, and (c, n - 1) the edge by which each point but the first was reached.
    """
    rows, frontier = distances.flatten(0, 1), distances[:, 0]
    first = torch.arange(len(distances), device=distances.device) * distances.shape[1]
    reached = torch.zeros_like(frontier)
    reached[:, 0] = torch.inf
    # Small tensors kept from each step, among large ones that go, would leave holes of n numbers a step.
    order = torch.zeros(frontier.T.shape, dtype=torch.int64, device=frontier.device)
    lengths = torch.empty_like(order[1:], dtype=frontier.dtype)
    for step in range(len(lengths)):
        lengths[step], order[step + 1] = (frontier + reached).min(dim=1)
        nearest = order[step + 1]
        frontier = torch.minimum(frontier, rows[first + nearest])
        reached.scatter_(1, nearest[:, None], torch.inf)
    return order.T.contiguous(), lengths.T.contiguous()


def death_times(distances: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Return the finite death times of H0 of the Rips filtration of each distance matrix.

    Args:
        distances: (..., n, n), symmetric and non-negative.
        sizes: (...) integers in [1, n]: only the first `size` points exist. None: all of them.

    Returns:
        (..., n - 1), ascending, padded with inf. The number of components at ε is 1 + #(deaths > ε).
    """
    return minimum_spanning_tree(distances, sizes).lengths.sort(dim=-1).values


def components(tree: SpanningTree, scale: Tensor) -> Tensor:
    """Return the connected component of every point at a scale.

    Args:
        tree: a spanning tree of n points, none of them padding.
        scale: (...) the ε of each tree.

    Returns:
        (..., n) int64: components are numbered in the order of the walk, so that of point 0 is 0.
    """
    breaks = torch.zeros_like(tree.order)
    breaks[..., 1:] = tree.lengths > scale[..., None]
    return torch.empty_like(tree.order).scatter_(-1, tree.order, breaks.cumsum(-1))


def chosen_component(
    to_point_0: Tensor, tree: SpanningTree, scale: Tensor, *, keep_name: str = "tie"
) -> Tensor:
    """Return which points belong to the component that makes the space: the largest one.

    Among components of equal size: the one with point 0 (the class's own name), else the one nearest to
    point 0, else the one with the shorter minimum spanning tree; never the first in the list.

    Args:
        to_point_0: (..., n) the length of the edge of every point to point 0, 0 for itself.
        tree: their minimum spanning tree, from point 0.
        scale: (...) the ε of each tree.
        keep_name: "tie", or "always": the component of point 0, however small.

    Returns:
        (..., n) bool.
    """
    labels = components(tree, scale)
    if keep_name == "always":
        return labels == 0
    wide = to_point_0.to(torch.float64)
    per_component = torch.zeros_like(wide)
    size = per_component.scatter_add(-1, labels, torch.ones_like(per_component))
    to_name = torch.full_like(per_component, torch.inf)
    to_name = to_name.scatter_reduce(-1, labels, wide, "amin")
    walk_labels = labels.gather(-1, tree.order)
    inside = (walk_labels[..., 1:] == walk_labels[..., :-1]).to(wide.dtype)
    tree_length = per_component.scatter_add(-1, walk_labels[..., 1:], tree.lengths.to(wide.dtype) * inside)
    best = size == size.amax(-1, keepdim=True)
    for cost in (to_name, tree_length):  # point 0 is at distance 0 from its own component
        cost = cost.masked_fill(~best, torch.inf)
        best &= cost == cost.amin(-1, keepdim=True)
    return labels == best.to(torch.int64).argmax(-1, keepdim=True)
