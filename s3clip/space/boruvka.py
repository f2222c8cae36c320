"""The minimum spanning tree of many points, without the matrix of their distances.

A Prim walk reads all points at every step, which is memory speed; the same products as tiles run several
times faster. So one pass over all tiles keeps, for every point and every block of points, the nearest point
in it. Borůvka's rounds (1926) join components by their shortest edges, read from that table. An entry
whose other end has joined the same component is a lower bound from then on, and its products are taken again
only where the bound is below what the component has. The table holds n / `BLOCK` entries a point.
"""

import heapq
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 512
"""Points of a tile's side: its 2 MiB of float64 stay in a core's cache."""


def spanning_edges(
    points: Tensor, margins: Tensor, progress: Callable[[int], object]
) -> tuple[Tensor, Tensor]:
    """Return the edges of the minimum spanning tree of points.

    Args:
        points: (n, dim) float64, of length one.
        margins: (n,) > 0, by which edges are measured: |a - b| / sqrt(σ_a σ_b).
        progress: called with the number of points that are done, after each block.

    Returns:
        (n - 1, 2) int64 the ends of each edge, and (n - 1,) float64 their lengths.
    """
    # Points that are near each other share blocks, so that whole blocks can be passed over: those of a
    # cluster that has become one component, and those that are far.
    near = torch.argsort((points @ points[::BLOCK].T).argmax(1), stable=True)
    scaled = points.new_empty(len(points), points.shape[1] + 1)
    for own, rows in zip(scaled.split(BLOCK), near.split(BLOCK), strict=True):
        own[:, -1] = margins[rows].double().reciprocal()
        own[:, :-1] = points[rows] * own[:, -1:]
    least, nearest = _nearest_of_blocks(scaled, progress)
    component = torch.arange(len(points), device=points.device)
    ends, lengths = [], []
    while bool((component != component[0]).any()):
        edges, halves = _shortest_edges(scaled, component, least, nearest)
        joins, component = _join(component, edges)
        ends.append(edges[joins])
        lengths.append(halves[joins])
    if not ends:
        return component.new_empty(0, 2), points.new_empty(0)
    return near[torch.cat(ends)], (2 * torch.cat(lengths)).clamp_min_(0).sqrt_()


def walk(edges: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tree in the order in which Prim's algorithm walks it from point 0.

    Args:
        edges: (n - 1, 2) int64.
        lengths: (n - 1,).

    Returns:
        (n,) the points in that order, and (n - 1,) the edge by which each but the first was reached.
    """
    neighbours: list[list[tuple[float, int]]] = [[] for _ in range(len(edges) + 1)]
    for (a, b), length in zip(edges.tolist(), lengths.tolist(), strict=True):
        neighbours[a].append((length, b))
        neighbours[b].append((length, a))
    order, reached_by = [0], []
    seen = [False] * len(neighbours)
    seen[0] = True
    frontier = list(neighbours[0])
    heapq.heapify(frontier)
    while frontier:
        length, point = heapq.heappop(frontier)
        if seen[point]:
            continue
        seen[point] = True
        order.append(point)
        reached_by.append(length)
        for each in neighbours[point]:
            if not seen[each[1]]:
                heapq.heappush(frontier, each)
    return edges.new_tensor(order), lengths.new_tensor(reached_by)


def _mirrored(scaled: Tensor) -> Tensor:
    """Return (rows, dim + 1) whose product with `scaled` is half the squares of the lengths of edges.

    |a - b|² / (2 σ_a σ_b) = 1/σ_a · 1/σ_b - a/σ_a · b/σ_b: one product, with one coordinate more, which saves
    doubling and a root for each edge.
    """
    return torch.cat([-scaled[:, :-1], scaled[:, -1:]], dim=1)


def _nearest_of_blocks(scaled: Tensor, progress: Callable[[int], object]) -> tuple[Tensor, Tensor]:
    """(n, blocks) the shortest edge of each point into each block, half its square, and the other end."""
    starts = range(0, len(scaled), BLOCK)
    least = scaled.new_empty(len(scaled), len(starts))
    nearest = torch.empty_like(least, dtype=torch.int64)
    for column, start in enumerate(starts):
        rows = slice(start, start + BLOCK)
        own = _mirrored(scaled[rows])
        # Each pair of blocks is multiplied once, and read along both sides.
        for other in range(column, len(starts)):
            first = other * BLOCK
            tile = own @ scaled[first : first + BLOCK].T
            if other == column:
                tile.fill_diagonal_(torch.inf)
            else:
                across = tile.min(0)
                least[first : first + BLOCK, column] = across.values
                nearest[first : first + BLOCK, column] = across.indices + start
            along = tile.min(1)
            least[rows, other] = along.values
            nearest[rows, other] = along.indices + first
        progress(len(own))
    return least, nearest


def _shortest_edges(
    scaled: Tensor, component: Tensor, least: Tensor, nearest: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the shortest edge that leaves each component but the largest, which would cost the most.

    Args:
        scaled: (n, dim + 1) as `_mirrored` takes it.
        component: (n,) int64 in [0, n).
        least: (n, blocks) half the square of the shortest edge of each point into each block, or a bound.
        nearest: (n, blocks) its other end; what is taken again is written into both.

    Returns:
        (c, 2) the ends of these edges, and (c,) half their squares.
    """
    n = len(component)
    asks = component != torch.bincount(component).argmax()
    outside = component[nearest] != component[:, None]
    shortest = least.masked_fill(~outside, torch.inf).amin(1)
    bound = shortest.new_full((n,), torch.inf).scatter_reduce_(0, component, shortest, "amin")
    for column in range(least.shape[1]):
        block = slice(column * BLOCK, (column + 1) * BLOCK)
        below = asks & ~outside[:, column] & (least[:, column] < bound[component])
        own = component[block]
        if bool((own == own[0]).all()):
            below &= component != own[0]  # nothing in it is outside
        for rows in torch.nonzero(below)[:, 0].split(8 * BLOCK):
            tile = _mirrored(scaled[rows]) @ scaled[block].T
            tile.masked_fill_(own == component[rows, None], torch.inf)
            found = tile.min(1)
            least[rows, column] = found.values
            nearest[rows, column] = found.indices + block.start
            shortest[rows] = torch.minimum(shortest[rows], found.values)
            bound.scatter_reduce_(0, component[rows], found.values, "amin")
    # One row for each component: the first of those whose edge is its shortest.
    rows = torch.nonzero(asks & (shortest == bound[component]))[:, 0]
    first_row = torch.full_like(component, n).scatter_reduce_(0, component[rows], rows, "amin")
    rows = first_row[first_row < n]
    inside = component[nearest[rows]] == component[rows, None]
    found = least[rows].masked_fill_(inside, torch.inf).min(1)
    return torch.stack([rows, nearest[rows, found.indices]], dim=1), found.values


def _join(component: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Join components along edges, but for those that would close a circle, as edges of equal length may.

    Returns:
        (edges,) bool, which were taken, and (n,) the components after it, named by one of theirs.
    """
    parents = list(range(len(component)))

    def root(each: int) -> int:
        while parents[each] != each:
            parents[each] = parents[parents[each]]
            each = parents[each]
        return each

    taken = []
    for a, b in component[edges].tolist():
        a, b = root(a), root(b)
        taken.append(a != b)
        parents[b] = a
    roots = component.new_tensor([root(each) for each in range(len(parents))])
    return edges.new_tensor(taken).bool(), roots[component]
