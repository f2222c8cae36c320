"""H0 of the Rips filtration, compared with scipy, gudhi, scikit-learn and plain loops."""

import math
from fractions import Fraction
from itertools import pairwise

import gudhi
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from sklearn.cluster import AgglomerativeClustering

from s3clip.space.rips import (
    chordal_distances,
    chosen_component,
    components,
    death_times,
    minimum_spanning_tree,
    spanning_tree_of_points,
)
from s3clip.space.scale_rules import SCALE_RULES


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_points(n, dim, seed):
    return torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


def clustered_points(n, dim, seed):
    centres = random_points(3, dim, seed)[torch.arange(n) % 3]
    return centres + 0.05 * random_points(n, dim, seed + 1)


def duplicated_points(n, dim, seed):
    return random_points(n, dim, seed)[torch.arange(n) // 2]


CLOUDS = {"random": random_points, "clustered": clustered_points, "duplicated": duplicated_points}


def distances_by_difference(points):
    """The definition: |a - b| after projection to the sphere, one pair at a time."""
    unit = points.double().numpy()
    unit = unit / np.sqrt((unit**2).sum(-1, keepdims=True))
    return np.array([[math.dist(a, b) for b in unit] for a in unit])


def deaths_by_scipy(distances):
    if len(distances) == 1:
        return np.empty(0)
    return linkage(squareform(distances, checks=False), "single")[:, 2]


def deaths_by_gudhi(distances):
    tree = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=1)
    tree.persistence(min_persistence=-1)
    died = tree.persistence_intervals_in_dimension(0)[:, 1]
    return np.sort(died[np.isfinite(died)])


def partition(labels):
    """The sets of a labelling, whatever the labels are called."""
    return {tuple(np.flatnonzero(labels == label)) for label in np.unique(labels)}


def at_scale(distances, epsilon):
    """Components by scipy's graph search; the pairs at distance zero are edges too."""
    return connected_components(np.asarray(distances) <= epsilon, directed=False)[1]


# ---------------------------------------------------------------------------------------- chordal_distances


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_distances_are_the_norms_of_the_differences(cloud, dim):
    points = 3 * CLOUDS[cloud](11, dim, 0)
    np.testing.assert_allclose(chordal_distances(points), distances_by_difference(points), atol=5e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_distances_are_exact_near_zero_symmetric_and_zero_on_the_diagonal(dtype):
    base = random_points(1, 512, 0)
    angles = torch.tensor([0, 1e-4, 3e-4, 1e-3, 1e-2, 0.1, 2])[:, None]
    side = random_points(1, 512, 1)
    points = (base / base.norm() * angles.cos() + side / side.norm() * angles.sin()).to(dtype)
    distances = chordal_distances(points)
    assert distances.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(distances, distances.mT)
    assert not distances.diagonal().any()
    np.testing.assert_allclose(distances, distances_by_difference(points), atol=2e-7)


@pytest.mark.parametrize("shape", [(901, 64), (4, 33, 513), (2, 3, 5, 7)])
def test_distances_are_symmetric_at_every_size(shape):
    distances = chordal_distances(torch.randn(shape, generator=seeded(0)))
    assert distances.shape == (*shape[:-1], shape[-2])
    assert torch.equal(distances, distances.mT)


def test_distances_do_not_depend_on_lengths():
    points = random_points(6, 5, 0)
    factors = torch.tensor([1e-30, 1e-5, 1, 3, 1e5, 1e30], dtype=torch.float64)[:, None]
    torch.testing.assert_close(chordal_distances(points * factors), chordal_distances(points))


def test_opposite_points_are_two_apart():
    assert chordal_distances(torch.tensor([[0.6, 0.8], [-3.0, -4.0]])).tolist() == [[0, 2], [2, 0]]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_distances_refuse_points_without_a_direction(bad):
    points = torch.ones(3, 2)
    points[1] = bad
    with pytest.raises(ValueError, match="finite vectors of non-zero length"):
        chordal_distances(points)


def test_distances_refuse_a_single_vector():
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(\.\.\., n, dim\), got \(4,\)"):
        chordal_distances(torch.ones(4))


# ---------------------------------------------------------------------------------------------- death times


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [2, 8, 512])
@pytest.mark.parametrize("n", [2, 3, 12, 41])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_death_times_are_those_of_scipy_and_gudhi(cloud, n, dim, dtype):
    points = CLOUDS[cloud](n, dim, n + dim).to(dtype)
    deaths = death_times(chordal_distances(points))
    distances = distances_by_difference(points)
    assert deaths.shape == (n - 1,)
    assert torch.equal(deaths, deaths.sort().values)
    np.testing.assert_allclose(deaths, deaths_by_scipy(distances), atol=1e-6)
    np.testing.assert_allclose(deaths, deaths_by_gudhi(distances), atol=1e-6)


def test_death_times_of_a_batch_with_sizes_are_those_of_the_first_points_padded_with_inf():
    sizes = torch.tensor([[1, 2, 9], [5, 9, 3]])
    points = random_points(2 * 3 * 9, 4, 0).reshape(2, 3, 9, 4)
    deaths = death_times(chordal_distances(points), sizes)
    assert deaths.shape == (2, 3, 8)
    for i in range(2):
        for j in range(3):
            size = int(sizes[i, j])
            expected = deaths_by_scipy(distances_by_difference(points[i, j, :size]))
            np.testing.assert_allclose(deaths[i, j, : size - 1], expected, atol=1e-6)
            assert deaths[i, j, size - 1 :].tolist() == [math.inf] * (9 - size)


def test_what_stands_in_the_padding_does_not_matter():
    distances = chordal_distances(random_points(3 * 6, 4, 0).reshape(3, 6, 4))
    sizes = torch.tensor([4, 1, 6])
    expected = death_times(distances, sizes)
    for filling in (0.0, 1e9, math.inf, math.nan):
        filled = distances.clone()
        for one, size in zip(filled, sizes.tolist(), strict=True):
            one[size:] = filling
            one[:, size:] = filling
        assert torch.equal(death_times(filled, sizes), expected)


def test_a_point_alone_has_no_death_time():
    assert death_times(torch.zeros(1, 1)).shape == (0,)
    assert death_times(torch.zeros(5, 1, 1)).shape == (5, 0)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_betti_0_is_one_more_than_the_deaths_above_the_scale(cloud):
    distances = chordal_distances(CLOUDS[cloud](15, 6, 3))
    deaths = death_times(distances)
    for epsilon in np.linspace(0.05, 2, 40):
        assert 1 + int((deaths > epsilon).sum()) == len(partition(at_scale(distances, epsilon)))


def test_a_thousand_classes_are_walked_at_once():
    points = random_points(1000 * 12, 16, 0).reshape(1000, 12, 16)
    deaths = death_times(chordal_distances(points))
    assert deaths.shape == (1000, 11)
    for i in range(0, 1000, 50):
        np.testing.assert_allclose(deaths[i], deaths_by_scipy(distances_by_difference(points[i])), atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (0, 0), (2, 0, 0)])
def test_death_times_refuse_what_is_not_square(shape):
    with pytest.raises(ValueError, match=r"distances: expected shape \(\.\.\., n, n\), n >= 1"):
        death_times(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [[1, 2, 3], [0, 2], [2, 5]])
def test_death_times_refuse_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match=r"sizes: expected shape \(2,\) with values in \[1, 4\]"):
        death_times(torch.zeros(2, 4, 4), torch.tensor(sizes))


# --------------------------------------------------------------------------------------------- the tree


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_tree_starts_at_the_name_and_reaches_every_point_once_by_the_shortest_edge(cloud):
    distances = chordal_distances(CLOUDS[cloud](20, 6, 1))
    tree = minimum_spanning_tree(distances)
    order = tree.order.tolist()
    assert order[0] == 0
    assert sorted(order) == list(range(20))
    for step in range(1, 20):
        reached, others = order[:step], order[step:]
        assert tree.lengths[step - 1] == distances[reached][:, others].min()
        assert tree.lengths[step - 1] == distances[reached, order[step]].min()


# ---------------------------------------------------------------------------------------------- components


@pytest.mark.parametrize("n", [2, 9, 30])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_components_are_those_of_scikit_learn(cloud, n):
    distances = chordal_distances(CLOUDS[cloud](n, 5, n))
    tree = minimum_spanning_tree(distances)
    deaths = tree.lengths.sort().values
    # Also exactly at a death time: an edge is `distance <= scale`, to scikit-learn `distance < threshold`.
    scales = torch.cat([deaths, deaths - 1e-3, deaths + 1e-3, torch.tensor([0, 2])]).clamp_min(0)
    for scale in scales:
        clustering = AgglomerativeClustering(
            n_clusters=None,
            linkage="single",
            metric="precomputed",
            distance_threshold=np.nextafter(float(scale), np.inf),
        )
        expected = clustering.fit_predict(distances.numpy())
        assert partition(components(tree, scale).numpy()) == partition(expected)


def test_components_of_a_batch_are_those_one_by_one_and_point_0_is_in_the_first():
    distances = chordal_distances(random_points(40 * 7, 3, 0).reshape(40, 7, 3))
    scales = torch.linspace(0.05, 1.5, 40, dtype=torch.float64)
    labels = components(minimum_spanning_tree(distances), scales)
    assert not labels[:, 0].any()
    for own, one, scale in zip(labels, distances, scales.tolist(), strict=True):
        assert partition(own.numpy()) == partition(at_scale(one, scale))
        assert sorted(own.unique().tolist()) == list(range(len(own.unique())))


def test_components_of_one_point():
    tree = minimum_spanning_tree(torch.zeros(3, 1, 1))
    assert components(tree, torch.zeros(3)).tolist() == [[0]] * 3


# ----------------------------------------------------------------------------------- the chosen component


def tree_length(distances, points):
    """Kruskal's algorithm."""
    group = {point: {point} for point in points}
    total = 0
    for length, a, b in sorted((distances[a][b], a, b) for a in points for b in points if a < b):
        if group[a] is not group[b]:
            total += length
            merged = group[a] | group[b]
            for point in merged:
                group[point] = merged
    return total


def acceptable_components(distances, epsilon, keep_name):
    """Every component that METHOD part 2 allows: several only where all of its rules tie."""
    found = partition(at_scale(distances, epsilon))
    if keep_name == "always":
        return [one for one in found if 0 in one]
    largest = [one for one in found if len(one) == max(map(len, found))]
    if any(0 in one for one in largest):
        return [one for one in largest if 0 in one]
    nearest = min(min(distances[0][i] for i in one) for one in largest)
    largest = [one for one in largest if min(distances[0][i] for i in one) == nearest]
    shortest = min(tree_length(distances, one) for one in largest)
    return [one for one in largest if tree_length(distances, one) == shortest]


@st.composite
def whole_distances(draw):
    """Distances that are small whole numbers, so that there are ties of every kind, and exact sums."""
    n = draw(st.integers(1, 9))
    distances = [[0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i):
            distances[i][j] = distances[j][i] = draw(st.integers(1, 5))
    return distances


@settings(max_examples=150, deadline=None, derandomize=True)
@given(whole_distances(), st.integers(0, 5), st.sampled_from(["tie", "always"]))
def test_the_chosen_component_follows_every_rule_for_ties(distances, epsilon, keep_name):
    wide = torch.tensor(distances, dtype=torch.float64)
    tree = minimum_spanning_tree(wide)
    chosen = chosen_component(wide[0], tree, torch.tensor(float(epsilon)), keep_name=keep_name)
    assert tuple(torch.nonzero(chosen)[:, 0].tolist()) in acceptable_components(distances, epsilon, keep_name)


def pairs(to_name, inside, far=9.0):
    """The name alone, and pairs: `to_name[i]` their distance to the name, `inside[i]` between the two."""
    n = 1 + 2 * len(to_name)
    distances = torch.full((n, n), far, dtype=torch.float64).fill_diagonal_(0)
    for i, (name, own) in enumerate(zip(to_name, inside, strict=True)):
        a, b = 1 + 2 * i, 2 + 2 * i
        distances[[a, b, 0, 0], [0, 0, a, b]] = name
        distances[[a, b], [b, a]] = own
    return distances


@pytest.mark.parametrize(
    ("to_name", "inside", "expected"),
    [
        ([5.0, 4.0, 6.0], [1.0, 2.0, 1.0], [3, 4]),  # the nearest to the name
        ([5.0, 5.0, 5.0], [2.0, 2.0, 1.0], [5, 6]),  # as near: the shorter tree
        ([5.0, 6.0, 5.0], [2.0, 1.0, 1.5], [5, 6]),  # both, one after the other
        ([5.0], [2.0], [1, 2]),  # larger than that of the name
    ],
)
def test_ties_between_largest_components(to_name, inside, expected):
    distances = pairs(to_name, inside)
    listings = torch.arange(len(distances)), torch.tensor([0, *range(len(distances) - 1, 0, -1)])
    for order in listings:
        listed = distances[order][:, order]
        chosen = chosen_component(listed[0], minimum_spanning_tree(listed), torch.tensor(2.0))
        assert sorted(order[chosen].tolist()) == expected


def test_the_name_wins_a_tie_and_always_when_it_is_said():
    distances = torch.tensor(
        [[0, 1, 9, 9, 9], [1, 0, 9, 9, 9], [9, 9, 0, 1, 9], [9, 9, 1, 0, 9], [9, 9, 9, 9, 0]]
    )
    wide = distances.double()
    tree, scale = minimum_spanning_tree(wide), torch.tensor(1.0)
    assert chosen_component(wide[0], tree, scale).tolist() == [True, True, False, False, False]
    wide[[3, 4], [4, 3]] = 1.0
    tree = minimum_spanning_tree(wide)
    assert chosen_component(wide[0], tree, scale).tolist() == [False, False, True, True, True]
    assert chosen_component(wide[0], tree, scale, keep_name="always").tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_chosen_components_of_a_batch_are_those_one_by_one():
    distances = chordal_distances(random_points(60 * 8, 3, 0).reshape(60, 8, 3))
    tree = minimum_spanning_tree(distances)
    scales = torch.linspace(0, 1.2, 60, dtype=torch.float64)
    chosen = chosen_component(distances[:, 0], tree, scales)
    for own, one, scale in zip(chosen, distances, scales.tolist(), strict=True):
        assert [tuple(torch.nonzero(own)[:, 0].tolist())] == acceptable_components(one.tolist(), scale, "tie")


# ---------------------------------------------------------------------------------------------- scale rules


@pytest.fixture(scope="module")
def walks():
    """Edge lengths of 12 trees of 14 points, in the order of the walk, and the distances."""
    distances = chordal_distances(random_points(12 * 14, 4, 5).reshape(12, 14, 4))
    return minimum_spanning_tree(distances).lengths, distances


def test_fixed_is_the_same_for_all(walks):
    assert SCALE_RULES["fixed"](walks[0], epsilon=0.7).tolist() == [0.7] * 12


@pytest.mark.parametrize("q", [0, 0.0, 0.25, 0.5, 0.77, 1, 1.0])
def test_quantile_is_that_of_numpy(walks, q):
    expected = [np.quantile(own, q) for own in walks[0].numpy()]
    np.testing.assert_allclose(SCALE_RULES["quantile"](walks[0], q=q), expected, rtol=0, atol=1e-12)


def test_largest_gap_is_the_death_below_the_widest_step(walks):
    expected = []
    for own in walks[0].numpy():
        deaths = sorted(own)
        widest = -1.0
        for below, above in pairwise(deaths):
            if above - below >= widest:
                widest, scale = above - below, below
        expected.append(scale)
    assert SCALE_RULES["largest_gap"](walks[0]).tolist() == expected


@pytest.mark.parametrize(
    ("lengths", "scale"), [([1, 2, 3, 4], 3), ([4, 1, 2], 2), ([5, 5, 5], 5), ([3, 1], 1), ([1, 3, 5, 6], 3)]
)
def test_of_equal_gaps_the_last_counts(lengths, scale):
    assert SCALE_RULES["largest_gap"](torch.tensor(lengths, dtype=torch.float64)).item() == scale


@pytest.mark.parametrize("share", [0.01, 0.5, 0.75, 1])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.9])
def test_margin_is_the_smallest_scale_from_epsilon_on_that_keeps_enough_around_the_name(
    walks, epsilon, share
):
    expected = []
    for one in walks[1].numpy():
        for scale in [epsilon, *(death for death in deaths_by_scipy(one) if death > epsilon)]:
            if (at_scale(one, scale) == at_scale(one, scale)[0]).sum() >= share * 14:
                expected.append(scale)
                break
    assert SCALE_RULES["margin"](walks[0], epsilon=epsilon, share=share).tolist() == expected


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.57, 0.75, 0.99, 1, 1.0])
def test_kept_share_is_the_smallest_death_time_that_keeps_enough(walks, share):
    expected = []
    for one in walks[1].numpy():
        for epsilon in deaths_by_scipy(one):
            largest = max(len(part) for part in partition(at_scale(one, epsilon)))
            if largest >= share * 14:
                expected.append(epsilon)
                break
    assert SCALE_RULES["kept_share"](walks[0], share=share).tolist() == expected


def test_kept_share_counts_exactly():
    # A walk by ever longer edges: at the i-th, i + 1 points hold together. 0.07 * 100 > 7 in floats.
    for percent in range(1, 101):
        for points in (20, 25, 50, 100):
            lengths = torch.arange(1, points, dtype=torch.float64)
            needed = max(2, math.ceil(Fraction(percent, 100) * points))
            for rule in ("kept_share", "margin"):
                options = {"share": percent / 100} | ({"epsilon": 1.0} if rule == "margin" else {})
                assert SCALE_RULES[rule](lengths, **options).item() == needed - 1, rule


@pytest.mark.parametrize(
    ("rule", "options"), [("quantile", {"q": 0}), ("largest_gap", {}), ("kept_share", {"share": 0.1})]
)
@pytest.mark.parametrize("n", [1, 2])
def test_rules_that_read_statistics_keep_both_of_two_texts(rule, options, n):
    lengths = torch.full((4, n - 1), 1.9)
    assert SCALE_RULES[rule](lengths, **options).tolist() == [math.inf] * 4
    assert SCALE_RULES["fixed"](lengths, epsilon=0.3).tolist() == pytest.approx([0.3] * 4)


def test_rules_take_any_leading_shape(walks):
    lengths = walks[0].reshape(2, 3, 2, 13)
    for name, rule in SCALE_RULES.items():
        assert torch.equal(rule(lengths), rule(walks[0]).reshape(2, 3, 2)), name
        assert rule(walks[0][0]).shape == ()


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("fixed", {"epsilon": -0.1}, "option 'epsilon' of fixed: expected .* >= 0, got -0.1"),
        ("fixed", {"epsilon": True}, "option 'epsilon' of fixed: expected .* >= 0, got True"),
        ("fixed", {"epsilon": math.nan}, "option 'epsilon' of fixed: expected .* >= 0, got nan"),
        ("fixed", {"eps": 1.0}, "fixed takes no option 'eps'; did you mean 'epsilon'"),
        ("quantile", {"q": 1.01}, r"option 'q' of quantile: expected .* in \[0, 1\], got 1.01"),
        ("quantile", {"q": "0.5"}, r"option 'q' of quantile: expected .* in \[0, 1\], got '0.5'"),
        ("largest_gap", {"q": 0.5}, "largest_gap takes no option 'q'; it takes: none"),
        ("kept_share", {"share": 0}, r"option 'share' of kept_share: expected .* in \(0, 1\], got 0"),
        ("margin", {"epsilon": -1}, "option 'epsilon' of margin: expected .* >= 0, got -1"),
        ("margin", {"share": 0}, r"option 'share' of margin: expected .* in \(0, 1\], got 0"),
        ("kept_share", {"share": 75}, r"option 'share' of kept_share: expected .* in \(0, 1\], got 75"),
    ],
)
def test_rules_refuse_options_that_are_unknown_or_out_of_range(rule, options, message):
    with pytest.raises(ValueError, match=message):
        SCALE_RULES[rule](torch.ones(3, 4), **options)


# ------------------------------------------------------------------------------------ without the distances


def test_a_walk_without_the_matrix_is_scipys_single_linkage():
    points = random_points(2000, 16, 7)
    points[1500:1600] = points[:100]  # duplicates
    tree = spanning_tree_of_points(points[None], torch.ones(1, 2000))
    unit = points.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = linkage(unit, "single")[:, 2]
    # scipy takes the distances from differences; near zero sqrt(2 - 2 cos) in float64 errs by 3e-8.
    np.testing.assert_allclose(tree.lengths[0].sort().values, expected, atol=1e-7)
    assert tree.order[0].sort().values.tolist() == list(range(2000))


def test_walks_with_and_without_the_matrix_are_the_same():
    points = random_points(3 * 40, 8, 2).reshape(3, 40, 8)
    margins = torch.rand(3, 40, generator=seeded(1)) + 0.5
    size = margins.double().sqrt()
    distances = chordal_distances(points.double()) / (size[:, :, None] * size[:, None])
    without, whole = spanning_tree_of_points(points, margins), minimum_spanning_tree(distances)
    assert torch.equal(without.order, whole.order)
    torch.testing.assert_close(without.lengths, whole.lengths, rtol=0, atol=1e-12)


def test_gradients_flow_through_the_walk():
    distances = chordal_distances(random_points(6, 4, 0)).double().requires_grad_()
    minimum_spanning_tree(distances).lengths.sum().backward()
    assert distances.grad.sum() == 5  # each edge of the tree counts once
