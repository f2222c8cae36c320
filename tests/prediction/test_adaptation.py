"""Test-time adaptation against autograd, torch.optim.AdamW and a plain loop that moves every text."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from typer.testing import CliRunner

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, TestTimeAdapter, cli
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation import compare, compare_embeddings
from s3clip.evaluation.scores import expected_calibration_error
from s3clip.space.local_points import LOCAL_POINTS
from s3clip.space.metrics import METRICS
from s3clip.space.shift import (
    ADAPTATIONS,
    SHARED_RANK,
    AdamW,
    adaptable_space,
    confident_views,
    entropy,
    entropy_gradient,
    local_view,
    shift_gradient,
    shifted_scores,
)
from tests.tiny_models import build

DIM, SIZES, SCALE = 12, (1, 3, 3, 6, 2), 20.0
METRIC_SETTINGS = [
    *((metric, {}) for metric in METRICS),
    ("local_center", {"renormalize": True, "k": 2}),
    ("local_center", {"name_weight": 0.5, "k": None}),
    ("hull", {"k": 2}),
]
SPACES = [
    {"scale_rule": None},
    {"scale_rule": None, "centering": "class_mean"},
    {"scale_rule": "kept_share", "centering": "class_mean"},
]


def fitted(metric="local_center", options=None, *, sizes=SIZES, dtype=torch.float64, seed=0, **settings):
    """A head for embeddings whose classes are clusters; float64 all through."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"scale_rule": None, **settings}
    centres = torch.randn(len(sizes), 1, DIM, generator=generator, dtype=torch.float64)
    rows = [
        centre + 0.7 * torch.randn(size, DIM, generator=generator, dtype=torch.float64)
        for centre, size in zip(centres, sizes, strict=True)
    ]
    config = HeadConfig(metric=metric, metric_options=options or {}, **settings)
    head = SynonymousSpaceHead(config=config)
    head.fit_embeddings(rows, [f"class {i}" for i in range(len(sizes))], logit_scale=SCALE)
    return head.to(dtype)


def views_of(images, views, *, seed=1, dtype=torch.float64):
    """(images, views, DIM): each image's views scatter around it."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(images, 1, DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(images, views, DIM, generator=generator, dtype=torch.float64)
    noise[:, 0] = 0
    return (plain + 0.8 * noise).to(dtype)


# ---- the plain loop: one image, every text moved for real --------------------------------------------------


def chosen_weights(metric, options, image, texts, edges, *, named):
    """The weights of the texts for one image and class, on the unshifted space, and how they are compared."""
    products = texts @ image
    n = len(texts)
    uniform = torch.full((n,), 1 / n, dtype=texts.dtype)
    one_hot = torch.eye(n, dtype=texts.dtype)[products.argmax()]
    if metric == "nearest":
        return one_hot, "product"
    if metric == "mean_similarity":
        return uniform, "product"
    if metric == "center":
        return uniform, "cosine"
    if metric == "local_star":
        star = edges[products.argmax()].to(texts)
        return star / star.sum(), "cosine"
    if metric == "local_center":
        k = options["k"]
        count = n if k is None else min(k, n) if isinstance(k, int) else min(n, math.ceil(k * n - 1e-9))
        weights = torch.zeros(n, dtype=texts.dtype)
        weights[products.argsort(descending=True)[:count]] = 1 / count
        share = options["name_weight"] if named else 0
        weights = (1 - share) * weights
        weights[0] += share
        return weights, "cosine" if options["renormalize"] else "product"
    raise KeyError(metric)


def moved_score(metric, options, image, texts, shift, weights_of):
    """The metric on normalize(t + s), its choice of texts made before."""
    moved = normalize(texts + shift, dim=-1)
    if metric == "soft_nearest":
        beta = options["beta"]
        weights = (beta * (texts @ image)).softmax(0)
        plain = (beta * (texts @ image)).logsumexp(0) / beta - math.log(len(texts)) / beta
        return plain + weights @ (moved @ image - texts @ image)
    if metric == "hull":
        weights = hull_by_quadratic_programme(image, texts, options["k"])
        return 1 - (image - weights @ moved).square().sum() / 2
    if metric == "subspace":
        mean = texts.mean(0)
        directions = torch.linalg.svd(texts - mean, full_matrices=False).Vh[
            : min(options["r"], len(texts) - 1)
        ]
        point = mean + (image - mean) @ directions.T @ directions
        # The point as a combination of the texts with weights of sum 1.
        system = torch.cat([texts.T, torch.ones(1, len(texts), dtype=texts.dtype)])
        target = torch.cat([point, torch.ones(1, dtype=texts.dtype)])
        weights = torch.linalg.lstsq(system, target[:, None], driver="gelsd").solution[:, 0]
        return image @ normalize(weights @ moved, dim=0)
    weights, comparison = weights_of
    point = weights @ moved
    return image @ (normalize(point, dim=0) if comparison == "cosine" else point)


def hull_by_quadratic_programme(image, texts, k):
    from scipy.optimize import nnls

    products = texts @ image
    count = len(texts) if k is None else min(k, len(texts))
    rows = products.argsort(descending=True)[:count]
    # Non-negative least squares with a heavy row for "sum 1".
    heavy = 1e5
    system = np.vstack([texts[rows].T.numpy(), heavy * np.ones((1, count))])
    found, _ = nnls(system, np.append(image.numpy(), heavy))
    weights = torch.zeros(len(texts), dtype=texts.dtype)
    weights[rows] = torch.from_numpy(found / found.sum())
    return weights


def plain_loop(head, views, *, confidence, steps, lr, shared=False):
    """Adapt one image by autograd and torch.optim.AdamW; returns (logits, gradient of the first step)."""
    space, options, metric = head.space, head.config.metric_options, head.config.metric
    views = normalize(views, dim=-1)
    own = [torch.nonzero(space.point_owners == i)[:, 0] for i in range(len(space.scales))]
    texts = [space.points[rows] for rows in own]
    names = [
        bool(space.kept[rows[0]] == torch.nonzero(space.owners == i)[0, 0]) for i, rows in enumerate(own)
    ]
    edges = [space.edges(space.kept[rows][None])[0] for rows in own]
    spread = space.spread if space.centered else 1.0

    def logits_of(image, shifts):
        scores = []
        for i, rows in enumerate(texts):
            weights = None
            if metric not in ("soft_nearest", "hull", "subspace"):
                weights = chosen_weights(metric, options, image, rows, edges[i], named=names[i])
            scores.append(moved_score(metric, options, image, rows, shifts[i], weights))
        offset = image @ space.mean if space.centered else 0.0
        return SCALE * (offset + spread * torch.stack(scores))

    before = torch.stack([logits_of(view, torch.zeros(len(texts), DIM, dtype=views.dtype)) for view in views])
    predictions = before.softmax(-1)
    uncertain = -(predictions * predictions.log()).sum(-1)
    chosen = uncertain.argsort()[: max(1, int(len(views) * confidence))]
    basis = torch.eye(DIM, dtype=views.dtype)
    if shared:
        centres = torch.stack([normalize(rows.mean(0), dim=0) for rows in texts])
        basis = torch.linalg.svd(centres, full_matrices=False).Vh[:SHARED_RANK]
    parameter = torch.zeros(1 if shared else len(texts), len(basis), dtype=views.dtype, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=lr)
    first = None
    for _ in range(steps):
        optimizer.zero_grad()
        shifts = (parameter @ basis).expand(len(texts), DIM)
        mean = torch.stack([logits_of(views[i], shifts) for i in chosen]).softmax(-1).mean(0)
        (-(mean * mean.log()).sum()).backward()
        first = parameter.grad.clone() if first is None else first
        optimizer.step()
    with torch.no_grad():
        return logits_of(views[0], (parameter @ basis).expand(len(texts), DIM)), first


# ---- the identities ----------------------------------------------------------------------------------------


def test_every_metric_has_local_points():
    assert LOCAL_POINTS.keys() == METRICS.keys()


@pytest.mark.parametrize("space", SPACES, ids=["plain", "centered", "filtered"])
@pytest.mark.parametrize(("metric", "options"), METRIC_SETTINGS)
def test_shift_is_a_plain_loop_with_autograd_and_adamw(metric, options, space):
    head = fitted(metric, options, **space)
    views = views_of(3, 7)
    adapter = TestTimeAdapter(head, confidence=0.5, lr=0.02)
    adapted = adapter(views)
    for image, own in zip(views, adapted, strict=True):
        expected, _ = plain_loop(head, image, confidence=0.5, steps=1, lr=0.02)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)
    assert (adapted - head(image_embeds=views[:, 0])).abs().max() > 1e-3


@pytest.mark.parametrize(("metric", "steps"), [("local_center", 4), ("center", 3), ("hull", 2)])
def test_more_steps_are_more_steps_of_adamw(metric, steps):
    head = fitted(metric)
    views = views_of(2, 6)
    adapted = TestTimeAdapter(head, confidence=0.5, lr=0.05, steps=steps)(views)
    for image, own in zip(views, adapted, strict=True):
        expected, _ = plain_loop(head, image, confidence=0.5, steps=steps, lr=0.05)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("metric", ["local_center", "local_star"])
def test_shared_shift_is_a_plain_loop(metric, steps):
    head = fitted(metric, centering="class_mean")
    views = views_of(2, 6)
    adapted = TestTimeAdapter(head, "shared_shift", confidence=0.5, lr=0.05, steps=steps)(views)
    for image, own in zip(views, adapted, strict=True):
        expected, _ = plain_loop(head, image, confidence=0.5, steps=steps, lr=0.05, shared=True)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("space", SPACES, ids=["plain", "centered", "filtered"])
@pytest.mark.parametrize(("metric", "options"), METRIC_SETTINGS)
def test_gradient_is_autograds(metric, options, space):
    head = fitted(metric, options, **space)
    image = views_of(1, 4, seed=5)
    found, expected = (
        first_gradient(head, image),
        plain_loop(head, image[0], confidence=1.0, steps=1, lr=1)[1],
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert expected.abs().max() > 1e-2


def first_gradient(head, image):
    """(classes, DIM), the gradient of the loss in the shifts at zero, over all views of one image."""
    space = adaptable_space(head.space, head.config.metric, head.config.metric_options)
    views = normalize(image, dim=-1)
    slopes = SCALE * space.spread * entropy_gradient(head(image_embeds=image[0])[None])
    gradient = torch.empty(len(space.position), DIM, dtype=image.dtype)
    for group in space.groups:
        local = local_view(space, group, views)
        scores = shifted_scores(local, group.tables["gram"], space.comparison, None)
        gradient[group.classes] = shift_gradient(group, views, scores, slopes[..., group.classes], None)[:, 0]
    return gradient


def test_a_text_a_class_is_normalize_of_text_plus_shift():
    # Where each class has one text, every metric is the cosine, and the shift that of TPS.
    head = fitted("local_star", sizes=(1, 1, 1))
    views = views_of(1, 5)
    adapted = TestTimeAdapter(head, confidence=1.0, lr=0.1)(views)[0]
    texts = normalize(head.space.raw, dim=-1)
    shift = torch.zeros_like(texts, requires_grad=True)
    logits = SCALE * normalize(views[0], dim=-1) @ normalize(texts + shift, dim=-1).T
    mean = logits.softmax(-1).mean(0)
    (gradient,) = torch.autograd.grad(-(mean * mean.log()).sum(), shift)
    expected = (
        SCALE
        * normalize(views[0, 0], dim=0)
        @ normalize(texts - 0.1 * gradient / (gradient.abs() + 1e-8), dim=-1).T
    )
    torch.testing.assert_close(adapted, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ADAPTATIONS)
@pytest.mark.parametrize("metric", METRICS)
def test_neither_batch_nor_order_changes_an_image(method, metric):
    head = fitted(metric, sizes=SIZES[:3] if metric == "hull" else SIZES, centering="class_mean")
    views = views_of(9, 4)
    adapter = TestTimeAdapter(head, method, confidence=0.3, lr=0.02)
    together = adapter(views)
    alone = torch.cat([adapter(one) for one in views.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapter(views[order]), together[order], rtol=0, atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    head, views = fitted(), views_of(7, 8)
    adapter = TestTimeAdapter(head)
    together = adapter(views)
    monkeypatch.setattr("s3clip.prediction.adaptation.CHUNK_NUMBERS", 1)
    torch.testing.assert_close(adapter(views), together, rtol=0, atol=1e-9)


def test_float32_gives_the_labels_of_float64_and_logits_to_a_hundredth():
    views = views_of(200, 16)
    wide = TestTimeAdapter(fitted())(views)
    adapter = TestTimeAdapter(fitted(dtype=torch.float32))
    narrow = adapter(views.float())
    alone = torch.cat([adapter(one) for one in views.float().split(1)])
    for found in (narrow, alone):
        assert (found.argmax(1) == wide.argmax(1)).all()
        torch.testing.assert_close(found.double(), wide, rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ADAPTATIONS)
def test_half_precision_is_computed_in_float32(method, dtype):
    """Of embeddings and heads in half precision, only what they store is rounded."""
    head, views = fitted(dtype=torch.float32), views_of(100, 16, dtype=torch.float32).to(dtype)
    adapter = TestTimeAdapter(head, method)
    logits = adapter(views)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, adapter(views.float()), rtol=0, atol=0)
    half_head = TestTimeAdapter(fitted(dtype=dtype), method)(views)
    assert half_head.dtype == torch.float32
    if method != "zero":  # its votes jump
        torch.testing.assert_close(half_head, logits, rtol=0, atol=0.5 if dtype == torch.bfloat16 else 0.05)
    certain = logits.topk(2).values.diff(dim=1).abs()[:, 0] > 1
    assert certain.sum() > 30
    assert (half_head.argmax(1) == logits.argmax(1))[certain].all()


def test_autocast_does_not_round():
    head, views = fitted(dtype=torch.float32), views_of(10, 8, dtype=torch.float32)
    adapter = TestTimeAdapter(head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = adapter(views)
    torch.testing.assert_close(logits, adapter(views), rtol=0, atol=0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["shift", "shared_shift"])
def test_no_steps_are_the_plain_head(method, metric):
    head, views = fitted(metric, centering="class_mean"), views_of(5, 8)
    torch.testing.assert_close(
        TestTimeAdapter(head, method, steps=0)(views), head(image_embeds=views[:, 0]), rtol=0, atol=1e-12
    )


def test_a_vanishing_step_is_the_plain_head():
    head, views = fitted("local_center", {"renormalize": True}), views_of(5, 8)
    torch.testing.assert_close(
        TestTimeAdapter(head, lr=1e-12)(views), head(image_embeds=views[:, 0]), rtol=0, atol=1e-9
    )


def test_shift_lowers_the_entropy_of_the_mean_prediction():
    # What the loss says, on a view set that is one image: the prediction becomes surer.
    head = fitted()
    views = views_of(40, 1)
    before, after = head(image_embeds=views[:, 0]), TestTimeAdapter(head, lr=1e-4)(views)
    assert (entropy(after) < entropy(before)).all()


def test_permuted_classes_and_texts_permute_logits():
    head, views = fitted(), views_of(4, 8)
    rows = list(head.space.raw.split(list(SIZES)))
    order = [3, 0, 4, 2, 1]
    other = SynonymousSpaceHead(config=head.config).fit_embeddings(
        [torch.cat([rows[i][:1], rows[i][1:].flip(0)]) for i in order], list("abcde"), logit_scale=SCALE
    )
    torch.testing.assert_close(
        TestTimeAdapter(other)(views), TestTimeAdapter(head)(views)[:, order], rtol=0, atol=1e-9
    )


# ---- the pieces --------------------------------------------------------------------------------------------


def test_entropy_gradient_is_autograds():
    logits = (5 * torch.randn(3, 4, 6, dtype=torch.float64)).requires_grad_()
    mean = logits.softmax(-1).mean(1)
    loss = -(mean * mean.log()).sum()
    torch.testing.assert_close(
        entropy_gradient(logits.detach()), torch.autograd.grad(loss, logits)[0], rtol=0, atol=1e-12
    )


def test_hopeless_classes_make_no_nan():
    logits = torch.tensor([[[0.0, -1e4, 3.0], [1.0, -1e4, 2.0]]])
    gradient = entropy_gradient(logits)
    assert gradient.isfinite().all()
    assert gradient[0, :, 1].eq(0).all()


def test_confident_views_are_those_of_lowest_entropy():
    logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0], [1.0, 0.0], [0.0, 5.0], [0.0, 9.0]]])
    assert confident_views(logits, 0.6).tolist() == [[4, 1, 3]]  # of equals the earlier one
    assert confident_views(logits, 0.59).tolist() == [[4, 1]]
    assert confident_views(logits, 0.01).tolist() == [[4]]


@pytest.mark.parametrize("steps", [1, 5])
def test_adamw_is_torchs(steps):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, 3, generator=generator, dtype=torch.float64) * 1e-8 for _ in range(steps)]
    expected = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([expected], lr=0.1)
    step, found = AdamW(0.1, steps), None
    for gradient in gradients:
        expected.grad = gradient
        optimizer.step()
        found = step(found, [gradient])
    torch.testing.assert_close(found[0], expected.detach(), rtol=0, atol=1e-12)


def test_zero_counts_votes():
    head, views = fitted(), views_of(30, 9)
    logits = TestTimeAdapter(head, "zero", confidence=0.5)(views)
    for own, image in zip(logits, views, strict=True):
        single = head(image_embeds=image)
        sure = sorted(range(9), key=lambda i: float(entropy(single[i])))[:4]
        votes = np.bincount(single[sure].argmax(1).numpy(), minlength=len(SIZES))
        mean = single[sure].softmax(-1).mean(0).numpy()
        np.testing.assert_allclose(own.exp().numpy(), (votes + mean) / 5, atol=1e-12)
        best = np.flatnonzero(votes == votes.max())
        assert int(own.argmax()) == best[mean[best].argmax()]


def test_sigmoid_families_keep_their_bias_and_get_shares_of_votes():
    head = SynonymousSpaceHead(*build("siglip"))
    head.fit_classes({"cat": ["kitty"], "dog": [], "ship": ["boat"]}, templates="{}")
    generator = torch.Generator().manual_seed(0)
    views = normalize(torch.randn(6, 8, head.space.raw.shape[1], generator=generator), dim=-1)
    plain = head(image_embeds=views[:, 0]).detach()
    torch.testing.assert_close(TestTimeAdapter(head, steps=0)(views), plain, rtol=0, atol=1e-4)
    moved = TestTimeAdapter(head)(views) - plain
    assert 0 < moved.abs().max() < 5  # the bias is -4.7, and counted once
    softmax = SynonymousSpaceHead(config=head.config).fit_embeddings(
        list(head.space.raw.split([each.rows for each in head.classes])),
        head.class_names,
        logit_scale=head.logit_scale,
    )
    shares = TestTimeAdapter(softmax, "zero", confidence=0.5)(views).softmax(-1)
    found = TestTimeAdapter(head, "zero", confidence=0.5)(views)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sigmoid(), shares, rtol=0, atol=1e-5)


def test_mean_views_is_the_mean_of_the_heads_logits():
    head, views = fitted(centering="class_mean"), views_of(4, 6)
    expected = torch.stack([head(image_embeds=image).mean(0) for image in views])
    torch.testing.assert_close(TestTimeAdapter(head, "mean_views")(views), expected, rtol=0, atol=1e-12)


# ---- the module, and predict -------------------------------------------------------------------------------


def test_a_changed_head_is_followed():
    head, views = fitted(dtype=torch.float32), views_of(4, 6)
    adapter = TestTimeAdapter(head)
    adapter(views)
    for change in (
        lambda: head.reconfigure(metric="center"),
        lambda: head.remove_classes([1]),
        lambda: head.double(),
        lambda: head.reconfigure(logit_scale=7.0),
    ):
        change()
        torch.testing.assert_close(adapter(views), TestTimeAdapter(head)(views), rtol=0, atol=0)


def test_views_of_a_length_that_is_not_one():
    head, views = fitted(), views_of(4, 6)
    adapter = TestTimeAdapter(head)
    torch.testing.assert_close(adapter(normalize(views, dim=-1)), adapter(views), rtol=0, atol=1e-9)


def test_no_image_and_one_class():
    head = fitted(sizes=(3,), centering="class_mean")
    assert TestTimeAdapter(head)(views_of(0, 4)).shape == (0, 1)
    for method in ("shift", "shared_shift"):
        views = views_of(2, 4)
        adapted = TestTimeAdapter(head, method)(views)  # one class is always certain: no gradient, no shift
        torch.testing.assert_close(adapted, head(image_embeds=views[:, 0]), rtol=0, atol=1e-9)


def test_predict_takes_a_method_an_adapter_and_views(head):
    head.fit_classes({"cat": ["feline", "kitty"], "dog": ["hound"], "ship": []})
    generator = torch.Generator().manual_seed(0)
    pictures = [
        Image.fromarray(torch.randint(256, (40, 50, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(3)
    ]
    adapter = TestTimeAdapter(head, views=6, confidence=0.5)
    embeds = adapter.encode(pictures)
    assert embeds.shape == (3, 6, head.space.raw.shape[1])
    expected = adapter(embeds).softmax(-1)
    by_pictures = head.predict(pictures, adapt=adapter, top_k=3, batch_size=2)
    by_embeds = head.predict(image_embeds=embeds, adapt=adapter, top_k=3)
    for own, other, row in zip(by_pictures, by_embeds, expected, strict=True):
        assert [p.class_index for p in own] == [p.class_index for p in other]
        for prediction in own:
            assert prediction.score == pytest.approx(float(row[prediction.class_index]), abs=1e-5)
    assert head.predict(pictures[0], adapt="mean_views") == head.predict(
        pictures[0], adapt=TestTimeAdapter(head, "mean_views")
    )
    plain = head.predict(pictures, top_k=1)
    assert head.predict(pictures, adapt=None, top_k=1) == plain


def test_no_gradient_reaches_the_encoders(head):
    head.fit_classes({"cat": ["feline", "kitty"], "dog": ["hound"], "ship": []})
    picture = Image.new("RGB", (40, 40), "red")
    adapter = TestTimeAdapter(head, views=4, confidence=0.5, steps=2)
    with torch.enable_grad():
        embeds = adapter.encode([picture])
        logits = adapter(embeds.clone().requires_grad_())
    assert not embeds.requires_grad
    assert not logits.requires_grad
    assert any(parameter.requires_grad for parameter in head.parameters())
    assert all(parameter.grad is None for parameter in head.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "shove"}, "method: unknown method 'shove'; known: shift"),
        ({"views": 0}, "views: expected a whole number >= 1, got 0"),
        ({"confidence": 0}, r"confidence: expected a share of the views in \(0, 1\], got 0"),
        ({"confidence": 1.5}, "confidence"),
        ({"steps": -1}, "steps: expected a whole number >= 0, got -1"),
        ({"steps": True}, "steps"),
        ({"lr": 0}, "lr: expected a finite number > 0, got 0"),
        ({"lr": math.inf}, "lr"),
        ({"crop_area": 2}, "crop_area"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TestTimeAdapter(fitted(), **settings)


def test_wrong_inputs_are_named():
    head, views = fitted(), views_of(2, 4)
    with pytest.raises(ValueError, match=r"view_embeds: expected shape \(images, views, 12\)"):
        TestTimeAdapter(head)(views[0])
    with pytest.raises(ValueError, match="no backbone; give image_embeds="):
        TestTimeAdapter(head).encode([Image.new("RGB", (8, 8))])
    with pytest.raises(ValueError, match="not fitted"):
        TestTimeAdapter(SynonymousSpaceHead())(views)
    with pytest.raises(ValueError, match="another head"):
        head.predict(image_embeds=views, adapt=TestTimeAdapter(fitted()))
    with pytest.raises(TypeError, match="adapt: expected"):
        head.predict(image_embeds=views, adapt=1)
    with pytest.raises(ValueError, match=r"image_embeds: expected shape \(images, views, dim\)"):
        head.predict(image_embeds=views[:, 0], adapt="shift")
    views[1, 2] = math.nan
    with pytest.raises(ValueError, match="image 1, view 2: its embedding is zero, NaN or Inf"):
        head.predict(image_embeds=views, adapt="shift")


# ---- the comparison and the command ------------------------------------------------------------------------


def test_compare_scores_what_the_adapter_predicts():
    head, views = fitted("center", dtype=torch.float32), views_of(30, 6, dtype=torch.float32)
    labels = torch.arange(30) % len(SIZES)
    texts = list(head.space.raw.split(list(SIZES)))
    result = compare_embeddings(
        texts,
        head.class_names,
        views,
        labels,
        logit_scale=SCALE,
        methods=["name"],
        configs={"mine": head.config},
        adapt=["shift", "zero"],
        bootstrap=20,
    )
    assert {each.name for each in result.scores} == {
        *("center", "name", "mine"),
        *("name+shift", "name+zero", "mine+shift", "mine+zero"),
    }
    names = SynonymousSpaceHead(config=HeadConfig(metric="center", scale_rule=None))
    names.fit_embeddings([own[:1] for own in texts], head.class_names, logit_scale=SCALE)
    for base, own in (("mine", head), ("name", names)):
        assert result[base].top1 == pytest.approx(
            (own(image_embeds=views[:, 0]).argmax(1) == labels).double().mean().item()
        )
        for method in ("shift", "zero"):
            adapted = TestTimeAdapter(own, method)(views).argmax(1)
            assert result[f"{base}+{method}"].top1 == pytest.approx(
                (adapted == labels).double().mean().item()
            )


@pytest.mark.filterwarnings("ignore:.*truncated")  # the tiny SigLIP reads 16 letters
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_compare_is_as_sure_as_predict_under_a_sigmoid(adaptation):
    classes, backbone = {"zero": ["0", "nil"], "one": ["1"], "two": []}, Backbone(*build("siglip"))
    head = SynonymousSpaceHead(backbone).fit_classes(classes)
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(12, 1, backbone.dim, generator=generator)
    views = views + 0.3 * torch.randn(12, 6, backbone.dim, generator=generator)
    labels = torch.arange(12) % 3
    answers = [own[0] for own in head.predict(image_embeds=views, adapt=adaptation, top_k=1)]
    result = compare(
        classes,
        labels.tolist(),
        backbone=backbone,
        image_embeds=views,
        methods=["default"],
        adapt=[adaptation],
        bootstrap=5,
    )
    found = result[f"default+{adaptation}"]
    right = torch.tensor([answer.class_index for answer in answers]) == labels
    error = expected_calibration_error(torch.tensor([answer.score for answer in answers]), right)
    assert found.top1 == pytest.approx(right.double().mean().item())
    assert found.calibration_error == pytest.approx(error, abs=1e-5)


def test_compare_makes_views_of_images():
    pictures, labels = held_out_digits()
    pictures, labels = pictures[:12], [int(label) for label in labels[:12]]
    backbone = Backbone.from_pretrained(model_folder())
    result = compare(
        synonym_file(), labels, backbone=backbone, images=pictures, methods=["default"], bootstrap=20,
        adapt=["mean_views"], views=5, seed=3,
    )  # fmt: skip
    head = SynonymousSpaceHead(backbone).fit_classes(synonym_file())
    adapter = TestTimeAdapter(head, "mean_views", views=5, seed=3)
    predicted = adapter(adapter.encode(pictures)).argmax(1)
    assert result["default+mean_views"].top1 == pytest.approx(np.mean(predicted.numpy() == labels))
    assert result.settings["views"] == 5


@pytest.mark.parametrize(
    ("adapt", "embeds", "error", "message"),
    [
        (["push"], views_of(4, 3), ValueError, "adapt: unknown adaptation 'push'; known: shift"),
        ("shift", views_of(4, 3), TypeError, "adapt: expected a list of names"),
        (["shift"], views_of(4, 3)[:, 0], ValueError, r"expected shape \(images, views, dim\)"),
        ([], views_of(4, 3), ValueError, r"expected shape \(images, dim\)"),
    ],
)
def test_compare_names_what_is_wrong(adapt, embeds, error, message):
    texts = [torch.eye(DIM)[i : i + 1] for i in range(3)]
    with pytest.raises(error, match=message):
        compare_embeddings(texts, list("abc"), embeds, [0, 1, 2, 0], logit_scale=SCALE, adapt=adapt)


def test_the_command_adapts(tmp_path):
    pictures, _ = held_out_digits()
    photo = tmp_path / "photo.png"
    pictures[0].save(photo)
    head = SynonymousSpaceHead(Backbone.from_pretrained(model_folder())).fit_classes(synonym_file())
    head.save_pretrained(tmp_path / "space")
    base = ["predict", str(photo), "--head", str(tmp_path / "space"), "--format", "json"]
    result = CliRunner().invoke(cli.app, [*base, "--adapt", "zero", "--views", "7"])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    (expected,) = head.predict([photo], adapt=TestTimeAdapter(head, "zero", views=7), top_k=1)
    assert found["predictions"][0]["label"] == expected[0].label
    assert found["predictions"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
    refused = CliRunner().invoke(cli.app, [*base, "--adapt", "push"])
    assert "unknown method 'push'" in str(refused.exception)
    compared = CliRunner().invoke(
        cli.app,
        ["compare", "--embeddings", str(views_file(tmp_path)), "--out", str(tmp_path / "out"),
         "--method", "default", "--adapt", "shift", "--bootstrap", "20"],
    )  # fmt: skip
    assert compared.exit_code == 0, compared.output
    assert "default+shift" in compared.output


def views_file(folder):
    path = folder / "views.npz"
    np.savez(
        path,
        image_embeds=views_of(6, 4).numpy(),
        labels=np.arange(6) % 3,
        text_embeds=np.eye(DIM)[:3],
        owners=np.arange(3),
        class_names=np.array(list("abc")),
        logit_scale=SCALE,
    )
    return path
