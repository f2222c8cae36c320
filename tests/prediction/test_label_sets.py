"""Sets of labels: the quantile against a plain count, and how often the right class is in."""

import math

import pytest
import torch
from PIL import Image

from s3clip import Calibration, SynonymousSpaceHead
from s3clip.prediction.conformal import least_probability
from tests.prediction.test_class_shares import problem
from tests.tiny_models import build


def members(head, **images):
    return [[p.class_index for p in own] for own in head.predict_sets(**images)]


def covered(head, embeds, labels):
    sets = members(head, image_embeds=embeds)
    return sum(label in own for own, label in zip(sets, labels.tolist(), strict=True)) / len(sets)


@pytest.mark.parametrize("coverage", [0.07, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("images", [9, 10, 99, 100])
def test_the_threshold_is_the_largest_that_enough_images_reach(coverage, images):
    own = torch.rand(images, generator=torch.Generator().manual_seed(images)).double()
    found = least_probability(own, coverage)
    # Of images + 1 that are drawn alike, the last is at or above the k-th largest of the others k times.
    needed = next(k for k in range(1, images + 2) if k >= (images + 1) * coverage - 1e-9)
    assert int((own >= found).sum()) == needed
    assert int((own > found * (1 + 1e-5)).sum()) == needed - 1


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("shares", [None, {0: 0.7}])
def test_sets_hold_the_class_of_images_never_seen_as_often_as_asked(coverage, sigmoid, shares):
    head, embeds, labels = problem(classes=6, images=20_000)
    if sigmoid:
        head.calibration = Calibration(activation="sigmoid")
    head.set_class_shares(shares)
    shown = slice(0, 4000)
    head.calibrate(image_embeds=embeds[shown], labels=labels[shown], coverage=coverage)
    # The standard deviation of the coverage over draws of 4,000 images is 0.6 points.
    assert covered(head, embeds[4000:], labels[4000:]) == pytest.approx(coverage, abs=0.02)
    # And of the images themselves: no more and no less than the quantile.
    needed = math.ceil(4001 * coverage - 1e-9)
    assert covered(head, embeds[shown], labels[shown]) == pytest.approx(needed / 4000, abs=1e-3)


def test_a_set_is_what_is_probable_enough_the_best_first():
    head, embeds, labels = problem()
    head.calibrate(image_embeds=embeds, labels=labels, coverage=0.8)
    least = head.calibration.least_probability
    probabilities = head.predict_proba(image_embeds=embeds)
    for own, full, row in zip(
        head.predict_sets(image_embeds=embeds, batch_size=7),
        head.predict(image_embeds=embeds, top_k=4),
        probabilities.tolist(),
        strict=True,
    ):
        assert own == full[: len(own)]
        assert sorted(p.class_index for p in own) == [i for i, p in enumerate(row) if p >= least]


def test_a_table_has_thresholds_instead():
    head, embeds, labels = problem()
    with pytest.raises(ValueError, match="one class an image, got a table"):
        head.calibrate(image_embeds=embeds, labels=torch.nn.functional.one_hot(labels, 4), coverage=0.9)


def test_a_rejection_counts_as_left_out_and_has_to_come_first():
    head, embeds, labels = problem(images=400)
    head.fit_rejection(image_embeds=embeds.flip(1), false_accept_rate=0.5)
    accepted = torch.tensor([own[0].accepted for own in head.predict(image_embeds=embeds, top_k=1)])
    kept = float(accepted.double().mean())
    assert 0.3 < kept < 0.98
    head.calibrate(image_embeds=embeds, labels=labels, coverage=kept - 0.2)
    sets = members(head, image_embeds=embeds)
    assert all(not own for own, good in zip(sets, accepted.tolist(), strict=True) if not good)
    assert covered(head, embeds, labels) == pytest.approx(kept - 0.2, abs=0.01)
    before = head.calibration
    with pytest.raises(ValueError, match="out of reach, since the rejection turns away"):
        head.calibrate(image_embeds=embeds, labels=labels, coverage=kept + 0.015)
    assert head.calibration == before
    with pytest.warns(UserWarning, match="coverage was of another rejection"):
        head.fit_rejection(image_embeds=embeds.flip(1))
    assert head.calibration.coverage is None
    with pytest.raises(ValueError, match=r"coverage=0\.9\) first"):
        head.predict_sets(image_embeds=embeds)


def test_other_shares_drop_the_coverage_and_nothing_else():
    head, embeds, labels = problem()
    head.calibrate(image_embeds=embeds, labels=labels, coverage=0.9)
    temperature = head.calibration.temperature
    with pytest.warns(UserWarning, match="coverage was of other class shares"):
        head.set_class_shares({0: 0.4})
    assert head.calibration == Calibration(activation="softmax", temperature=temperature)


def test_a_coverage_is_kept(tmp_path):
    head, embeds, labels = problem()
    digest = head.calibrate(image_embeds=embeds, labels=labels).class_space.digest()
    head.calibrate(image_embeds=embeds, labels=labels, coverage=0.9)
    assert head.class_space.digest() != digest
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "a"))
    assert loaded.calibration == head.calibration
    assert loaded.predict_sets(image_embeds=embeds) == head.predict_sets(image_embeds=embeds)
    other = SynonymousSpaceHead()
    other.load_state_dict(head.state_dict())
    assert other.calibration == head.calibration


def test_files_that_are_no_images_are_not_none_of_these(tmp_path):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog", "sea"])
    generator = torch.Generator().manual_seed(0)
    head.calibrate(image_embeds=torch.randn(60, 16, generator=generator), labels=[0, 1, 2] * 20, coverage=0.5)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    with pytest.warns(UserWarning, match=r"broken\.png"):
        found = head.predict_sets([tmp_path / "broken.png", tmp_path / "red.png"])
    assert found[0] is None
    head.calibration = head.calibration.model_copy(update={"least_probability": 1.0})
    assert head.predict_sets(tmp_path / "red.png") == [[]]


@pytest.mark.parametrize(
    ("coverage", "images", "message"),
    [
        (0.0, 60, r"share in \(0, 1\)"),
        (1.0, 60, r"share in \(0, 1\)"),
        (True, 60, r"share in \(0, 1\)"),
        ("90%", 60, r"share in \(0, 1\)"),
        (float("nan"), 60, r"share in \(0, 1\)"),
        (0.9, 8, "takes 9 images of known classes, got 8"),
        (0.99, 60, "takes 99 images"),
    ],
)
def test_bad_coverages_are_named(coverage, images, message):
    head, embeds, labels = problem()
    with pytest.raises(ValueError, match=message):
        head.calibrate(image_embeds=embeds[:images], labels=labels[:images], coverage=coverage)
    assert head.calibration is None


@pytest.mark.parametrize(
    "fields", [{"coverage": 0.9}, {"least_probability": 0.5}, {"coverage": 0.9, "least_probability": 1.5}]
)
def test_half_of_a_coverage_is_refused(fields):
    with pytest.raises(ValueError, match="least_probability"):
        Calibration(activation="softmax", **fields)
