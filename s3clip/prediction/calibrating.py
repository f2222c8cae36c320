"""Probabilities that mean something, and answers that may be "none of these".

Logits of a CLIP are ranks more than odds: at its trained scale it is too sure on most data. What is fitted
here on images whose classes are known is one temperature (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017, by scikit-learn), or, where classes do not exclude each other, a slope and an intercept
(Platt scaling); and thresholds, below which a class is not accepted.
"""

import warnings
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from s3clip.arguments import is_number


class Calibration(BaseModel):
    """How logits become probabilities, and which of them are accepted.

    Attributes:
        activation: "softmax" over the classes, or "sigmoid" of each.
        temperature: divides the logits.
        bias: is added to them afterwards.
        thresholds: least logit at which a class is accepted: one for all classes, or one for each; None
            accepts all. Of logits, not of a softmax, which adds up to 1 whatever the image shows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    activation: Literal["softmax", "sigmoid"]
    temperature: float = Field(1.0, gt=0)
    bias: float = 0.0
    thresholds: tuple[float, ...] | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of (..., classes) logits."""
        scaled = self.scaled(logits)
        return scaled.softmax(-1) if self.activation == "softmax" else scaled.sigmoid()

    def scaled(self, logits: Tensor) -> Tensor:
        """Return what the activation is taken of."""
        return logits / self.temperature + self.bias

    def accepts(self, logits: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return a mask of the logits that reach their threshold.

        Args:
            logits: (..., classes), or those of some classes.
            classes: (...) the class of each logit; None: all classes, in their order.
        """
        if self.thresholds is None:
            return torch.ones_like(logits, dtype=torch.bool)
        # In float64: a threshold may lie right above the largest float32 that was seen.
        least = torch.tensor(self.thresholds, dtype=torch.float64)
        if classes is not None and len(least) > 1:
            least = least[classes.cpu()]
        return (logits.cpu().double() >= least).to(logits.device)


def fit_calibration(logits: Tensor, labels: Tensor, activation: Literal["softmax", "sigmoid"]) -> Calibration:
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
    if not (is_number(false_accept_rate) and 0 <= false_accept_rate < 1):
        raise ValueError(f"false_accept_rate: expected a share in [0, 1), got {false_accept_rate!r}")
    if not len(scores):
        raise ValueError("images: expected images that show none of the classes, got none")
    ordered = np.sort(scores.double().cpu().numpy())[::-1]
    # 1e-9: 0.29 x 100 is 28.999999999999996.
    accepted = int(false_accept_rate * len(ordered) + 1e-9)
    return float(np.nextafter(ordered[accepted], np.inf))


def _temperature(logits: np.ndarray, positions: np.ndarray) -> float:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    count = logits.shape[1]

    class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # no types there
        """A fitted classifier whose inputs are its logits."""

        classes_ = np.arange(count)

        def decision_function(self, inputs: np.ndarray) -> np.ndarray:
            return inputs[:, 1] - inputs[:, 0] if count == 2 else inputs

        def fit(self, inputs: np.ndarray, labels: np.ndarray) -> "Logits":
            return self

        def predict(self, inputs: np.ndarray) -> np.ndarray:
            return np.asarray(inputs.argmax(1))

        def __sklearn_is_fitted__(self) -> bool:
            return True

    # Scikit-learn takes the classes from the labels: one image of weight 0 makes every class known.
    inputs = np.concatenate([logits, np.zeros((count, count))])
    # And numbers in [0, 1] that add up to 1 for probabilities: a softmax does not mind a shift below 0.
    inputs = inputs - inputs.max(1, keepdims=True) - 1
    labels = np.concatenate([positions, np.arange(count)])
    weights = np.repeat([1.0, 0.0], [len(logits), count])
    everything = np.arange(len(inputs))
    model = CalibratedClassifierCV(
        FrozenEstimator(Logits()), method="temperature", cv=[(everything, everything)], ensemble=False
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Since FrozenEstimator does not appear to accept sample_weight")
        model.fit(inputs, labels, sample_weight=weights)
    beta = float(model.calibrated_classifiers_[0].calibrators[0].beta_)
    # Two classes go in as logits (-x, x).
    beta *= 2 if count == 2 else 1
    if (logits.argmax(1) == positions).all():  # the search for a largest beta ended somewhere
        warnings.warn(
            "labels: every image is classified right, so that probabilities of 0 and 1 fit best; calibrate "
            "on more images",
            stacklevel=4,
        )
    return 1 / beta


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
    return float(thresholds[f1.argmax()])
