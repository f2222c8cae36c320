"""What learns from labelled images, against scikit-learn and plain loops, on images that it did not see."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from s3clip import SynonymousSpaceHead
from s3clip.evaluation import Comparison, compare_embeddings
from s3clip.evaluation.learners import LEARNERS, asked, folds

CLASSES, DIM, SCALE = 4, 16, 20.0


@pytest.fixture(scope="module")
def problem():
    """Three texts for each of four classes, and 90 images of three of them."""
    draw = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(CLASSES, DIM, generator=draw), dim=1)
    texts = [c + 0.4 * torch.randn(3, DIM, generator=draw) for c in centres]
    labels = torch.randint(3, (90,), generator=draw)
    images = 3 * (centres[labels] + 0.4 * torch.randn(90, DIM, generator=draw))
    head = SynonymousSpaceHead().fit_embeddings(texts, list("abcd"), logit_scale=SCALE)
    return texts, head, images, labels


def plain_logits(name, head, known, labels, images):
    """Each learner, written out."""
    if name == "logistic":
        mean = known.mean(0)
        fitted = LogisticRegression(C=1.0, max_iter=1000)
        fitted.fit(10 * (known - mean).numpy(), labels.numpy())
        found = np.full((len(images), CLASSES), -np.inf)
        found[:, fitted.classes_] = fitted.predict_log_proba(10 * (images - mean).numpy())
        return torch.from_numpy(found)
    if name == "few_shot":
        other = SynonymousSpaceHead().fit_embeddings(
            head.text_embeddings.split([each.rows for each in head.classes]),
            head.class_names,
            logit_scale=SCALE,
        )
        return other.fit_few_shot(image_embeds=known, labels=labels)(image_embeds=images)
    logits = head(image_embeds=images).tolist()
    for row, v in enumerate(images):
        for c in range(CLASSES):
            own = [t for t, label in zip(known, labels.tolist(), strict=True) if label == c]
            if name == "class_means":
                mean = sum(own) if own else None
                logits[row][c] = -math.inf if mean is None else SCALE * float(v @ mean / mean.norm())
            else:
                logits[row][c] += sum(math.exp(-5.5 * (1 - float(v @ t))) for t in own)
    return torch.tensor(logits)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_is_what_it_says(name, problem):
    _, head, images, labels = problem
    unit = normalize(images, dim=1)
    with torch.inference_mode():
        found = LEARNERS[name](head, unit[:60], labels[:60])(unit[60:])
        expected = plain_logits(name, head, unit[:60], labels[:60], unit[60:])
    if name == "logistic":  # up to a number for each image
        found, expected = found.double().log_softmax(1), expected.log_softmax(1)
    assert torch.allclose(found.double(), expected.double(), atol=1e-3)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_classes_are_enough_to_learn_from(name, count, problem):
    _, head, images, labels = problem
    unit, few = normalize(images, dim=1), torch.nonzero(labels < count)[:5, 0]
    with torch.inference_mode():
        found = LEARNERS[name](head, unit[few], labels[few])(unit)
    assert found.shape == (90, CLASSES)
    assert not found.isnan().any()
    if name in ("logistic", "class_means"):  # the others have words for classes without images
        assert set(found.argmax(1).tolist()) <= set(range(count))


def test_folds_spread_classes_and_keep_copies_together(problem):
    _, _, images, labels = problem
    twice = torch.cat([images, images[:20]]), torch.cat([labels, labels[:20]])
    fold = folds(*twice, seed=3)
    assert torch.equal(fold[:20], fold[90:])
    assert not torch.equal(fold, folds(*twice, seed=4))
    for c in range(3):
        counts = torch.bincount(fold[:90][labels == c], minlength=5)
        assert int(counts.max() - counts.min()) <= 1
    with pytest.raises(ValueError, match="two different images"):
        folds(images[:1].expand(4, -1), labels[:4], seed=0)


@pytest.mark.parametrize("name", LEARNERS)
def test_an_image_is_asked_of_what_others_taught(name, problem):
    _, head, images, labels = problem
    fold, unit = folds(images, labels, seed=0), normalize(images, dim=1)
    with torch.inference_mode():
        found = asked(LEARNERS[name], head, images, labels, fold)
        other = labels.clone()
        other[7] = (other[7] + 1) % 3
        again = asked(LEARNERS[name], head, images, other, fold)
        few = asked(LEARNERS[name], head, images, labels, fold, labelled=12, seed=5)
        for which in range(5):
            out = fold == which
            expected = LEARNERS[name](head, unit[~out], labels[~out])(unit[out])
            assert torch.allclose(found[out], expected, atol=1e-4)
    assert torch.equal(found[fold == fold[7]], again[fold == fold[7]])  # its label said nothing of itself
    assert not torch.equal(found, few)


def test_the_comparison_has_learners_and_their_curve(problem, tmp_path):
    texts, head, images, labels = problem
    asked_for = {"logit_scale": SCALE, "bootstrap": 20, "methods": ["default"], "batch_size": 16}
    found = compare_embeddings(texts, list("abcd"), images, labels, learn=[*LEARNERS, *LEARNERS], **asked_for)
    with torch.inference_mode():
        fold = folds(images, labels, seed=0)
        for name, learner in LEARNERS.items():
            right = asked(learner, head, images, labels, fold).argmax(1) == labels
            assert found[name].top1 == pytest.approx(float(right.double().mean()))
            own = [point for point in found.curve if point.method == name]
            assert [point.labelled for point in own] == [10, 30, 72]
            assert (own[-1].top1, own[-1].recall) == pytest.approx((found[name].top1, found[name].recall))
            ten = asked(learner, head, images, labels, fold, labelled=10).argmax(1) == labels
            assert own[0].top1 == pytest.approx(float(ten.double().mean()))
    assert found.best.name in ("center", "default")  # of what needs no labels
    assert found.best.among == 2
    assert len(found.curve_table().rows) == len(LEARNERS)
    found.save(tmp_path)
    assert Comparison.model_validate_json((tmp_path / "comparison.json").read_text()).curve == found.curve
    assert compare_embeddings(texts, list("abcd"), images, labels, **asked_for).curve == ()
    scores = found["few_shot"]
    said = f"few_shot, learned of these images and asked of those it did not see: {100 * scores.top1:.1f} %"
    assert found.closing("To use it: x").startswith(f"{found.conclusion()} To use it: x\n{said}")
    assert str(scores.top1_difference) in found.learned()
    without = found.model_copy(update={"scores": tuple(s for s in found.scores if s.name != "few_shot")})
    assert without.learned() is None
    assert without.closing() == without.conclusion()
    with pytest.raises(ValueError, match="unknown learner 'knn'; known: few_shot, logistic"):
        compare_embeddings(texts, list("abcd"), images, labels, learn=["knn"], **asked_for)
