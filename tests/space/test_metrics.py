"""Every metric, compared with a plain loop over images and classes, and with exact identities."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch.nn.functional import normalize

from s3clip.space import folding
from s3clip.space.folding import FoldedSpace
from s3clip.space.metrics import METRICS
from s3clip.space.rips import chordal_distances
from s3clip.space.synonymous_space import build_space

BATCH, DIM = 5, 16


def unit(*shape, seed=0, dtype=torch.float64):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def around(*shape, seed=0, spread=0.5):
    """Texts about a direction of their own for every class, as those of a class are."""
    return normalize(
        unit(*shape[:-2], 1, shape[-1], seed=seed) + spread * unit(*shape, seed=seed + 1), dim=-1
    )


# ---------------------------------------------------------------------------------------------- plain loops


def cosine_to_mean(image, texts):
    """With the fallback of METHOD part 2."""
    mean = sum(texts) / len(texts)
    length = math.sqrt(mean @ mean)
    return image @ mean / length if length >= 1e-6 else max(image @ text for text in texts)


def nearest_texts(image, texts, k):
    ranked = sorted(texts, key=lambda text: -(image @ text))
    return ranked if k is None else ranked[:k]


def loop_nearest(image, texts, scale):
    return max(image @ text for text in texts)


def loop_soft_nearest(image, texts, scale, beta):
    top = max(image @ text for text in texts)
    return top + math.log(sum(math.exp(beta * (image @ text - top)) for text in texts) / len(texts)) / beta


def loop_mean_similarity(image, texts, scale):
    return sum(image @ text for text in texts) / len(texts)


def loop_center(image, texts, scale):
    return cosine_to_mean(image, texts)


def loop_local_center(image, texts, scale, k, renormalize, name_weight, named=True):
    count = len(texts) if k is None else k if isinstance(k, int) else math.ceil(Fraction(str(k)) * len(texts))
    chosen = nearest_texts(image, texts, count)
    weight = name_weight if named else 0
    mean = (1 - weight) * sum(chosen) / len(chosen) + weight * texts[0]
    if not renormalize:
        return image @ mean
    length = math.sqrt(mean @ mean)
    return image @ mean / length if length >= 1e-6 else image @ chosen[0]


def loop_local_star(image, texts, scale):
    first = nearest_texts(image, texts, 1)[0]
    return cosine_to_mean(image, [text for text in texts if math.dist(first, text) <= scale])


def loop_hull(image, texts, scale, k):
    """The point of a hull nearest to 0 by non-negative least squares: |Pw|² + (Σw - 1)², then rescaled."""
    k = math.ceil(Fraction(str(k)) * len(texts)) if isinstance(k, float) else k
    edges = np.array(nearest_texts(image, texts, k)) - image
    weights, _ = nnls(np.vstack([edges.T, np.ones(len(edges))]), np.r_[np.zeros(len(image)), 1])
    distance = (weights / weights.sum()) @ edges
    return 1 - distance @ distance / 2


def loop_subspace(image, texts, scale, r):
    mean = np.mean(texts, axis=0)
    _, sizes, directions = np.linalg.svd(np.array(texts) - mean, full_matrices=False)
    projection = mean.copy()
    for size, direction in list(zip(sizes, directions, strict=True))[: min(r, len(texts) - 1)]:
        if size > 1e-5:
            projection += (image - mean) @ direction * direction
    return image @ projection / math.sqrt(projection @ projection)


LOOPS = {
    "nearest": loop_nearest,
    "soft_nearest": loop_soft_nearest,
    "mean_similarity": loop_mean_similarity,
    "center": loop_center,
    "local_center": loop_local_center,
    "local_star": loop_local_star,
    "hull": loop_hull,
    "subspace": loop_subspace,
}

SETTINGS = [
    ("nearest", {}),
    ("soft_nearest", {"beta": 20.0}),
    ("soft_nearest", {"beta": 1}),
    ("mean_similarity", {}),
    ("center", {}),
    *[
        ("local_center", {"k": k, "renormalize": renormalize, "name_weight": 0.0})
        for k in (1, 3, 100, None)
        for renormalize in (True, False)
    ],
    *[
        ("local_center", {"k": k, "renormalize": renormalize, "name_weight": 0.3})
        for k in (2, 0.4, None)
        for renormalize in (True, False)
    ],
    ("local_star", {}),
    ("hull", {"k": None}),
    ("hull", {"k": 3}),
    ("hull", {"k": 0.5}),
    ("subspace", {"r": 1}),
    ("subspace", {"r": 3}),
    ("subspace", {"r": 100}),
]


def by_loop(name, images, classes, scale, options):
    """(images, classes) scores; `classes` is a list of (n, dim) tensors, `scale` one number or one each."""
    scales = np.broadcast_to(np.asarray(scale, dtype=float), (len(classes),))
    return np.array(
        [
            [
                LOOPS[name](image, list(texts.double().numpy()), own_scale, **options)
                for texts, own_scale in zip(classes, scales, strict=True)
            ]
            for image in images.double().numpy()
        ]
    )


def test_every_metric_has_a_loop():
    assert set(METRICS) == set(LOOPS) == {name for name, _ in SETTINGS}
    assert all(METRICS[name].name == name for name in METRICS)


@pytest.mark.parametrize("n", [1, 2, 4, 9, 30])
@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_metrics_are_their_plain_loops(name, options, n):
    images, points = unit(BATCH, DIM, seed=n), around(6, n, DIM, seed=n + 1)
    expected = by_loop(name, images, points, 0.6, options)
    wide = METRICS[name](images, points, scale=0.6, **options)
    assert wide.dtype == torch.float64
    np.testing.assert_allclose(wide, expected, atol=1e-8)
    narrow = METRICS[name](images.float(), points.float(), scale=0.6, **options)
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow, expected, atol=2e-6)


@pytest.mark.parametrize("spread", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("k", [None, 7])
def test_the_hull_of_narrow_and_of_wide_classes(spread, k):
    points = around(8, 40, 64, seed=1, spread=spread)
    # Images near the texts, so that some project into the inside of a face of many texts.
    images = normalize(points[:, :5].mean(1) + 0.1 * unit(8, 64, seed=9), dim=-1)
    expected = by_loop("hull", images, points, 0, {"k": k})
    np.testing.assert_allclose(METRICS["hull"](images.float(), points.float(), k=k), expected, atol=1e-5)


def test_an_image_between_two_texts_is_as_near_as_the_chord():
    for angle in (0.01, 0.3, 1.0, 1.5):
        cos, sin = math.cos(angle), math.sin(angle)
        points = torch.tensor([[cos, sin, 0], [cos, -sin, 0]], dtype=torch.float64)
        image = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
        assert METRICS["hull"](image, points).item() == pytest.approx(1 - (1 - cos) ** 2 / 2, abs=1e-12)


def test_one_class_is_as_several():
    images, points = unit(BATCH, DIM), around(3, 6, DIM)
    for name, options in SETTINGS:
        together = METRICS[name](images, points, scale=torch.tensor([0.4, 0.6, 0.8]), **options)
        assert together.shape == (BATCH, 3)
        for i, scale in enumerate((0.4, 0.6, 0.8)):
            alone = METRICS[name](images, points[i], scale=scale, **options)
            torch.testing.assert_close(alone, together[:, i], msg=f"{name} {options}")


def test_a_star_takes_the_texts_at_exactly_the_scale():
    points = around(7, DIM, seed=4)
    images = unit(BATCH, DIM)
    for scale in chordal_distances(points).unique().tolist():
        # The loop takes a little more, so that its own rounding does not decide.
        expected = by_loop("local_star", images, [points], scale * (1 + 1e-9), {})
        np.testing.assert_allclose(
            METRICS["local_star"](images, points, scale=scale)[:, None], expected, atol=1e-9
        )


# ----------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_on_one_text_every_metric_is_the_cosine(name, options):
    images, points = unit(BATCH, DIM), unit(4, 1, DIM, seed=1)
    torch.testing.assert_close(METRICS[name](images, points, **options), images @ points[:, 0].T)


def test_identities_between_metrics():
    images, points = unit(BATCH, DIM), around(4, 7, DIM)

    def score(name, **options):
        return METRICS[name](images, points, **options)

    def local(k, renormalize, name_weight=0.0):
        return score("local_center", k=k, renormalize=renormalize, name_weight=name_weight)

    to_name = images @ points[:, 0].T
    for pair in [
        (local(1, True), score("nearest")),
        (local(1, False), score("nearest")),
        (local(7, True), score("center")),
        (local(7, False), score("mean_similarity")),
        (local(0.999, False), score("mean_similarity")),
        (local(0.001, False), score("nearest")),
        (local(4, False), local(0.5, False)),
        (local(2, False, 0.3), 0.7 * local(2, False) + 0.3 * to_name),
        (local(None, False, 0.3), 0.7 * score("mean_similarity") + 0.3 * to_name),
        (score("hull", k=1), score("nearest")),
        (score("hull", k=7), score("hull", k=None)),
        (score("hull", k=4), score("hull", k=0.5)),
        (score("local_star", scale=0.0), score("nearest")),
        (score("local_star", scale=2.0), score("center")),
        (score("local_star", scale=math.inf), score("center")),
        (score("subspace", r=6), score("subspace", r=1000)),
    ]:
        torch.testing.assert_close(*pair)


def test_local_center_of_all_but_one_text_is_the_center_of_those():
    images, points = unit(1, DIM), around(5, DIM)
    left = points[(images @ points.T)[0].argsort()[1:]]
    torch.testing.assert_close(
        METRICS["local_center"](images, points, k=4, renormalize=True, name_weight=0.0),
        METRICS["center"](images, left),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_soft_nearest_goes_from_the_mean_to_the_nearest(dtype):
    images, points = unit(BATCH, DIM, dtype=dtype), around(4, 7, DIM).to(dtype)
    for beta in (1e5, 1e8, 1e30):
        soft = METRICS["soft_nearest"](images, points, beta=beta)
        torch.testing.assert_close(soft, METRICS["nearest"](images, points), atol=5e-5, rtol=0)
    for beta in (1e-4, 1e-6, 1e-9):
        soft = METRICS["soft_nearest"](images, points, beta=beta)
        torch.testing.assert_close(soft, METRICS["mean_similarity"](images, points), atol=5e-5, rtol=0)


def test_repeating_every_text_changes_none_but_the_local_ones():
    images, points = unit(BATCH, DIM), around(4, 5, DIM)
    twice = torch.cat([points, points], dim=1)
    for name in ("nearest", "soft_nearest", "mean_similarity", "center", "local_star", "hull"):
        torch.testing.assert_close(
            METRICS[name](images, twice, scale=0.5), METRICS[name](images, points, scale=0.5), msg=name
        )


# --------------------------------------------------------------------------------------- vanishing means


def vanishing(kind, dim, dtype, classes=20):
    """One image and the texts of one class each: (classes, dim) and (classes, n, dim), turned at random."""
    generator = torch.Generator().manual_seed(dim)
    turned, _ = torch.linalg.qr(torch.randn(classes, dim, 3, generator=generator).double())
    a, b, c = turned.unbind(-1)
    if kind == "opposite":
        texts = [a, -a]
    else:
        texts = [a, -a / 2 + 3**0.5 / 2 * b, -a / 2 - 3**0.5 / 2 * b]
    images = normalize(0.6 * a - 0.2 * b + 0.5 * c, dim=-1)
    return images.to(dtype), torch.stack(texts, dim=1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [3, 64, 512])
@pytest.mark.parametrize("kind", ["opposite", "triangle"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("center", {}),
        ("local_center", {"k": None, "renormalize": True, "name_weight": 0.0}),
        ("local_center", {"k": 3, "renormalize": True, "name_weight": 0.0}),
        ("local_star", {}),
    ],
)
def test_texts_whose_mean_vanishes_score_by_the_nearest(name, options, kind, dim, dtype):
    images, texts = vanishing(kind, dim, dtype)
    expected = METRICS["nearest"](images, texts)
    torch.testing.assert_close(METRICS[name](images, texts, **options), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [3, 64, 512])
def test_a_local_mean_that_vanishes_scores_by_the_nearest(dim, dtype):
    images, texts = vanishing("triangle", dim, dtype)
    # A fourth text, the farthest from the image: the local mean of the others is what vanishes.
    more = torch.cat([texts, -images[:, None]], dim=1)
    score = METRICS["local_center"](images, more, k=3, renormalize=True, name_weight=0.0).diagonal()
    expected = METRICS["nearest"](images, texts).diagonal()
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


def test_a_class_whose_mean_vanishes_leaves_the_classes_beside_it_alone():
    images, texts = vanishing("triangle", DIM, torch.float32, classes=1)
    beside = around(4, 3, DIM).float()
    for k in (2, 3, None):
        options = {"k": k, "renormalize": True, "name_weight": 0.0}
        alone = METRICS["local_center"](images, beside, **options)
        together = METRICS["local_center"](images, torch.cat([texts, beside]), **options)
        torch.testing.assert_close(together[:, 1:], alone)


# -------------------------------------------------------------------------------------- precision, gradients


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_half_precision_is_finite_and_near_single(name, options, n, dtype):
    images, points = unit(BATCH, 64).to(dtype), around(4, n, 64).to(dtype)
    expected = METRICS[name](images.float(), points.float(), scale=0.5, **options)
    score = METRICS[name](images, points, scale=0.5, **options)
    assert score.dtype == dtype
    assert score.isfinite().all()
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(score.float(), expected, atol=6 * epsilon, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_where_there_is_nothing_to_divide_by(dtype):
    axes = torch.eye(8, dtype=dtype)
    images, texts = vanishing("triangle", 8, dtype)
    for name, options in SETTINGS:
        assert METRICS[name](images, texts, **options).isfinite().all(), (name, options)
        # An image at right angles to two opposite texts: all products are 0, and so is the mean.
        opposite = torch.stack([axes[0], -axes[0]])
        expected = METRICS[name](axes[1:2].double(), opposite.double(), **options)
        assert METRICS[name](axes[1:2], opposite, **options).tolist() == expected.tolist(), (name, options)


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_gradients_to_the_images(name, options):
    images, points = unit(1, 5, seed=1).requires_grad_(), around(2, 4, 5, seed=2)
    assert torch.autograd.gradcheck(
        lambda given: METRICS[name](given, points, scale=0.5, **options), images, atol=1e-6
    )


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nearest", {"k": 2}, "nearest takes no option 'k'; it takes: none"),
        ("local_center", {"n": 2}, "local_center takes no option 'n'; it takes: k, "),
        ("local_center", {"k": 0}, "option 'k' of local_center: expected a whole number >= 1.*got 0"),
        ("local_center", {"k": 2.5}, "option 'k' of local_center: expected .*got 2.5"),
        ("local_center", {"k": 1.0}, "option 'k' of local_center: expected .*got 1.0"),
        ("local_center", {"k": 0.0}, "option 'k' of local_center: expected .*got 0.0"),
        ("local_center", {"name_weight": 1}, "option 'name_weight' of local_center: expected .*got 1"),
        ("local_center", {"name_weight": -0.1}, "option 'name_weight' of local_center: expected .*got -0.1"),
        ("local_center", {"k": True}, "option 'k' of local_center: expected .*got True"),
        (
            "local_center",
            {"renormalize": 1},
            "option 'renormalize' of local_center: expected True or False, got 1",
        ),
        ("hull", {"k": -1}, "option 'k' of hull: expected .*got -1"),
        ("subspace", {"r": 0}, "option 'r' of subspace: expected .*got 0"),
        ("subspace", {"r": None}, "option 'r' of subspace: expected .*got None"),
        ("soft_nearest", {"beta": 0}, "option 'beta' of soft_nearest: expected .*> 0, got 0"),
        ("soft_nearest", {"beta": -3.0}, "option 'beta' of soft_nearest: expected .*> 0, got -3.0"),
        ("soft_nearest", {"beta": math.inf}, "option 'beta' of soft_nearest: expected .*> 0, got inf"),
        ("soft_nearest", {"beta": math.nan}, "option 'beta' of soft_nearest: expected .*> 0, got nan"),
    ],
)
def test_metrics_refuse_options_that_are_unknown_or_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        METRICS[name](unit(2, 4), unit(3, 4), **options)


@pytest.mark.parametrize(
    ("images", "points"), [((4,), (3, 4)), ((2, 4), (4,)), ((2, 4), (3, 5)), ((2, 4), (1, 1, 3, 4))]
)
def test_metrics_refuse_shapes_that_do_not_fit(images, points):
    for metric in METRICS.values():
        with pytest.raises(ValueError, match="images, points: expected shapes"):
            metric(torch.ones(images), torch.ones(points))


# ---------------------------------------------------------------------------------------------------- folded


def ragged(sizes, seed=0):
    """Rows and owners of classes with these numbers of texts, in float64."""
    texts = [around(size, DIM, seed=seed + 2 * i) for i, size in enumerate(sizes)]
    owners = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.cat(texts), owners, [f"class {i}" for i in range(len(sizes))]


@pytest.mark.parametrize(("block_rows", "centering"), [(5, None), (5, "class_mean"), (32_768, "class_mean")])
@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_a_folded_space_is_the_metric_class_by_class(monkeypatch, name, options, centering, block_rows):
    monkeypatch.setattr(folding, "BLOCK_ROWS", block_rows)
    space = build_space(*ragged([3, 1, 8, 3, 1, 3]), centering=centering)
    folded = FoldedSpace(space, name, options)
    assert (len(folded.blocks) == 1) == (block_rows > 1000)
    images = unit(BATCH, DIM, seed=99)
    classes = [space.points[space.point_owners == i] for i in range(6)]
    expected = by_loop(name, images, classes, space.scales.numpy(), options)
    if centering is not None:
        expected = images.numpy() @ space.mean.numpy()[:, None] + space.spread.item() * expected
    np.testing.assert_allclose(folded(images), expected, atol=1e-8)
    found = torch.full((BATCH, 6), torch.nan, dtype=torch.float64)
    for positions, scores in folded.logits_by_block(images, 1.0):
        assert found[:, positions].isnan().all()
        found[:, positions] = scores
    torch.testing.assert_close(found, folded(images))


def test_a_folded_space_reads_the_scales(monkeypatch):
    monkeypatch.setattr(folding, "BLOCK_ROWS", 7)
    space = build_space(*ragged([6, 2, 9, 6, 1, 9]), scale_rule="fixed", scale_options={"epsilon": 0.55})
    assert len(space.sizes.unique()) > 2
    images = unit(BATCH, DIM, seed=99)
    classes = [space.points[space.point_owners == i] for i in range(6)]
    expected = by_loop("local_star", images, classes, space.scales.numpy(), {})
    np.testing.assert_allclose(FoldedSpace(space, "local_star", {})(images), expected, atol=1e-8)


def test_a_folded_space_weighs_the_name_only_where_it_was_kept():
    raw, owners, names = ragged([7, 7, 7, 7])
    raw[owners.diff(prepend=torch.tensor([-1])) > 0] *= -1  # the own names lie on the other side
    raw[0] *= -1  # but that of the first
    space = build_space(raw, owners, names, scale_rule="fixed", scale_options={"epsilon": 1.2})
    first_rows = torch.searchsorted(owners, torch.arange(4))
    named = [int(row) in space.kept.tolist() for row in first_rows]
    assert named == [True, False, False, False]
    images = unit(BATCH, DIM, seed=99)
    for k in (2, None):
        for renormalize in (True, False):
            options = {"k": k, "renormalize": renormalize, "name_weight": 0.3}
            expected = [
                [
                    loop_local_center(
                        image, list(space.points[space.point_owners == i].numpy()), None, **options, named=own
                    )
                    for i, own in enumerate(named)
                ]
                for image in images.numpy()
            ]
            found = FoldedSpace(space, "local_center", options)(images)
            np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_a_folded_space_in_half_precision_is_near_the_single(name, options, dtype):
    raw, owners, names = ragged([3, 1, 8])
    space = build_space(raw.float(), owners, names, centering="class_mean")
    folded, images = FoldedSpace(space, name, options), unit(BATCH, DIM, seed=99).to(dtype)
    expected = folded(images.float())
    scores = folded.to(dtype)(images)
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.float(), expected, atol=12 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_a_folded_space_in_half_precision_divides_by_nothing(name, options, dtype):
    axes = torch.eye(8)
    space = build_space(torch.stack([axes[0], -axes[0], axes[1]]), torch.tensor([0, 0, 1]), ["a", "b"])
    folded = FoldedSpace(space, name, options)
    expected = folded(axes[2:4])
    torch.testing.assert_close(folded.to(dtype)(axes[2:4].to(dtype)).float(), expected, atol=1e-3, rtol=0)


def test_nothing_of_a_folded_space_is_in_a_state_dict():
    folded = FoldedSpace(build_space(*ragged([3, 1])), "hull", {"k": 2})
    assert not folded.state_dict()
