"""Probabilities that mean something, and answers that may be "none of these".

Logits of a CLIP are ranks more than odds: at its trained scale it is too sure on most data. What is fitted
here on images whose classes are known is one temperature (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017), or, where classes do not exclude each other, a slope and an intercept
(Platt scaling); and thresholds, below which a class is not accepted.
"""

import warnings
from collections.abc import Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from s3clip.arguments import is_number, plain
from s3clip.class_space import Activation, Calibration
from s3clip.class_space.few_shot import ROUNDING, least_threshold
from s3clip.class_space.shares import in_logits, share_offsets
from s3clip.class_space.value import TEMPERATURES
from s3clip.prediction.batches import AnsweringHead, all_logits
from s3clip.prediction.class_labels import checked_labels
from s3clip.prediction.conformal import least_probability, needed_images

Head = TypeVar("Head", bound=AnsweringHead)

_AT_ONCE = 1024


def calibrate(
    head: Head,
    images: Any = None,
    labels: Any = None,
    *,
    image_embeds: Tensor | None = None,
    coverage: float | None = None,
    batch_size: int = 32,
) -> Head:
    """Fit probabilities to held-out images whose classes are known; logits stay as they are.

    Classes or settings that change later drop the calibration, with a warning. `head.calibration = None`
    drops it too.

    Args:
        head: a fitted head, which takes the calibration.
        images: as for `predict`.
        labels: the class of each image, as positions, names or ids (as texts); or a table of zeros and ones
            (images, classes) where an image may show several classes or none. With a table, probabilities are
            sigmoids, and a class is accepted from the threshold of its largest F1 score on.
        image_embeds: (images, dim) embeddings instead.
        coverage: choose also which classes `predict_sets` names: those of images like these are to hold the
            right class so often, 0.9 for nine times in ten. Not with a table, which gives each class a
            threshold. An image that is rejected counts as left out, so a rejection has to be fitted first; it
            and the shares of classes, changed later, drop the coverage.
        batch_size: images per call of the image tower.

    Warns:
        UserWarning: images from which the head learned, or all of which it classifies right.

    Returns:
        The head itself.

    Raises:
        ValueError: not fitted, labels that do not fit, logits that tell nothing of them, or a coverage that
            is outside (0, 1), needs more images, or is out of reach with the rejection.

    Examples:
        >>> head.calibrate(images[:200], labels[:200]).calibration.temperature > 0
        True
    """
    if labels is None:
        raise ValueError("labels: expected the class of each image, got None")
    if coverage is not None and isinstance(labels, Sized):  # before anything is encoded
        needed_images(coverage, len(labels))
    shared, embeds = all_logits(head, images, image_embeds, batch_size)
    _warn_of_examples(head, embeds)
    logits = _without_shares(head, shared)
    truth = checked_labels(labels, head.classes, len(logits)).to(logits.device)
    if coverage is not None and truth.ndim == 2:
        raise ValueError("coverage: expected labels of one class an image, got a table; leave coverage out")
    fitted = fit_calibration(logits, truth, head.activation)
    # A rejection fitted before still holds: one threshold for all classes, where a table gives each its own.
    before = (head.calibration or head.uncalibrated).thresholds
    if fitted.thresholds is None and before is not None and len(before) == 1:
        fitted = fitted.model_copy(update={"thresholds": before})
    if coverage is not None:
        own = _own_probabilities(logits, truth, head.class_shares, fitted)
        least = least_probability(own, coverage)
        sets = {"coverage": float(coverage), "least_probability": least}
        fitted = fitted.model_copy(update=sets)
    head.calibration = fitted
    return head


def _own_probabilities(
    logits: Tensor, truth: Tensor, shares: Sequence[float] | None, calibration: Calibration
) -> Tensor:
    """Return the probability of the class that each image shows, -1 where the image is rejected."""
    if shares is not None:
        offsets = share_offsets(shares).to(logits)
        offsets = in_logits(offsets, calibration.activation, calibration.temperature)
        logits, calibration = logits + offsets, calibration.shifted(offsets)
    logits = logits.float()
    probabilities = calibration.probabilities(logits)
    accepted = calibration.accepts(logits).gather(1, logits.argmax(1, keepdim=True))
    return torch.where(accepted, probabilities.gather(1, truth[:, None]), -1.0)[:, 0]


def fit_rejection(
    head: Head,
    images: Any = None,
    *,
    image_embeds: Tensor | None = None,
    false_accept_rate: float | None = None,
    accept_rate: float | None = None,
    batch_size: int = 32,
) -> Head:
    """Choose the logit below which an image shows none of the classes (`Prediction.accepted`).

    Of logits: a softmax over the classes is as sure of an image that shows something else. By images of no
    class, or where there are none at hand by images of the classes, whose labels are not needed. The rate
    holds for images like those given: of things that look more like the classes, more are accepted, and with
    `accept_rate` nothing is said of how many.

    Args:
        head: a fitted head, which takes the threshold.
        images: images that show none of the classes; with `accept_rate`, images that show them.
        image_embeds: (images, dim) embeddings instead.
        false_accept_rate: the share of images of no class that are accepted all the same, in [0, 1);
            0.05 where neither rate is given.
        accept_rate: the share of images of the classes that are to be accepted, in (0, 1), instead.
        batch_size: images per call of the image tower.

    Returns:
        The head itself.

    Raises:
        ValueError: not fitted, too few images, both rates, or one outside its range.

    Examples:
        >>> strange = [image.transpose(4) for image in images[:100]]  # mirrored and turned
        >>> _ = head.fit_rejection(strange, false_accept_rate=0.1)
        >>> sum(own[0].accepted for own in head.predict(strange, top_k=1)) <= 10
        True
    """
    if accept_rate is not None and false_accept_rate is not None:
        raise ValueError("accept_rate, false_accept_rate: expected one of the two, got both")
    shared, embeds = all_logits(head, images, image_embeds, batch_size)
    _warn_of_examples(head, embeds)
    logits = _without_shares(head, shared)
    if accept_rate is None:
        most = 0.05 if false_accept_rate is None else false_accept_rate
        threshold = rejection_threshold(logits.amax(-1), most)
    else:
        needed = needed_images(accept_rate, len(logits), "accept_rate")
        threshold = float(logits.amax(-1).sort(descending=True).values[needed - 1])
        threshold -= ROUNDING * max(1.0, abs(threshold))
    before = head.calibration or head.uncalibrated
    head.calibration = before.without_sets().model_copy(update={"thresholds": (threshold,)})
    if before.coverage is not None:
        warnings.warn(
            "the coverage was of another rejection and is dropped; calibrate(coverage=) again", stacklevel=2
        )
    return head


_SAME = 1 - 1e-5  # cosine: two embeddings of one image differ by less, in float16 or in another batch


def _warn_of_examples(head: AnsweringHead, embeds: Tensor) -> None:
    """Warn of images that the head learned from: it is surer of them than of any others."""
    kept = head.examples
    if kept is None or kept.report is None or kept.report.strength is None:
        return
    shown = torch.nn.functional.normalize(kept.embeds[kept.labels >= 0].to(embeds), dim=1)
    again = sum(int(((part @ shown.T).amax(1) > _SAME).sum()) for part in embeds.split(_AT_ONCE))
    if again:
        warnings.warn(
            f"images: the head learned from {again:,} of these {len(embeds):,}, and is surer of them than of "
            f"others, so that what is chosen holds for no others; give images that it has not seen",
            stacklevel=3,
        )


def _without_shares(head: AnsweringHead, logits: Tensor) -> Tensor:
    """Return logits without the shares of classes: what is fitted to them holds whatever those are."""
    return logits if head.share_offsets is None else logits.double() - head.share_offsets


def fit_calibration(logits: Tensor, labels: Tensor, activation: Activation) -> Calibration:
    """Fit probabilities to images whose classes are known, which fitting the classes has not seen.

    Args:
        logits: (images, classes).
        labels: (images,) class positions, or (images, classes) booleans where an image may show several
            classes or none: then probabilities are sigmoids, and a class is accepted from the threshold of
            its largest F1 score on.
        activation: that of the model. A softmax is fitted by one temperature, a sigmoid by temperature and
            bias.

    Raises:
        ValueError: fewer than two classes, no images, or logits that do not tell what is there from what is
            not.
    """
    if not len(logits) or logits.shape[1] < 2:
        raise ValueError(
            f"labels: expected images of two or more classes, got logits of shape {tuple(logits.shape)}"
        )
    scores = logits.detach().double().cpu().numpy()
    if labels.ndim == 2:
        truth = labels.cpu().numpy().astype(bool)
        temperature, bias = _platt(scores, truth)
        return Calibration(
            activation="sigmoid",
            temperature=temperature,
            bias=bias,
            thresholds=_f1_thresholds(scores, truth),
        )
    positions = labels.cpu().numpy()
    if activation == "softmax":
        return Calibration(activation="softmax", temperature=_temperature(scores, positions))
    temperature, bias = _platt(scores, positions[:, None] == np.arange(scores.shape[1]))
    return Calibration(activation="sigmoid", temperature=temperature, bias=bias)


def rejection_threshold(scores: Tensor, false_accept_rate: float) -> float:
    """Return the least threshold that at most this share of negatives reaches.

    Args:
        scores: (negatives,) the largest logit of each image that shows none of the classes.
        false_accept_rate: in [0, 1).

    Raises:
        ValueError: no negatives, or a rate outside [0, 1).
    """
    rate = checked_rate(false_accept_rate)
    if not len(scores):
        raise ValueError("images: expected images that show none of the classes, got none")
    return least_threshold(scores, rate)


def checked_rate(false_accept_rate: Any) -> float:
    """Return the share of images of no class that may be accepted, as a plain number.

    Raises:
        ValueError: it is outside [0, 1).
    """
    rate = plain(false_accept_rate)
    if not (is_number(rate) and 0 <= rate < 1):
        raise ValueError(f"false_accept_rate: expected a share in [0, 1), got {rate!r}")
    return float(rate)


def _temperature(logits: np.ndarray, positions: np.ndarray) -> float:
    """Return the best temperature; a warning where there is none that is not at the end of the range."""
    if bool((logits[np.arange(len(logits)), positions] == logits.max(1)).all()):
        warnings.warn(
            "labels: every image is classified right, so that probabilities of 0 and 1 fit best; calibrate "
            "on more images",
            stacklevel=4,
        )
    return best_temperature(logits, positions)


def best_temperature(logits: np.ndarray, positions: np.ndarray, wrong: float = 0.0) -> float:
    """Return the temperature of the largest likelihood, within exp(-10) and exp(10).

    Args:
        logits: (images, classes).
        positions: (images,) the class of each.
        wrong: the share of them, in [0, 1), that may be any class instead.
    """
    from scipy.optimize import minimize_scalar

    images = np.arange(len(logits))
    below = logits - logits.max(1, keepdims=True)  # a softmax does not mind a shift
    own = below[images, positions]
    # log Σ exp of what has a largest 0, which stands apart; scipy's logsumexp takes several times as long.
    below[images, below.argmax(1)] = -np.inf
    powers = np.empty_like(below)

    def loss(log_beta: float) -> float:
        beta = np.exp(log_beta)
        np.exp(np.multiply(below, beta, out=powers), out=powers)
        logs = beta * own - np.log1p(powers.sum(1))
        by_chance = wrong / (1 - wrong) / below.shape[1]
        return -float((np.logaddexp(logs, np.log(by_chance)) if wrong else logs).mean())

    found = minimize_scalar(loss, bounds=(-10, 10), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(-found.x))


def _platt(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Temperature and bias for pairs of image and class, by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    if truth.all() or not truth.any():
        raise ValueError("labels: expected images that show a class and images that do not show it")
    # Standardised: a scale of 100 would make the search slow.
    mean, spread = logits.mean(), logits.std()
    if not spread > 0:
        raise ValueError("labels: all logits are equal; nothing can be fitted to them")
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(((logits - mean) / spread).reshape(-1, 1), truth.reshape(-1))
    slope = float(model.coef_[0, 0]) / spread
    if not slope > 0:
        raise ValueError(
            "labels: the logits are no larger where a class is there than where it is not; are the labels in "
            "the order of head.class_names?"
        )
    slope = min(max(slope, 1 / TEMPERATURES[1]), 1 / TEMPERATURES[0])
    return 1 / slope, float(model.intercept_[0]) - slope * mean


def _f1_thresholds(scores: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """The threshold of the largest F1 of each class; that of all pairs for a class that no image shows."""
    common = _f1_threshold(scores.reshape(-1), truth.reshape(-1))
    return tuple(
        _f1_threshold(own, there) if there.any() else common
        for own, there in zip(scores.T, truth.T, strict=True)
    )


def _f1_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(truth, scores)
    total = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], total, out=np.zeros_like(total), where=total > 0)
    best = int(f1.argmax())
    least = float(thresholds[best])
    # Between that score and the next lower one, which is as good: a score of another batch is not the same.
    below = float(thresholds[best - 1]) if best else least - 2 * ROUNDING * max(1.0, abs(least))
    return (least + below) / 2
