"""Spanning trees of many points are those of scipy, whatever the points, the ties and the size of a block."""

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from s3clip.space import boruvka
from s3clip.space.boruvka import spanning_edges, walk
from s3clip.space.duplicates import CLOSE, alone_texts
from s3clip.space.edges import edge_lengths
from s3clip.space.rips import untold


@st.composite
def clouds(draw):
    """(points, margins): few coordinates, so that many edges are of equal length, and repeated points."""
    n, dim = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    if draw(st.booleans()):
        points = torch.randint(-1, 2, (n, dim), generator=seed).double()
        points[points.norm(dim=1) == 0] = 1
    else:
        points = torch.randn(n, dim, generator=seed, dtype=torch.float64)
        points = points[torch.randint(0, n, (n,), generator=seed)]
    margins = torch.rand(n, generator=seed) + 0.5 if draw(st.booleans()) else torch.ones(n)
    return points / points.norm(dim=1, keepdim=True), margins


def assert_squares_agree(found, expected):
    """Lengths are roots: between equal points, that of a rounding may be 1e-7, but not its square."""
    np.testing.assert_allclose(np.square(found), np.square(expected), rtol=0, atol=2e-14)


@settings(max_examples=200, deadline=None)
@given(clouds(), st.sampled_from([1, 2, 7, 64]))
def test_tree_is_a_tree_of_scipys_lengths_and_its_walk_is_prims(cloud, block):
    points, margins = cloud
    done = []
    with mock.patch.object(boruvka, "BLOCK", block):
        edges, lengths = spanning_edges(points, margins, done.append)
    assert sum(done) == len(points)
    order, steps = walk(edges, lengths)
    matrix = edge_lengths(points, margins).numpy()
    assert sorted(order.tolist()) == list(range(len(points)))
    assert order[0] == 0
    if len(points) > 1:
        expected = linkage(squareform(matrix, checks=False), "single")[:, 2]
        assert_squares_agree(np.sort(lengths), expected)
        assert_squares_agree(lengths.numpy(), matrix[edges[:, 0], edges[:, 1]])
    # Prim's law: each step is the shortest edge from what is reached to what is not.
    for step, length in enumerate(steps.tolist()):
        reached, rest = order[: step + 1], order[step + 1 :]
        assert_squares_agree(length, matrix[np.ix_(reached, rest)].min())


def test_what_has_merged_is_looked_at_again_only_where_it_may_matter():
    """Three tight clusters: nearly all entries of the table are inside a component when they are joined."""
    seed = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=seed, dtype=torch.float64)
    points = centres[torch.arange(600) % 3] + 0.05 * torch.randn(600, 16, generator=seed, dtype=torch.float64)
    points /= points.norm(dim=1, keepdim=True)
    with mock.patch.object(boruvka, "BLOCK", 50):
        _, lengths = spanning_edges(points, torch.ones(600), untold)
    matrix = edge_lengths(points, torch.ones(600)).numpy()
    expected = linkage(squareform(matrix, checks=False), "single")[:, 2]
    np.testing.assert_allclose(np.sort(lengths), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**16), st.sampled_from([2**20, 100, 1]))
def test_who_is_alone(n, number, chunk):
    seed = torch.Generator().manual_seed(number)
    base = torch.randn(1 + n // 3, 4, generator=seed, dtype=torch.float64)
    points = base[torch.randint(0, len(base), (n,), generator=seed)]
    points = points + CLOSE * torch.rand(n, 1, generator=seed) * torch.randn(n, 4, generator=seed)
    points /= points.norm(dim=1, keepdim=True)
    with mock.patch("s3clip.space.duplicates.CHUNK_NUMBERS", chunk):
        alone = alone_texts(points, untold)
    close = (points @ points.T > 1 - CLOSE**2 / 2).numpy()
    np.fill_diagonal(close, False)
    assert alone.tolist() == (~close.any(1)).tolist()
