"""Calibrated probabilities and thresholds, against scikit-learn, a grid and counts."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from s3clip import Calibration, HeadConfig, S3ZeroShotImageClassificationPipeline, SynonymousSpaceHead
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.prediction.calibrating import fit_calibration, rejection_threshold
from tests.tiny_models import build


def problem(classes: int, images: int = 400, dim: int = 12, seed: int = 0):
    """A head of embeddings, image embeddings near their classes, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randn(classes, dim, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    embeds = names[labels] + 1.5 * torch.randn(images, dim, generator=generator)
    head = SynonymousSpaceHead(config=HeadConfig(logit_scale=100.0))
    head.fit_embeddings(list(names[:, None]), [f"class {i}" for i in range(classes)])
    return head, embeds, labels


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_temperature_is_that_of_a_fine_grid(classes: int):
    head, embeds, labels = problem(classes)
    logits = head(image_embeds=embeds)
    head.calibrate(image_embeds=embeds, labels=labels)
    assert head.calibration is not None
    grid = np.exp(np.linspace(np.log(0.5), np.log(200), 20_001))
    losses = [float(torch.nn.functional.cross_entropy(logits.double() / t, labels)) for t in grid[::20]]
    assert head.calibration.temperature == pytest.approx(grid[::20][int(np.argmin(losses))], rel=0.01)
    probabilities = head.predict_proba(image_embeds=embeds)
    torch.testing.assert_close(probabilities, (logits / head.calibration.temperature).softmax(-1))
    assert log_loss(labels, probabilities, labels=range(classes)) < log_loss(
        labels, logits.softmax(-1), labels=range(classes)
    )
    torch.testing.assert_close(head(image_embeds=embeds), logits, atol=0, rtol=0)


def test_classes_that_no_image_shows_are_part_of_the_softmax():
    head, embeds, labels = problem(6)
    shown = labels < 2
    head.calibrate(image_embeds=embeds[shown], labels=labels[shown])
    logits = head(image_embeds=embeds[shown]).double()
    grid = torch.linspace(1, 100, 5000)
    losses = torch.stack([torch.nn.functional.cross_entropy(logits / t, labels[shown]) for t in grid])
    assert head.calibration is not None
    assert head.calibration.temperature == pytest.approx(float(grid[losses.argmin()]), rel=0.01)


def test_names_and_positions_are_the_same_labels():
    head, embeds, labels = problem(4)
    by_position = head.calibrate(image_embeds=embeds, labels=labels).calibration
    by_name = head.calibrate(image_embeds=embeds, labels=[f"class {i}" for i in labels.tolist()]).calibration
    assert by_name == by_position


def test_several_classes_an_image_are_platt_scaled_with_a_threshold_each():
    head, embeds, labels = problem(5)
    truth = torch.nn.functional.one_hot(labels, 5)
    truth[::7] = 0  # images of nothing
    truth[:, 4] = 0  # and a class that no image shows
    head.calibrate(image_embeds=embeds, labels=truth)
    fitted = head.calibration
    assert fitted is not None
    assert fitted.activation == "sigmoid"
    logits = head(image_embeds=embeds)
    plain = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    plain.fit(logits.double().numpy().reshape(-1, 1), truth.numpy().reshape(-1))
    expected = plain.predict_proba(logits.double().numpy().reshape(-1, 1))[:, 1].reshape(-1, 5)
    probabilities = head.predict_proba(image_embeds=embeds).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert fitted.thresholds is not None
    for i in range(4):
        scores = [
            f1_score(truth[:, i].numpy(), probabilities[:, i] >= t) for t in np.unique(probabilities[:, i])
        ]
        chosen = fitted.accepts(logits)[:, i]
        assert f1_score(truth[:, i].numpy(), chosen.numpy()) == pytest.approx(max(scores))


def test_a_sigmoid_family_gets_a_bias():
    head, embeds, labels = problem(3)
    logits = head(image_embeds=embeds)
    fitted = fit_calibration(logits, labels, "sigmoid")
    assert fitted.activation == "sigmoid"
    mean = fitted.probabilities(logits).mean()
    assert float(mean) == pytest.approx(1 / 3, abs=1e-3)  # the intercept makes it the share of pairs


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.29, 0.5, 0.999])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_no_more_negatives_than_wanted_are_accepted(rate: float, count: int):
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1)).round(decimals=2)
    threshold = rejection_threshold(scores, rate)
    accepts = Calibration(activation="softmax", thresholds=(threshold,)).accepts
    accepted = int(accepts(scores).sum())
    assert accepted <= rate * count + 1e-9
    # And a threshold any lower would let too many in.
    lower = float(scores[~accepts(scores)].max())
    assert int((scores >= lower).sum()) > rate * count


def test_images_of_nothing_are_rejected(head: SynonymousSpaceHead, tmp_path: Path):
    known, embeds, labels = problem(4)
    known.calibrate(image_embeds=embeds, labels=labels)
    negatives = torch.randn(300, 12, generator=torch.Generator().manual_seed(9))
    known.fit_rejection(image_embeds=negatives, false_accept_rate=0.1)
    answers = known.predict(image_embeds=negatives, top_k=4)
    assert sum(own[0].accepted for own in answers) == 30
    assert known.calibration is not None
    limit = known.calibration.thresholds[0]
    reached = known(image_embeds=negatives).double() >= limit
    assert all(p.accepted == reached[i, p.class_index] for i, own in enumerate(answers) for p in own)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("count", [100, 301])
def test_as_many_images_of_the_classes_are_accepted_as_wanted(rate: float, count: int):
    head, _, _ = problem(4)
    images = torch.randn(count, 12, generator=torch.Generator().manual_seed(count))
    head.fit_rejection(image_embeds=images, accept_rate=rate)
    # One more, the image to come, is counted as one that is accepted when the threshold is reached.
    wanted = next(n for n in range(count + 1) if n >= rate * (count + 1) - 1e-9)
    for batch in (count, 1):  # whose products round otherwise
        answers = head.predict(image_embeds=images, top_k=1, batch_size=batch)
        assert sum(own[0].accepted for own in answers) == wanted
    shared = copy.deepcopy(head).set_class_shares({i: 0.25 for i in range(4)})
    assert sum(own[0].accepted for own in shared.predict(image_embeds=images, top_k=1)) == wanted


def test_a_share_of_the_classes_is_kept_of_images_to_come():
    """Split conformal: over draws of 19 images, 95 % of the next one, to the error of 3,000 draws."""
    head, _, _ = problem(4)
    accepted = []
    for seed in range(150):
        images = torch.randn(39, 12, generator=torch.Generator().manual_seed(seed))
        head.fit_rejection(image_embeds=images[:19], accept_rate=0.9)
        answers = head.predict(image_embeds=images[19:], top_k=1)
        accepted.append(sum(own[0].accepted for own in answers) / 20)
    assert sum(accepted) / len(accepted) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1.0, r"accept_rate: expected a share in \(0, 1\)"),
        (0, r"accept_rate: expected a share in \(0, 1\)"),
        ("95%", "accept_rate: expected a share"),
        (0.99, "accept_rate: 0.99 takes 99 images of known classes, got 60"),
    ],
)
def test_bad_shares_to_accept_are_named(rate, message):
    head, embeds, _ = problem(4)
    with pytest.raises(ValueError, match=message):
        head.fit_rejection(image_embeds=embeds[:60], accept_rate=rate)
    with pytest.raises(ValueError, match="one of the two, got both"):
        head.fit_rejection(image_embeds=embeds[:60], accept_rate=0.9, false_accept_rate=0.05)
    assert head.calibration is None


def test_a_threshold_goes_to_no_other_backbone(tmp_path: Path):
    """It is a number of logits of one model: what holds it names the model, and is refused on another."""
    one, other = (SynonymousSpaceHead(*build("clip", seed=seed)) for seed in (0, 1))
    images = torch.randn(30, one.backbone.dim)
    one.fit_classes(["cat", "dog"], cache=False).fit_rejection(image_embeds=images)
    with pytest.raises(ValueError, match="made with another backbone"):
        SynonymousSpaceHead.from_pretrained(one.save_pretrained(tmp_path), backbone=other.backbone)
    with pytest.raises(ValueError, match="made with another backbone"):
        other.fit_classes(["car"], cache=False).merge(one)
    assert other.calibration is None
    # A state dict holds the model beside the thresholds.
    empty = SynonymousSpaceHead(*build("clip", seed=2))
    empty.load_state_dict(one.state_dict())
    assert empty.calibration == one.calibration
    assert torch.equal(empty.fingerprint()["image"], one.fingerprint()["image"])


def test_a_rejection_stays_when_probabilities_are_calibrated():
    head, embeds, labels = problem(4)
    before = head.fit_rejection(image_embeds=embeds.flip(1)).calibration
    after = head.calibrate(image_embeds=embeds, labels=labels).calibration
    assert before is not None
    assert after is not None
    assert after.thresholds == before.thresholds
    assert after.temperature != before.temperature


def test_a_calibration_is_saved_and_stands_in_the_state_dict(tmp_path: Path):
    head, embeds, labels = problem(4)
    head.calibrate(image_embeds=embeds, labels=labels).fit_rejection(image_embeds=embeds.flip(1))
    expected = head.predict(image_embeds=embeds[:9])
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "a"))
    assert loaded.calibration == head.calibration
    assert [[p.accepted for p in own] for own in loaded.predict(image_embeds=embeds[:9])] == [
        [p.accepted for p in own] for own in expected
    ]
    other = SynonymousSpaceHead()
    other.load_state_dict(head.state_dict())
    assert other.calibration == head.calibration


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.remove_classes([0]),
        lambda head: head.reconfigure(metric="center"),
        lambda head: head.merge(problem(2)[0]),
        lambda head: head.fit_embeddings([torch.eye(12)[:1], torch.eye(12)[1:2]], ["a", "b"]),
    ],
)
def test_changes_drop_a_calibration_with_one_warning(change):
    head, embeds, labels = problem(4)
    head.calibrate(image_embeds=embeds, labels=labels)
    with pytest.warns(UserWarning, match="calibration was of other classes") as said:
        change(head)
    assert len(said) == 1
    assert head.calibration is None


def test_a_rejection_that_goes_is_said_too():
    head, embeds, labels = problem(4)
    head.calibrate(image_embeds=embeds, labels=labels).fit_rejection(image_embeds=embeds.flip(1))
    with pytest.warns(
        UserWarning, match=r"is dropped; calibrate.*The rejection went with it; fit_rejection\(\)"
    ):
        head.fit_few_shot(image_embeds=embeds, labels=labels)
    assert head.calibration is None


def test_a_rename_or_a_refused_change_keeps_it():
    head, embeds, labels = problem(4)
    head.calibrate(image_embeds=embeds, labels=labels)
    kept = head.calibration
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.rename_class(0, "zero")
        head.reconfigure(metric=head.config.metric)
        with pytest.raises(ValueError, match="position"):
            head.remove_classes([77])
    assert head.calibration == kept


def test_the_pipeline_gives_calibrated_scores():
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog", "sea"])
    generator = torch.Generator().manual_seed(0)
    head.calibrate(image_embeds=torch.randn(60, 16, generator=generator), labels=[0, 1, 2] * 20)
    image = Image.new("RGB", (40, 30), "red")
    answers = S3ZeroShotImageClassificationPipeline(head=head)(image)
    expected = head.predict(image)[0]
    assert [each["label"] for each in answers] == [p.label for p in expected]
    np.testing.assert_allclose([each["score"] for each in answers], [p.score for p in expected], atol=1e-6)


def test_everything_right_is_said():
    head = SynonymousSpaceHead(config=HeadConfig(logit_scale=1.0))
    head.fit_embeddings(list(torch.eye(3)[:, None]), ["a", "b", "c"])
    with pytest.warns(UserWarning, match="every image is classified right"):
        head.calibrate(image_embeds=torch.eye(3), labels=[0, 1, 2])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, "labels: expected the class of each image"),
        ([0, 1], ValueError, "one for each of 400 images, got 2"),
        ([9] * 400, ValueError, r"positions in 0\.\.3, got 9"),
        (["class 0"] * 399 + ["cat"], ValueError, "'cat': no class has it"),
        ([0.5] * 400, TypeError, "class positions, names"),
        ([True, False] * 200, TypeError, "class positions, names"),
        (torch.zeros(400, 3), ValueError, r"shape \(images, 4\)"),
        (torch.full((400, 4), 2), ValueError, "zeros and ones"),
        (torch.zeros(400, 4), ValueError, "images that show a class"),
        ("class 0", TypeError, "one label for each image"),
    ],
)
def test_bad_labels_are_named(labels, error, message: str):
    head, embeds, _ = problem(4)
    with pytest.raises(error, match=message):
        head.calibrate(image_embeds=embeds, labels=labels)
    assert head.calibration is None


def test_labels_against_the_logits_are_named():
    head, embeds, labels = problem(2)
    table = torch.nn.functional.one_hot(1 - labels, 2)
    with pytest.raises(ValueError, match=r"order of head\.class_names"):
        head.calibrate(image_embeds=embeds, labels=table)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), "5%", True])
def test_bad_rates_are_named(rate):
    head, embeds, _ = problem(2)
    with pytest.raises(ValueError, match="false_accept_rate"):
        head.fit_rejection(image_embeds=embeds, false_accept_rate=rate)
    with pytest.raises(ValueError, match="got none"):
        head.fit_rejection(image_embeds=embeds[:0])


def test_positions_after_a_table_leave_no_threshold_of_the_table():
    head, embeds, labels = problem(4)
    table = torch.nn.functional.one_hot(labels, len(head.class_names))
    fresh = head.calibrate(image_embeds=embeds, labels=labels).calibration
    head.calibrate(image_embeds=embeds, labels=table)
    assert len(head.calibration.thresholds) == len(head.class_names)
    assert head.calibrate(image_embeds=embeds, labels=labels).calibration == fresh
    # A rejection, one threshold for all, is not of the labels and stays.
    head.fit_rejection(image_embeds=embeds.flip(1))
    threshold = head.calibration.thresholds
    assert head.calibrate(image_embeds=embeds, labels=labels).calibration.thresholds == threshold


@pytest.mark.parametrize(
    ("config", "fitted", "changed", "kept"),
    [
        (50.0, 100.0, 50.0, False),
        (None, 100.0, 100.0, True),
        (50.0, None, 50.0, True),
        (50.0, None, 60.0, False),
    ],
)
def test_a_calibration_is_of_the_scale_it_was_made_at(config, fitted, changed, kept):
    """Whether it is kept hangs on the scale that counts, and not on where that stands."""
    head = SynonymousSpaceHead(config=HeadConfig(logit_scale=config))
    head.fit_embeddings([torch.eye(4)[:2], torch.eye(4)[2:]], ["a", "b"], logit_scale=fitted)
    before = float(head.logit_scale)
    head.calibration = Calibration(activation="softmax", temperature=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head.reconfigure(logit_scale=changed)
    assert float(head.logit_scale) == changed
    assert (head.calibration is not None) == kept
    assert not kept or float(head.logit_scale) == before


def test_what_is_accepted_does_not_hang_on_the_batch():
    pictures, digits = held_out_digits()
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    shown = torch.nn.functional.one_hot(torch.tensor(digits[:100]), len(head.classes))
    head.calibrate(pictures[:100], shown)

    def accepted(batch_size: int) -> list[set[int]]:
        found = head.predict(pictures[:100], top_k=10, batch_size=batch_size)
        return [{each.class_index for each in own if each.accepted} for own in found]

    assert accepted(1) == accepted(2) == accepted(32) == accepted(100)


def test_no_more_are_accepted_in_another_batch_than_were_asked_for():
    pictures, _ = held_out_digits()
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(["zero", "one", "two"])
    strange = [each.rotate(90) for each in pictures[:60]]
    for start in range(0, 60, 4):
        own = strange[start:] + strange[:start]
        head.fit_rejection(own[:20], false_accept_rate=0.1, batch_size=20)
        for batch_size in (1, 7, 20):
            found = head.predict(own[:20], top_k=1, batch_size=batch_size)
            assert sum(each.accepted for (each,) in found) <= 2


def test_images_that_the_head_learned_from_are_told_of():
    pictures, digits = held_out_digits()
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.fit_few_shot(pictures[:60], digits[:60], batch_size=60)
    assert head.few_shot.strength is not None

    def told(first: int, last: int, batch_size: int) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            some = {"batch_size": batch_size}
            head.calibrate(pictures[first:last], digits[first:last], **some)
            head.fit_rejection(pictures[first:last], accept_rate=0.5, **some)
        return [said for each in caught if (said := str(each.message)).startswith("images: the head learned")]

    for batch_size in (1, 32):
        assert told(60, 120, batch_size) == []
        assert [said.partition(",")[0] for said in told(50, 90, batch_size)] == [
            "images: the head learned from 10 of these 40"
        ] * 2
    head.forget_examples()
    assert told(50, 90, 32) == []
