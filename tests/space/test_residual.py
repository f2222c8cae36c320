"""The residual of labelled images, against scipy and scikit-learn, and how its strength is chosen."""

from statistics import harmonic_mean

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy, normalize

from s3clip.space import strength
from s3clip.space.residual import basis, fit, log_prior, minimum, residual
from s3clip.space.strength import STRENGTHS, Asked, choose, chosen, fold_of, images_a_class


def problem(images=60, dim=6, classes=4, seed=0, noise=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    centres = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    embeds = centres[labels] + noise * torch.randn(images, dim, generator=generator, dtype=torch.float64)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return normalize(embeds, dim=1), logits, labels


def solved(embeds, logits, labels, strengths=(0.5,), *, constant=True):
    found = basis(embeds, constant=constant)
    return [residual(found, each) for each in fit(found.images, logits, labels, found.eigenvalues, strengths)]


@pytest.mark.parametrize("constant", [True, False], ids=["with a constant", "without, as before"])
@pytest.mark.parametrize(("images", "dim"), [(60, 6), (20, 40)], ids=["more images", "more dimensions"])
def test_it_is_the_smallest_of_the_sum_that_the_docs_give(images, dim, constant):
    embeds, logits, labels = problem(images, dim)
    logits[:, 1] += 2  # a class that stands too high whatever the image shows
    (found,) = solved(embeds, logits, labels, constant=constant)
    mean = embeds.mean(0)
    length = (embeds - mean).square().sum(1).mean().sqrt()
    seen = (embeds - mean) / length
    counts = np.bincount(labels, minlength=4) + 1
    prior = torch.tensor(np.log(counts / counts.sum()) / 2)

    def loss(flat):
        weights = torch.tensor(flat.reshape(dim + 1, 4), requires_grad=True)
        added = seen @ weights[:dim] + constant * weights[dim]
        value = cross_entropy(logits + added + prior, labels, reduction="sum")
        value = value + 0.25 * weights.square().sum()
        value.backward()
        return value.item(), weights.grad.numpy().ravel()

    best = minimize(
        loss, np.zeros((dim + 1) * 4), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}
    )
    weights = torch.tensor(best.x.reshape(dim + 1, 4))
    expected = weights[:dim] / length
    assert bool(weights[dim].any()) == constant
    torch.testing.assert_close(found.weights, expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(found.bias, weights[dim] - mean @ expected, atol=2e-4, rtol=0)


def test_without_a_space_and_with_equal_classes_it_is_logistic_regression():
    embeds, _, _ = problem(80, 5)
    labels = torch.arange(80) % 4
    found = basis(embeds)
    (weights,) = fit(found.images, torch.zeros(80, 4, dtype=torch.float64), labels, found.eigenvalues, [2.0])
    model = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(found.images.numpy(), labels.numpy())
    np.testing.assert_allclose(weights.T.numpy(), model.coef_, atol=1e-4)


def test_order_of_images_and_of_classes_and_rotations_change_nothing():
    embeds, logits, labels = problem()
    (expected,) = solved(embeds, logits, labels)
    images, classes = torch.randperm(60), torch.tensor([2, 0, 3, 1])
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    (found,) = solved(
        (embeds @ rotation)[images], logits[images][:, classes], classes.argsort()[labels][images]
    )
    torch.testing.assert_close(rotation @ found.weights, expected.weights[:, classes], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.bias, expected.bias[classes], atol=1e-4, rtol=0)


def test_in_parts_it_is_the_same(monkeypatch):
    embeds, logits, labels = problem()
    (expected,) = solved(embeds, logits, labels)
    monkeypatch.setattr("s3clip.space.residual._CHUNK_NUMBERS", 42)
    (found,) = solved(embeds, logits, labels)
    torch.testing.assert_close(found.weights, expected.weights, atol=1e-5, rtol=0)


def test_one_image_or_equal_ones_teach_nothing():
    embeds = normalize(torch.ones(3, 4, dtype=torch.float64), dim=1)
    (found,) = solved(embeds, torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 1, 1]))
    assert not found.weights.any()
    assert not found.bias.any()


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0], ids=["flat", "as it should be", "steep"])
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["round", "long"])
def test_the_minimiser_finds_the_minimum_of_a_quadratic_with_any_curvature(scale, spread):
    curvature = scale * torch.logspace(-spread, spread, 30, dtype=torch.float64)
    best = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked = []

    def loss(at):
        asked.append(at)
        return (curvature * (at - best).square()).sum() / 2, curvature * (at - best)

    enough = 1e-4 * scale
    found = minimum(loss, torch.zeros(30).double(), enough)
    assert (curvature * (found - best)).norm() <= enough
    if not spread:
        assert len(asked) == 3  # where it begins, a little ahead, and there
    assert torch.equal(minimum(loss, found, enough), found)


def test_a_prior_is_half_of_the_log_frequencies():
    np.testing.assert_allclose(
        log_prior(torch.tensor([0, 0, 0, 2]), 3), np.log(np.array([4, 1, 2]) / 7) / 2, rtol=1e-12
    )


def test_folds_hold_copies_together_and_spread_classes():
    labels = torch.arange(5).repeat_interleave(20)
    groups = torch.arange(100)
    folds = fold_of(labels, groups)
    assert torch.bincount(folds * 5 + labels).tolist() == [2] * 50
    groups[50] = 3
    assert (
        fold_of(labels, groups.unique(return_inverse=True)[1])[50]
        == fold_of(labels, groups.unique(return_inverse=True)[1])[3]
    )


def test_images_are_asked_by_residuals_that_have_not_seen_them():
    embeds, logits, labels = problem(40)
    found, groups = basis(embeds), torch.arange(40)
    asked = strength.ask(found, logits, labels, groups, [1.0])
    folds = fold_of(labels, groups)
    for fold in range(10):
        out = folds == fold
        (weights,) = fit(found.images[~out], logits[~out], labels[~out], found.eigenvalues, [1.0])
        prior = log_prior(labels[~out], 4)
        taught = logits[out] + found.images[out] @ weights
        expected = cross_entropy(logits[out] + prior, labels[out], reduction="none") - cross_entropy(
            taught + prior, labels[out], reduction="none"
        )
        torch.testing.assert_close(asked.gains[asked.folds == fold, 0], expected, atol=2e-2, rtol=0)
        assert torch.equal(asked.after[asked.folds == fold, 0], (taught.argmax(1) == labels[out]).double())


def test_of_many_images_enough_are_asked(monkeypatch):
    monkeypatch.setattr(strength, "ENOUGH", 25)
    embeds, logits, labels = problem(100)
    asked = strength.ask(basis(embeds), logits, labels, torch.arange(100), [1.0])
    assert 25 <= len(asked.labels) < 40


def outcomes(gains, after=1.0, before=0.0):
    count = len(gains)
    labels = torch.arange(count) % 2
    return Asked(
        labels,
        torch.arange(count) % 10,
        torch.full((count,), before).double(),
        torch.full((count, 1), after).double() if isinstance(after, float) else after[:, None].double(),
        gains[:, None].double(),
    )


def test_what_gains_no_more_than_chance_is_not_taken():
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    assert chosen(outcomes(noise + 0.04), 2) is None
    assert chosen(outcomes(noise + 0.06), 2) == 0


def test_what_lowers_accuracy_beyond_chance_is_not_taken():
    assert chosen(outcomes(torch.ones(100), after=torch.zeros(100), before=1.0), 2) is None
    spoilt = torch.ones(100)
    spoilt[0] = 0
    assert chosen(outcomes(torch.ones(100), after=spoilt, before=1.0), 2) == 0


def test_of_labels_that_say_nothing_nothing_is_said_to_be_gained():
    outside = 0
    for seed in range(20):
        embeds, logits, _ = problem(200, 20, seed=seed)
        labels = torch.randint(4, (200,), generator=torch.Generator().manual_seed(seed + 50))
        choice = choose(basis(embeds), logits * 0, labels, torch.arange(200))
        outside += not choice.top1.low <= 0 <= choice.top1.high
        if choice.strength is None:
            assert choice.top1.gain == choice.top1.low == choice.top1.high == choice.recall.gain == 0
    assert outside <= 2  # of 20, by intervals of 95 %


def test_one_class_or_copies_of_one_image_are_asked_of_the_words_alone():
    embeds, logits, labels = problem(20)
    right = float((logits.argmax(1) == 0).double().mean())
    choice = choose(basis(embeds), logits, labels * 0, torch.arange(20))
    assert choice.strength is None
    assert choice.top1 == (pytest.approx(right), 0, 0, 0)
    choice = choose(basis(embeds[:1].expand(20, -1)), logits, labels, labels * 0)
    assert choice.strength is None
    assert choice.top1.before == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_weak_strengths_are_for_classes_with_many_images():
    embeds, logits, labels = problem(400, 8, noise=0.3, seed=3)
    for images in (8, 60, 400):
        own = labels[:images]
        choice = choose(basis(embeds[:images]), logits[:images] * 0, own, torch.arange(images))
        a_class = harmonic_mean([int((own == each).sum()) + 0.5 for each in range(4)])
        assert images_a_class(own, 4) == pytest.approx(a_class)
        weakest = min(k for k, least in STRENGTHS.items() if a_class >= least)
        assert choice.strength is None or choice.strength * images >= weakest - 1e-9


def test_labels_that_say_much_are_used_and_the_gain_is_that_of_images_not_seen():
    embeds, logits, labels = problem(400, 8, noise=0.3, seed=3)
    train = torch.arange(400) < 200
    found = basis(embeds[train])
    choice = choose(found, logits[train], labels[train], torch.arange(200))
    assert choice.strength is not None
    (weights,) = fit(found.images, logits[train], labels[train], found.eigenvalues, [choice.strength])
    taught = residual(found, weights)
    after = (logits + embeds @ taught.weights + taught.bias)[~train].argmax(1) == labels[~train]
    before = logits[~train].argmax(1) == labels[~train]
    assert choice.top1.low < (after.double() - before.double()).mean() < choice.top1.high
    assert choice.recall.low < choice.recall.gain < choice.recall.high


@pytest.mark.parametrize(
    ("draws", "images"),
    [(30, [60, 30, 15, 8]), (20, [3] * 60)],
    ids=["unequal classes", "many classes of few images"],
)
def test_the_interval_holds_the_gain_on_images_without_end(draws, images):
    held, count, classes = torch.zeros(2), sum(images), len(images)
    drawn = torch.tensor(images) / count
    labels = torch.arange(classes).repeat_interleave(torch.tensor(images))
    labels = torch.cat([labels, torch.arange(classes).repeat_interleave(2400 // classes)])
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        centres, aside = torch.randn(2, classes, 16, generator=generator, dtype=torch.float64)
        embeds = centres[labels] + torch.randn(len(labels), 16, generator=generator, dtype=torch.float64)
        embeds = normalize(embeds, dim=1)
        logits = 20 * embeds @ normalize(centres + 2 * aside, dim=1).T
        found = basis(embeds[:count])
        choice = choose(found, logits[:count], labels[:count], torch.arange(count))
        assert choice.strength is not None
        (weights,) = fit(found.images, logits[:count], labels[:count], found.eigenvalues, [choice.strength])
        taught = residual(found, weights)
        before, after = (
            (each[count:].argmax(1) == labels[count:]).double().view(classes, -1).mean(1)
            for each in (logits, logits + embeds @ taught.weights + taught.bias)
        )
        gains = drawn.double() @ (after - before), (after - before).mean()
        for i, estimate in enumerate((choice.top1, choice.recall)):
            held[i] += estimate.low <= gains[i] <= estimate.high
    assert held.min() >= 0.9 * draws


@pytest.mark.parametrize("images", [2, 9])
def test_a_few_images_are_too_few(images):
    embeds, logits, labels = problem(images, noise=0.1)
    choice = choose(basis(embeds), logits, labels, torch.arange(images))
    assert choice.strength is None
