"""Shares of classes: Bayes' rule by hand, wherever logits go."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from s3clip import (
    Calibration,
    S3ZeroShotImageClassificationPipeline,
    SynonymousSpaceClassifier,
    SynonymousSpaceHead,
    TestTimeAdapter,
)
from tests.tiny_models import build

SHARES = (0.5, 0.3, 0.15, 0.05)


def problem(classes=4, images=60, dim=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn(classes, 3, dim, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    embeds = texts[labels, 0] + 1.5 * torch.randn(images, dim, generator=generator)
    head = SynonymousSpaceHead().fit_embeddings(
        list(texts), [f"class {i}" for i in range(classes)], logit_scale=9.0
    )
    return head, embeds, labels


def named(shares=SHARES):
    return {f"class {i}": share for i, share in enumerate(shares)}


def bayes(probabilities, shares, sigmoid=False):
    """The probabilities of images among which classes are so common, from those of equally common ones."""
    found = []
    for row in probabilities.tolist():
        if sigmoid:
            before = 1 / len(row)
            odds = [
                p / (1 - p) * (s / (1 - s)) / (before / (1 - before))
                for p, s in zip(row, shares, strict=True)
            ]
            found.append([each / (1 + each) for each in odds])
        else:
            joint = [p * s for p, s in zip(row, shares, strict=True)]
            found.append([each / sum(joint) for each in joint])
    return torch.tensor(found)


@pytest.mark.parametrize(
    "calibration",
    [
        None,
        Calibration(activation="softmax", temperature=2.5),
        Calibration(activation="sigmoid", temperature=0.7, bias=-1.0),
    ],
)
def test_probabilities_are_those_of_bayes_rule(calibration):
    head, embeds, _ = problem()
    head.calibration = calibration
    before = head.predict_proba(image_embeds=embeds)
    head.set_class_shares(named())
    expected = bayes(before, SHARES, calibration is not None and calibration.activation == "sigmoid")
    found = head.predict_proba(image_embeds=embeds)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(head.probabilities(head(image_embeds=embeds)), found, atol=1e-6, rtol=1e-5)
    answers = head.predict(image_embeds=embeds, top_k=4)
    assert [own[0].class_index for own in answers] == head(image_embeds=embeds).argmax(1).tolist()
    for own, row in zip(answers, expected, strict=True):
        assert [p.score for p in own] == pytest.approx([float(row[p.class_index]) for p in own], abs=1e-6)


def test_equal_shares_change_nothing_and_none_takes_them_back():
    head, embeds, _ = problem()
    logits, digest = head(image_embeds=embeds), head.class_space.digest()
    head.set_class_shares(dict.fromkeys(range(4), 0.25))
    torch.testing.assert_close(head(image_embeds=embeds), logits, atol=1e-6, rtol=0)
    assert head.class_space.digest() != digest
    head.set_class_shares(None)
    assert torch.equal(head(image_embeds=embeds), logits)
    assert head.class_space.digest() == digest


def test_what_is_fitted_is_the_same_before_and_after():
    first, embeds, labels = problem()
    second = copy.deepcopy(first)
    first.calibrate(image_embeds=embeds, labels=labels).fit_rejection(image_embeds=embeds.flip(1))
    first.set_class_shares(named())
    second.set_class_shares(named())
    second.calibrate(image_embeds=embeds, labels=labels).fit_rejection(image_embeds=embeds.flip(1))
    assert first.calibration.temperature == pytest.approx(second.calibration.temperature, rel=1e-5)
    assert first.calibration.thresholds == pytest.approx(second.calibration.thresholds, rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_a_rejection_keeps_its_rate_with_shares(rate):
    head, embeds, _ = problem(images=200)
    head.set_class_shares({0: 0.9, 3: 0.001}).fit_rejection(image_embeds=embeds, false_accept_rate=rate)
    logits = head(image_embeds=embeds).double() - head.share_offsets
    for k in (1, 4):
        answers = head.predict(image_embeds=embeds, top_k=k)
        expected = [[bool(row[p.class_index] >= head.calibration.thresholds[0]) for p in own]
                    for own, row in zip(answers, logits, strict=True)]  # fmt: skip
        assert [[p.accepted for p in own] for own in answers] == expected
    assert sum(any(p.accepted for p in own) for own in answers) <= rate * 200


def test_the_rest_has_what_is_left():
    head, _, _ = problem()
    assert head.set_class_shares({"class 2": 0.4}).class_shares == pytest.approx((0.2, 0.2, 0.4, 0.2))
    assert head.set_class_shares({0: np.float32(0.5), "class 1": 0.25}).class_shares == pytest.approx(
        (0.5, 0.25, 0.125, 0.125)
    )
    rounded = head.set_class_shares({0: 0.333, 1: 0.333, 2: 0.333, 3: 0.001}).class_shares
    assert sum(rounded) == pytest.approx(1, abs=1e-12)
    rounded = head.set_class_shares({0: 0.333, 1: 0.333, 2: 0.333, 3: 0.0004}).class_shares
    assert sum(rounded) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("shares", "error", "message"),
    [
        ([0.5, 0.5], TypeError, "a mapping from classes"),
        ({}, ValueError, "None takes shares away"),
        ({"cat": 0.5}, ValueError, "'cat' names no class"),
        ({7: 0.5}, ValueError, "out of range"),
        ({"class 0": 0.5, 0: 0.5}, ValueError, "given twice"),
        ({0: "half"}, TypeError, "expected a number"),
        ({0: True}, TypeError, "expected a number"),
        ({0: float("nan")}, TypeError, "expected a number"),
        ({0: 0.0}, ValueError, "remove classes that never come"),
        ({0: -0.1}, ValueError, "from 1e-09 to 1"),
        ({0: 60, 1: 40}, ValueError, "divide counts"),
        ({0: 1.0}, ValueError, "leave nothing for 3 other"),
        ({0: 0.7, 1: 0.7}, ValueError, "leave nothing for 2 other"),
        ({0: 0.5, 1: 0.1, 2: 0.1, 3: 0.1}, ValueError, "add up to 1, got 0.8"),
        ({0.5: 0.5}, TypeError, "positions or names"),
    ],
)
def test_bad_shares_are_named_and_change_nothing(shares, error, message):
    head, embeds, _ = problem()
    head.set_class_shares(named())
    before = head(image_embeds=embeds)
    with pytest.raises(error, match=message):
        head.set_class_shares(shares)
    assert torch.equal(head(image_embeds=embeds), before)


def test_one_class_has_no_share():
    head = problem()[0].remove_classes([1, 2, 3])
    with pytest.raises(ValueError, match="two or more classes"):
        head.set_class_shares({0: 1.0})
    with pytest.raises(ValueError, match="not fitted"):
        SynonymousSpaceHead().set_class_shares({0: 1.0})


def test_changes_of_classes():
    head, embeds, _ = problem()
    head.reconfigure(scale_rule=None, centering=None).set_class_shares(named())
    before = head.predict_proba(image_embeds=embeds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.rename_class(0, "zero").reconfigure(metric="center").reconfigure(metric="local_center")
        assert head.class_shares == SHARES
        head.remove_classes(["class 1"])
        assert head.class_shares == pytest.approx((0.5 / 0.7, 0.15 / 0.7, 0.05 / 0.7))
        # What is left, given that it is not the class that is gone: of spaces that do not know each other.
        rest = before[:, [0, 2, 3]]
        found = head.predict_proba(image_embeds=embeds)
        torch.testing.assert_close(found, rest / rest.sum(1, keepdim=True), atol=1e-6, rtol=1e-5)
    with pytest.warns(UserWarning, match="class shares were of other classes") as said:
        head.merge(problem(2, seed=3)[0])
    assert len(said) == 1
    assert head.class_shares is None
    head.set_class_shares({0: 0.5})
    with pytest.warns(UserWarning, match="class shares were of other"):
        head.fit_embeddings([torch.eye(12)[:1], torch.eye(12)[1:2]], ["a", "b"], logit_scale=1.0)
    alone = problem(2)[0].set_class_shares({0: 0.9})
    with pytest.warns(UserWarning, match="class shares"):
        alone.remove_classes([1])


def test_they_are_kept(tmp_path):
    head, embeds, labels = problem()
    head.set_class_shares(named()).calibrate(image_embeds=embeds, labels=labels)
    expected = head(image_embeds=embeds)
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "a"))
    assert loaded.class_shares == SHARES
    assert torch.equal(loaded(image_embeds=embeds), expected)
    other = SynonymousSpaceHead()
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(image_embeds=embeds), expected)
    assert other.class_space.digest() == loaded.class_space.digest() == head.class_space.digest()
    assert torch.equal(copy.deepcopy(head)(image_embeds=embeds), expected)
    assert head.double()(image_embeds=embeds.double()).dtype == torch.float64
    halved = copy.deepcopy(head).half()
    assert halved(image_embeds=embeds.half()).dtype == torch.float16
    torch.testing.assert_close(halved(image_embeds=embeds.half()).float(), expected, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("calibrated", [False, True])
def test_they_are_in_every_way_to_logits(calibrated):
    head, embeds, labels = problem()
    head.set_class_shares(named())
    if calibrated:
        head.calibrate(image_embeds=embeds, labels=labels)
    expected = head(image_embeds=embeds)
    best = head.top_classes(image_embeds=embeds, k=4)
    torch.testing.assert_close(best.logits, expected.gather(1, best.class_index))
    torch.testing.assert_close(
        best.probabilities, head.probabilities(expected).gather(1, best.class_index), atol=1e-6, rtol=1e-5
    )
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(image_embeds=embeds), expected)
    program = torch.export.export(head, (), {"image_embeds": embeds})
    torch.testing.assert_close(program.module()(image_embeds=embeds), expected)
    views = embeds[:6, None].expand(-1, 4, -1)
    torch.testing.assert_close(TestTimeAdapter(head, steps=0)(views), expected[:6])
    # The shift does not know of them.
    bare = copy.deepcopy(head).set_class_shares(None)
    views = views + 0.3 * torch.randn(views.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        TestTimeAdapter(head)(views), TestTimeAdapter(bare)(views) + head.share_offsets
    )
    head.calibration = None
    head.reconfigure(metric="center")
    with pytest.raises(ValueError, match=r"to_linear\(bias=True\)"):
        head.to_linear()
    weights, bias = head.to_linear(bias=True)
    logits = head.logit_scale * torch.nn.functional.normalize(embeds, dim=1) @ weights + bias
    torch.testing.assert_close(logits, head(image_embeds=embeds), atol=1e-4, rtol=0)


def test_the_pipeline_and_the_estimator_have_them():
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog", "sea"])
    image = Image.new("RGB", (40, 30), "red")
    before = head.predict_proba(image)
    head.set_class_shares({"cat": 0.01, "sea": 0.9})
    expected = bayes(before, head.class_shares)[0]
    answers = S3ZeroShotImageClassificationPipeline(head=head)(image)
    assert [each["score"] for each in answers] == pytest.approx(
        [float(expected[head.class_names.index(each["label"])]) for each in answers], abs=1e-5
    )
    texts, owners = (
        torch.randn(9, 8, generator=torch.Generator().manual_seed(2)).numpy(),
        [7, 7, 7, 5, 5, 5, 9, 9, 9],
    )
    plain = SynonymousSpaceClassifier(logit_scale=5.0).fit(texts, owners)
    shared = SynonymousSpaceClassifier(logit_scale=5.0, class_shares={7: 0.6, 9: 0.1}).fit(texts, owners)
    np.testing.assert_allclose(
        shared.predict_proba(texts),
        bayes(torch.from_numpy(plain.predict_proba(texts)), (0.3, 0.6, 0.1)),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="class_shares: 4 is no label"):
        SynonymousSpaceClassifier(class_shares={4: 0.6}).fit(texts, owners)


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.5, 0.4, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0], [float("nan")] * 4, "abcd"]
)
def test_a_state_dict_with_wrong_shares_is_refused(shares):
    head, _, _ = problem()
    head.set_class_shares(named())
    state = head.state_dict()
    content = json.loads(bytes(state["_extra_state"].numpy().data))
    content["class_shares"] = shares
    state["_extra_state"] = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match="class_shares"):
        SynonymousSpaceHead().load_state_dict(state)
