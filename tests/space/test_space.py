"""The spaces of ragged classes, compared with a plain loop, and the exact identities of a head."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn.functional import normalize
from torch.overrides import TorchFunctionMode

from s3clip import HeadConfig, SynonymousSpaceHead
from s3clip.space import duplicates, edges
from s3clip.space import synonymous_space as space
from s3clip.space.metrics import METRICS
from s3clip.space.synonymous_space import build_space


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def one_class(n, dim, seed, repeated=0):
    """Texts about a direction of the class, of any length, the last `repeated` of them copies of others."""
    generator = seeded(seed)
    texts = torch.randn(1, dim, generator=generator) + 0.7 * torch.randn(n, dim, generator=generator)
    texts = torch.cat([texts, texts[torch.randint(n, (repeated,), generator=generator)]])
    # By powers of two, so that a copy is one in every precision.
    return texts * 2.0 ** torch.randint(-3, 4, (len(texts), 1), generator=generator)


def stacked(classes):
    counts = torch.tensor([len(texts) for texts in classes])
    owners = torch.repeat_interleave(torch.arange(len(classes)), counts)
    return torch.cat(classes), owners, [f"class {i}" for i in range(len(classes))]


# ----------------------------------------------------------------------------------------------- plain loop


def loop_distances(points):
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def loop_scale(lengths, deaths, rule, options):
    if rule == "fixed":
        return options["epsilon"]
    if len(deaths) < 2:
        return math.inf
    if rule == "margin":
        for epsilon in [options["epsilon"], *(death for death in deaths if death > options["epsilon"])]:
            labels = connected_components(lengths <= epsilon, directed=False)[1]
            if (labels == labels[0]).sum() >= options["share"] * len(lengths):
                return epsilon
    if rule == "quantile":
        return np.quantile(deaths, options["q"])
    if rule == "largest_gap":
        return deaths[len(deaths) - 2 - np.argmax(np.diff(deaths)[::-1])]
    for epsilon in deaths:
        labels = connected_components(lengths <= epsilon, directed=False)[1]
        if np.bincount(labels).max() >= options["share"] * len(lengths):
            return epsilon


def loop_chosen(lengths, epsilon, keep_name):
    labels = connected_components(lengths <= epsilon, directed=False)[1]
    parts = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    if keep_name == "always":
        return next(part for part in parts if 0 in part)
    # The own name is at distance 0 from its component. Random texts leave no further tie.
    return max(parts, key=lambda part: (len(part), -lengths[0, part].min()))


def loop_center(points):
    total = sum(points)
    return total / math.sqrt(total @ total)


class LoopSpace(NamedTuple):
    """One class: kept rows (the first of equal ones), points, edge lengths, ε, death times, name kept."""

    rows: np.ndarray
    points: np.ndarray
    lengths: np.ndarray
    scale: float
    deaths: np.ndarray
    named: bool


def loop_space(classes, rule, options, keep_name, centering):
    """The spaces of all classes, then μ, m, and for every row the first of its class that is equal to it."""
    distinct, first_equal, offset = [], [], 0
    for texts in classes:
        unit = texts.double().numpy()
        unit = unit / np.sqrt((unit**2).sum(1, keepdims=True))
        labels = connected_components(unit @ unit.T >= 1 - 1e-6, directed=False)[1]
        first = [int(np.flatnonzero(labels == label)[0]) for label in labels]
        first_equal.extend(offset + row for row in first)
        rows = np.unique(first)
        distinct.append((offset + rows, unit[rows]))
        offset += len(texts)
    centres = np.array([loop_center(unit) for _, unit in distinct])
    mean = centres.mean(0)
    spread = np.mean([math.dist(centre, mean) for centre in centres])
    several = len(classes) > 1
    seen = [
        [(text - mean) / math.dist(text, mean) for text in unit] if several else unit for _, unit in distinct
    ]
    centered = several and centering is not None
    spaces = []
    for own, (rows, unit) in enumerate(distinct):
        points = np.array(seen[own] if centered else unit)
        lengths = loop_distances(points)
        if rule == "margin" and several:
            others = [loop_center(texts) for other, texts in enumerate(seen) if other != own]
            margins = np.array([min(math.dist(text, other) for other in others) for text in seen[own]])
            lengths = loop_distances(np.array(seen[own])) / np.sqrt(margins[:, None] * margins[None])
        deaths = (
            linkage(squareform(lengths, checks=False), "single")[:, 2] if len(points) > 1 else np.empty(0)
        )
        if rule is None or (rule == "margin" and not several):
            scale, chosen = math.inf, np.arange(len(rows))
        else:
            scale = loop_scale(lengths, deaths, rule, options)
            chosen = loop_chosen(lengths, scale, keep_name)
        own_lengths = lengths[chosen][:, chosen]
        spaces.append(LoopSpace(rows[chosen], points[chosen], own_lengths, scale, deaths, 0 in chosen))
    return spaces, mean, spread, np.array(first_equal)


def assert_is_the_loop(classes, rule, options, keep_name, centering, dtype=torch.float32):
    raw, owners, names = stacked(classes)
    found = build_space(
        raw.to(dtype),
        owners,
        names,
        scale_rule=rule,
        scale_options=options,
        keep_name=keep_name,
        centering=centering,
    )
    exact = [texts.to(dtype) for texts in classes]
    spaces, mean, spread, first_equal = loop_space(exact, rule, options, keep_name, centering)
    # Any of several equal rows may stand for them, but the own name for its own.
    assert first_equal[found.duplicate_of].tolist() == first_equal.tolist()
    assert len(found.duplicate_of.unique()) == len(np.unique(first_equal))
    own_names = torch.searchsorted(owners, torch.arange(len(classes)))
    assert torch.equal(found.duplicate_of[own_names], own_names)
    kept = first_equal[found.kept]
    assert sorted(kept.tolist()) == np.concatenate([one.rows for one in spaces]).tolist()
    points = np.concatenate([one.points for one in spaces])
    np.testing.assert_allclose(found.points[np.argsort(kept)].double(), points, atol=2e-6)
    assert found.point_owners.tolist() == owners[found.kept].tolist()
    assert found.sizes.tolist() == [len(one.rows) for one in spaces]
    np.testing.assert_allclose(found.scales, [one.scale for one in spaces], rtol=5e-6)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.spread, spread, atol=1e-6)
    assert found.centered == (centering is not None)
    assert found.relative == (rule == "margin")
    assert len(found.deaths) == sum(len(one.deaths) for one in spaces)
    for i, expected in enumerate(spaces):
        np.testing.assert_allclose(found.death_times(i), expected.deaths, rtol=5e-6)
        rows = found.kept[found.point_owners == i]
        in_order = np.argsort(first_equal[rows])
        edges = found.edges(rows[None])[0].numpy()[in_order][:, in_order]
        # An edge of exactly the length ε is one; those that only nearly have it are rounding.
        sure = (expected.lengths == expected.scale) | (abs(expected.lengths - expected.scale) > 2e-6)
        assert (edges == (expected.lengths <= expected.scale))[sure].all()


RULES = [
    (None, {}),
    ("fixed", {"epsilon": 0.85}),
    ("fixed", {"epsilon": 0.0}),
    ("quantile", {"q": 0.5}),
    ("quantile", {"q": 0.83}),
    ("largest_gap", {}),
    ("kept_share", {"share": 0.7}),
    ("margin", {"epsilon": 0.5, "share": 0.6}),
    ("margin", {"epsilon": 1.3, "share": 0.01}),
]


@pytest.mark.parametrize("centering", [None, "class_mean"])
@pytest.mark.parametrize("keep_name", ["tie", "always"])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_ragged_classes_are_the_plain_loop(rule, options, keep_name, centering):
    sizes = [1, 2, 3, 3, 7, 1, 60, 12, 2, 7, 31, 5, 60, 3, 25]
    classes = [one_class(n, 12, seed=i, repeated=i % 4) for i, n in enumerate(sizes)]
    assert_is_the_loop(classes, rule, options, keep_name, centering)


@pytest.mark.parametrize("chunk_numbers", [1, 500])
def test_chunks_do_not_change_a_space(monkeypatch, chunk_numbers):
    for module in (space, duplicates, edges):
        monkeypatch.setattr(module, "CHUNK_NUMBERS", chunk_numbers)
    classes = [one_class(n, 12, seed=n, repeated=n % 3) for n in (4, 1, 4, 9, 4, 9, 2)]
    assert_is_the_loop(classes, "kept_share", {"share": 0.6}, "tie", "class_mean")


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_classes_too_large_for_their_distances_are_the_plain_loop(monkeypatch, rule, options):
    monkeypatch.setattr(duplicates, "LARGEST_MATRIX", 20)
    monkeypatch.setattr(edges, "LARGEST_MATRIX", 20)
    classes = [one_class(n, 12, seed=n, repeated=n % 4) for n in (4, 1, 17, 9, 30, 17)]
    assert_is_the_loop(classes, rule, options, "tie", "class_mean")


@pytest.mark.parametrize("centering", [None, "class_mean"])
def test_one_class_of_many_texts_among_others_of_one(centering):
    classes = [one_class(1, 32, seed=i) for i in range(20)]
    classes[7] = one_class(895, 32, seed=7, repeated=5)
    assert_is_the_loop(classes, "quantile", {"q": 0.9}, "tie", centering)


@pytest.mark.parametrize("centering", [None, "class_mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_the_plain_loop_on_the_values_they_hold(dtype, centering):
    classes = [one_class(n, 24, seed=n, repeated=n % 3) for n in (4, 1, 17, 9, 2, 30)]
    assert_is_the_loop(classes, "kept_share", {"share": 0.6}, "tie", centering, dtype)


# ----------------------------------------------------------------------------------------------- duplicates


def turned(text, angle, seed):
    """A unit vector at this angle from a text."""
    text = normalize(text.double(), dim=0)
    side = torch.randn(len(text), generator=seeded(seed)).double()
    side = normalize(side - side @ text * text, dim=0)
    return math.cos(angle) * text + math.sin(angle) * side


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_texts_are_one_point_from_a_cosine_of_one_less_a_millionth_on(dtype):
    name, other = one_class(2, 64, seed=0)
    same, apart = math.acos(1 - 0.97e-6), math.acos(1 - 1.03e-6)
    texts = torch.stack([name.double(), other.double(), turned(other, same, 1), turned(name, apart, 2)])
    found = build_space(texts.to(dtype), torch.zeros(4, dtype=torch.int64), ["cat"])
    assert found.duplicate_of[1] == found.duplicate_of[2]
    assert found.duplicate_of[[0, 3]].tolist() == [0, 3]
    assert len(found.kept) == 3


def test_the_own_name_stands_for_its_copies():
    name, other = one_class(2, 16, seed=0)
    texts = torch.stack([name, 2 * name, other, 0.1 * name, 5 * other])
    found = build_space(texts, torch.zeros(5, dtype=torch.int64), ["cat"])
    assert found.duplicate_of.tolist()[:2] == [0, 0]
    assert found.duplicate_of[3] == 0
    assert found.duplicate_of[2] == found.duplicate_of[4]
    assert len(found.kept) == 2


def test_the_same_text_in_two_classes_stays_in_both():
    shared = one_class(3, 16, seed=0)
    classes = [torch.cat([one_class(2, 16, seed=1), shared]), torch.cat([one_class(3, 16, seed=2), shared])]
    raw, owners, names = stacked(classes)
    assert build_space(raw, owners, names, centering="class_mean").kept.tolist() == list(range(11))


# -------------------------------------------------------------------------------------------------- corners


@pytest.mark.parametrize(
    ("rule", "options"), [("quantile", {"q": 0.0}), ("largest_gap", {}), ("kept_share", {"share": 0.01})]
)
@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_texts_are_kept_by_rules_that_read_statistics(rule, options, n):
    raw, owners, names = stacked([one_class(n, 16, seed=0), one_class(n, 16, seed=1)])
    found = build_space(raw, owners, names, scale_rule=rule, scale_options=options)
    assert found.kept.tolist() == list(range(2 * n))
    assert found.scales.tolist() == [math.inf] * 2


def test_a_fixed_scale_parts_two_texts_and_keeps_the_name():
    raw, owners, names = stacked([torch.eye(4)[:2], torch.tensor([[1.0, 0.01, 0, 0], [1, 0, 0.01, 0]])])
    found = build_space(raw, owners, names, scale_rule="fixed", scale_options={"epsilon": 1.0})
    assert found.kept.tolist() == [0, 2, 3]


def test_death_times_of_each_class_count_its_distinct_texts():
    classes = [one_class(n, 16, seed=n, repeated=2) for n in (5, 1, 2)]
    found = build_space(*stacked(classes), scale_rule="kept_share", scale_options={"share": 0.5})
    assert [len(found.death_times(i)) for i in range(3)] == [4, 0, 1]


def test_one_class_is_not_centered():
    raw, owners, _ = stacked([one_class(4, 16, seed=0)])
    found = build_space(raw, owners, ["cat"], centering="class_mean")
    assert not found.centered
    torch.testing.assert_close(found.points, normalize(raw, dim=-1))


def test_one_class_has_no_margins_and_is_kept_whole():
    raw, owners, _ = stacked([one_class(6, 16, seed=0)])
    options = {"epsilon": 0.0, "share": 0.01}
    found = build_space(raw, owners, ["cat"], scale_rule="margin", scale_options=options)
    assert not found.relative
    assert found.kept.tolist() == list(range(6))
    assert found.edges(torch.arange(6)[None]).all()


@pytest.mark.parametrize("seed", range(8))
def test_texts_shared_with_classes_of_one_text_do_not_leave_the_choice_to_rounding(seed):
    # The margin of such a text is 0 but for rounding, and two of them are compared.
    shared = one_class(2, 64, seed=100)
    classes = [
        torch.cat([shared, one_class(3, 64, seed=101)]),
        shared[:1],
        shared[1:],
        one_class(4, 64, seed=102),
    ]
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, generator=seeded(seed), dtype=torch.float64))
    rotated = [(texts.double() @ rotation).float() for texts in classes]
    options = {"scale_rule": "margin", "scale_options": {"epsilon": 0.5, "share": 0.75}}
    expected = build_space(*stacked(classes), **options)
    found = build_space(*stacked(rotated), **options)
    assert found.kept.tolist() == expected.kept.tolist()
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-3, atol=0)


def test_a_space_says_what_it_is():
    found = build_space(
        *stacked([one_class(4, 16, seed=0), one_class(1, 16, seed=1)]), centering="class_mean"
    )
    assert repr(found) == "SynonymousSpace(classes=2, texts=5, points=5, dim=16, centered=True)"


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_embeddings_that_are_not_finite_are_refused_by_the_name_of_their_class(value):
    raw, owners, _ = stacked([one_class(2, 8, seed=0), one_class(3, 8, seed=1)])
    raw[3, 5] = value
    with pytest.raises(ValueError, match="class 'dog': a text embedding holds NaN or Inf"):
        build_space(raw, owners, ["cat", "dog"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_embeddings_of_length_zero_are_refused_by_the_name_of_their_class(dtype):
    raw, owners, _ = stacked([one_class(2, 8, seed=0), one_class(3, 8, seed=1)])
    raw[4] = 0
    with pytest.raises(ValueError, match="class 'dog': a text embedding has length zero"):
        build_space(raw.to(dtype), owners, ["cat", "dog"])


def test_two_classes_with_the_same_single_text_are_refused_by_name():
    text = one_class(1, 8, seed=0)
    with pytest.raises(ValueError, match=r"'jaguar', 'panther'.*centering leaves nothing"):
        build_space(*stacked([text, 3 * text])[:2], ["jaguar", "panther"], centering="class_mean")
    assert len(build_space(*stacked([text, 3 * text])[:2], ["jaguar", "panther"], centering=None).kept) == 2


def test_two_classes_with_the_same_single_text_among_others_are_told_from_the_others():
    # ImageNet has two classes named "missile".
    text = one_class(1, 8, seed=0)
    found = build_space(*stacked([text, text, one_class(1, 8, seed=1)]), centering="class_mean")
    torch.testing.assert_close(found.points[0], found.points[1])


def test_an_unknown_rule_and_unknown_options_are_refused():
    arguments = stacked([one_class(3, 8, seed=0)])
    with pytest.raises(ValueError, match="largest_gap, kept_share"):
        build_space(*arguments, scale_rule="widest_gap")
    with pytest.raises(ValueError, match="quantile takes no option 'share'; it takes: q"):
        build_space(*arguments, scale_rule="quantile", scale_options={"share": 0.5})


# -------------------------------------------------------------------------------- exact identities of a head


DIM = 12
METRIC_SETTINGS = [
    ("nearest", {}),
    ("soft_nearest", {"beta": 20.0}),
    ("mean_similarity", {}),
    ("center", {}),
    ("local_center", {"k": 3, "renormalize": True, "name_weight": 0.0}),
    ("local_center", {"k": 0.5, "renormalize": False, "name_weight": 0.3}),
    ("local_star", {}),
    ("hull", {"k": 4}),
    ("subspace", {"r": 2}),
]
every_metric = pytest.mark.parametrize(("metric", "metric_options"), METRIC_SETTINGS)
few = settings(max_examples=4, deadline=None, derandomize=True)
draws = st.tuples(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.sampled_from(RULES),
    st.sampled_from([None, "class_mean"]),
)


def drawn(draw, metric, metric_options):
    """Classes, images and settings of one example."""
    seed, sizes, (rule, options), centering = draw
    classes = [one_class(n, DIM, seed + i) for i, n in enumerate(sizes)]
    config = HeadConfig(
        metric=metric,
        metric_options=metric_options,
        scale_rule=rule,
        scale_options=options,
        keep_name="tie",
        centering=centering,
    )
    return classes, torch.randn(6, DIM, generator=seeded(seed)), config


def fitted(classes, config):
    names = [f"class {i}" for i in range(len(classes))]
    return SynonymousSpaceHead(config=config).fit_embeddings(classes, names, logit_scale=1.0)


def logits(classes, images, config):
    return fitted(classes, config)(image_embeds=images)


@every_metric
@few
@given(draw=draws)
def test_permuting_and_repeating_texts_changes_nothing(metric, metric_options, draw):
    classes, images, config = drawn(draw, metric, metric_options)
    generator = seeded(draw[0])
    listed = []
    for texts in classes:
        chosen = torch.cat(
            [torch.arange(1, len(texts)), torch.randint(len(texts), (3,), generator=generator)]
        )
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        listed.append(texts[torch.cat([torch.zeros(1, dtype=torch.int64), chosen])])
    expected = logits(classes, images, config)
    torch.testing.assert_close(logits(listed, images, config), expected, atol=1e-5, rtol=0)


@every_metric
@few
@given(draw=draws)
def test_permuting_classes_permutes_logits(metric, metric_options, draw):
    classes, images, config = drawn(draw, metric, metric_options)
    order = torch.randperm(len(classes), generator=seeded(draw[0]))
    expected = logits(classes, images, config)[:, order]
    permuted = logits([classes[i] for i in order], images, config)
    torch.testing.assert_close(permuted, expected, atol=1e-5, rtol=0)


@every_metric
@few
@given(draw=draws)
def test_rotating_everything_changes_nothing(metric, metric_options, draw):
    classes, images, config = drawn(draw, metric, metric_options)
    rotation, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=seeded(draw[0]), dtype=torch.float64))
    rotated = [(texts.double() @ rotation).float() for texts in classes]
    expected = logits(classes, images, config)
    found = logits(rotated, (images.double() @ rotation).float(), config)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@every_metric
@few
@given(draw=draws)
def test_lengths_of_embeddings_do_not_matter(metric, metric_options, draw):
    classes, images, config = drawn(draw, metric, metric_options)
    factors = 10 ** (8 * torch.rand(100, 1, generator=seeded(draw[0])) - 4)
    stretched = [texts * factors[: len(texts)] for texts in classes]
    found = logits(stretched, images * factors[: len(images)], config)
    torch.testing.assert_close(found, logits(classes, images, config), atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("of", ["texts", "images"])
def test_neither_do_very_large_and_very_small_ones(of, factor):
    config = HeadConfig(
        metric="local_center", metric_options={"k": 2}, scale_rule=None, centering="class_mean"
    )
    classes, images = [one_class(4, DIM, seed) for seed in range(3)], torch.randn(6, DIM, generator=seeded(9))
    expected = logits(classes, images, config)
    if of == "texts":
        found = logits([texts * factor for texts in classes], images, config)
    else:
        found = logits(classes, images * factor, config)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@every_metric
@few
@given(draw=draws)
def test_one_text_a_class_is_the_cosine(metric, metric_options, draw):
    classes, images, config = drawn(draw, metric, metric_options)
    names = [texts[:1] for texts in classes]
    cosines = normalize(images, dim=-1) @ normalize(torch.cat(names), dim=-1).T
    found = logits(names, images, config.replaced(centering=None))
    torch.testing.assert_close(found, cosines, atol=1e-5, rtol=0)
    # Copies of the name are the name.
    found = logits([texts.repeat(4, 1) for texts in names], images, config.replaced(centering=None))
    torch.testing.assert_close(found, cosines, atol=1e-5, rtol=0)


def loop_scores(metric, options, images, own):
    points = torch.tensor(own.points)
    if metric == "local_star":
        nearest = (images @ points.T).argmax(1)
        stars = [loop_center(own.points[own.lengths[i] <= own.scale]) for i in nearest.tolist()]
        return (images * torch.tensor(np.array(stars))).sum(1)
    if "name_weight" in options and not own.named:
        options = {**options, "name_weight": 0.0}
    return METRICS[metric](images, points, **options)


@every_metric
@few
@given(draw=draws)
def test_centering_keeps_the_ranking_on_the_centered_texts_and_the_scale(metric, metric_options, draw):
    classes, images, config = drawn(draw, metric, metric_options)
    found = logits(classes, images, config.replaced(centering="class_mean")).double()
    spaces, mean, spread, _ = loop_space(
        classes, config.scale_rule, config.scale_options, config.keep_name, "class_mean"
    )
    unit = normalize(images.double(), dim=-1)
    scores = torch.stack([loop_scores(metric, metric_options, unit, one) for one in spaces], dim=1)
    expected = unit @ torch.tensor(mean)[:, None] + spread * scores
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found.gather(1, scores.argsort(dim=1)).diff(dim=1) > -1e-6).all()


def test_a_head_of_one_class_says_that_it_is_not_centered():
    config = HeadConfig(metric="center", scale_rule=None, centering="class_mean")
    head = fitted([one_class(4, DIM, seed=0)], config)
    assert not head.space.centered
    images = torch.randn(3, DIM, generator=seeded(1))
    torch.testing.assert_close(
        head(image_embeds=images),
        fitted([one_class(4, DIM, seed=0)], config.replaced(centering=None))(image_embeds=images),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_metric
def test_half_precision_texts_give_the_logits_of_the_values_they_hold(metric, metric_options, dtype):
    config = HeadConfig(
        metric=metric,
        metric_options=metric_options,
        scale_rule="quantile",
        scale_options={"q": 0.75},
        centering="class_mean",
    )
    classes = [one_class(n, DIM, seed=n, repeated=2).to(dtype) for n in (1, 5, 9)]
    images = torch.randn(4, DIM, generator=seeded(0)).to(dtype)
    expected = logits([texts.float() for texts in classes], images.float(), config)
    torch.testing.assert_close(logits(classes, images, config).float(), expected, atol=1e-5, rtol=0)


@every_metric
def test_a_head_fitted_under_autocast_is_the_same(metric, metric_options):
    config = HeadConfig(
        metric=metric,
        metric_options=metric_options,
        scale_rule="margin",
        scale_options={"epsilon": 0.9, "share": 0.5},
        centering="class_mean",
    )
    classes, images = [one_class(n, DIM, seed=n) for n in (1, 5, 9)], torch.randn(4, DIM, generator=seeded(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head = fitted(classes, config)
    torch.testing.assert_close(head(image_embeds=images), logits(classes, images, config), atol=1e-6, rtol=0)


class CoarseProducts(TorchFunctionMode):
    """Float32 products as a process-wide switch makes them on some machines: of numbers cut to bfloat16."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if getattr(function, "__name__", "") in ("matmul", "__matmul__", "mm", "bmm", "addmm", "einsum"):
            arguments = [
                each.bfloat16().float() if isinstance(each, Tensor) and each.dtype == torch.float32 else each
                for each in arguments
            ]
        return function(*arguments, **(keywords or {}))


def test_no_switch_of_the_whole_process_changes_what_is_decided():
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(6, 128, generator=generator) for _ in range(20)]
    texts = [torch.cat([own, own[:4] * 3, own[:2] + 1e-5]) for own in texts]  # repeated, and nearly
    names = [str(i) for i in range(20)]

    def decided():
        built = SynonymousSpaceHead().fit_embeddings(texts, names, logit_scale=10.0).space
        return [built.kept.tolist(), built.duplicate_of.tolist(), built.scales.tolist()]

    expected = decided()
    assert len(expected[0]) <= 20 * 6
    with CoarseProducts():
        assert decided() == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decided() == expected
