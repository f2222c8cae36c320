"""Scores that scikit-learn does not have: calibration, and intervals of paired differences. Pure."""

import torch
from torch import Tensor


def expected_calibration_error(confidences: Tensor, correct: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy (Guo et al. 2017).

    Args:
        confidences: (images,) probability of the predicted class, in [0, 1].
        correct: (images,) bool.
        bins: number of bins of equal width, each closed on the right; a confidence of 0 is in the first.

    Returns:
        In [0, 1].
    """
    position = (confidences.double() * bins).ceil().long().sub_(1).clamp_(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(
        0, position, correct.double() - confidences.double()
    )
    return float(gaps.abs().sum() / len(confidences))


def resampled_means(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over images of every row of values in every resample.

    Args:
        values: (rows, images).
        counts: (resamples, images), how often each image was drawn.

    Returns:
        (resamples, rows) float64.
    """
    return counts.double() @ values.double().T / counts.sum(1, keepdim=True)


def resampled_class_means(values: Tensor, counts: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
    """Return, in every resample, the mean over classes of the mean over each class's images.

    A class of which a resample has no image is left out of that resample's mean.

    Args:
        values: (rows, images).
        counts: (resamples, images), how often each image was drawn.
        labels: (images,) int64, the class of each.
        scored: (classes,) bool, the classes that count.

    Returns:
        (resamples, rows) float64; NaN where none of the scored classes was drawn.
    """
    counts = counts.double()
    empty = counts.new_zeros(len(counts), len(scored))
    drawn = empty.index_add(1, labels, counts)
    present = (drawn > 0) & scored
    means = []
    for row in values.double():
        sums = empty.index_add(1, labels, counts * row)
        means.append(torch.where(present, sums / drawn.clamp_min(1), 0).sum(1) / present.sum(1))
    return torch.stack(means, dim=1)


def interval(resampled: Tensor, *, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of (resamples,) numbers; NaN is left out."""
    tail = (1 - level) / 2
    ends = torch.nanquantile(resampled.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])
