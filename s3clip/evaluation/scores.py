"""Scores that scikit-learn does not have: calibration, and intervals of paired differences. Pure."""

import math

import torch
from torch import Tensor

BINS = 15
"""Of confidences, as is usual for the calibration error."""
LEVEL = 0.95
"""How often an interval holds what it is of."""
IGNORED = 255
"""The label of pixels that do not count."""


def expected_calibration_error(confidences: Tensor, correct: Tensor) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy (Guo et al. 2017).

    Of `BINS` bins of equal width, each closed on the right; a confidence of 0 is in the first.

    Args:
        confidences: (images,) probability of the predicted class, in [0, 1].
        correct: (images,) bool.

    Returns:
        In [0, 1].
    """
    position = (confidences.double() * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(
        0, position, correct.double() - confidences.double()
    )
    return float(gaps.abs().sum() / len(confidences))


def resampled_means(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over images of every row of values in every resample.

    Args:
        values: (rows, images), dense or sparse.
        counts: (resamples, images), how often each image was drawn.

    Returns:
        (resamples, rows) float64.
    """
    return _products(counts.double(), values) / counts.sum(1, keepdim=True)


def resampled_class_means(values: Tensor, counts: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
    """Return, in every resample, the mean over classes of the mean over each class's images.

    A class of which a resample has no image is left out of that resample's mean.

    Args:
        values: (rows, images), dense or sparse.
        counts: (resamples, images), how often each image was drawn.
        labels: (images,) int64, the class of each.
        scored: (classes,) bool, the classes that count.

    Returns:
        (resamples, rows) float64; NaN where none of the scored classes was drawn.
    """
    counts = counts.double()
    drawn = counts.new_zeros(len(counts), len(scored)).index_add_(1, labels, counts)
    present = (drawn > 0) & scored
    shares = torch.where(present, 1 / drawn, 0) / present.sum(1, keepdim=True)  # NaN where none is present
    return _products(counts * shares[:, labels], values)


def _products(weights: Tensor, values: Tensor) -> Tensor:
    """(resamples, rows) of (resamples, images) and (rows, images), which may be sparse."""
    return (values.double() @ weights.T).T


def interval(resampled: Tensor) -> tuple[float, float]:
    """Return the percentile interval of (resamples,) numbers, at `LEVEL`; NaN is left out."""
    tail = (1 - LEVEL) / 2
    ends = torch.nanquantile(resampled.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def simultaneous_intervals(exact: Tensor, resampled: Tensor) -> Tensor:
    """Return intervals of several numbers that hold for all of them at once, hence for the best of them too.

    The bootstrap's single-step max-t (Westfall and Young 1993; Romano and Wolf 2005): each interval is the
    number and, on both sides, the same multiple of its standard error, which is wide enough for the number
    that a resample moves most.

    Args:
        exact: (rows,) the numbers.
        resampled: (resamples, rows) the same in every resample; a resample with NaN is left out.

    Returns:
        (rows, 2) float64, the low and the high ends; no width where resamples never differ.
    """
    exact, resampled = exact.double(), resampled.double()
    resampled = resampled[~resampled.isnan().any(1)]
    errors = resampled.std(0, correction=0)
    varies = errors > 1e-12 * resampled.abs().amax()  # less is rounding
    moved = (resampled - exact).abs() / errors
    widest = torch.where(varies, moved, 0).amax(1)
    width = torch.quantile(widest, LEVEL) * errors
    return torch.stack([exact - width, exact + width], dim=1)


def sign_test(gained: Tensor, lost: Tensor) -> Tensor:
    """Return how likely so uneven a split of changed images is by chance: McNemar's exact test, two-sided.

    Args:
        gained: (rows,) images that only the first of two classifiers gets right.
        lost: (rows,) those that only the second does.

    Returns:
        (rows,) float64 in (0, 1]; 1 where nothing changed.
    """
    found = []
    for a, b in zip(gained.tolist(), lost.tolist(), strict=True):
        fewer, both = torch.arange(min(a, b) + 1, dtype=torch.float64), torch.tensor(float(a + b)).double()
        ways = (both + 1).lgamma() - (fewer + 1).lgamma() - (both - fewer + 1).lgamma()
        found.append(2 * (ways - both * math.log(2)).logsumexp(0).exp())
    return torch.stack(found).clamp_max(1) if found else torch.ones(0, dtype=torch.float64)


def holm(p: Tensor) -> Tensor:
    """Return (rows,) p-values that count all tests in: at a level, the error of all together (Holm 1979).

    Args:
        p: (rows,) p-values of the tests one by one.
    """
    order = p.argsort(stable=True)
    left = torch.arange(len(p), 0, -1, dtype=p.dtype)
    return torch.empty_like(p).scatter_(0, order, (p[order] * left).cummax(0).values.clamp_max(1))


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels by what they are and what they were taken for.

    Args:
        labels: (...) integers, positions of classes, or `IGNORED` for pixels that do not count.
        predicted: (...) integers of the same shape, positions of classes, or -1 for no class.
        classes: how many.

    Returns:
        (classes, classes + 1) int64; the last column counts pixels taken for no class. Matrices of several
        images add up.

    Raises:
        ValueError: shapes that differ, or a label or prediction out of range.
    """
    if labels.shape != predicted.shape:
        raise ValueError(
            f"predicted: expected the shape of the labels, {tuple(labels.shape)}, got "
            f"{tuple(predicted.shape)}"
        )
    counted = labels != IGNORED
    rows, columns = labels[counted].long(), predicted[counted].long()
    for name, values, lowest in (("labels", rows, 0), ("predicted", columns, -1)):
        outside = (values < lowest) | (values >= classes)
        if bool(outside.any()):
            raise ValueError(
                f"{name}: expected positions of {classes} classes, got {int(values[outside][0])}"
            )
    columns = torch.where(columns < 0, classes, columns)
    counts = torch.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """Return the share of pixels of each class or taken for it that are both: (classes,) float64 in [0, 1].

    Args:
        confusion: (classes, classes + 1), as `confusion_matrix` counts it over a whole data set.

    Returns:
        NaN for a class that no pixel is of and none was taken for; 0 for one only taken for.
    """
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(1) + confusion[:, :-1].sum(0) - hits)


def mean_iou(confusion: Tensor) -> float:
    """Return mmseg's mIoU: the mean of `intersection_over_union` over the classes where it is a number."""
    return float(intersection_over_union(confusion).nanmean())


def resampled_mean_iou(hits: Tensor, labelled: Tensor, predicted: Tensor, counts: Tensor) -> Tensor:
    """Return `mean_iou` over the images of every resample.

    Args:
        hits: (images, classes) pixels of each class that were taken for it.
        labelled: (images, classes) pixels of each class.
        predicted: (images, classes) counted pixels that were taken for each class.
        counts: (resamples, images), how often each image was drawn.

    Returns:
        (resamples,) float64; NaN where no pixel of a resample is of a class or was taken for one.
    """
    counts = counts.double()
    both = counts @ hits.double()
    either = counts @ labelled.double() + counts @ predicted.double() - both
    return (both / either).nanmean(1)
