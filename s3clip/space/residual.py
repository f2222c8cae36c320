"""What labelled images add to the logits: a linear residual of the embedding, the space being its prior.

With v a unit embedding, m the mean of the labelled ones, r their root mean square distance from it and
x = (v - m) / r, logits become those of the space plus W x + b, and W and b are what makes

    sum_i cross_entropy(space_i + W x_i + b + log(prior) / 2, label_i)  +  strength / 2 · (|W|² + |b|²)

smallest: multinomial logistic regression with the logits of the space as offset, and with half of the labels'
own log frequencies taken as said, so that a common class need not be learned by W (half way to the balanced
softmax of Ren et al. 2020; all the way gives up what shares of classes gain, no step of it pays with the
recall of rare classes). The constant b is what a few images say best: that a class stands too high or too low
whatever the image shows. It is as dear as a direction as long as images are from their mean. (Residuals of
before had none.) The problem is convex, with one solution. It is found by L-BFGS in coordinates in
which the Hessian would be the identity if all probabilities had the same variance: with Z the images and q
the mean of p (1 - p) over images and classes where the residual is nothing, it is near to q ZᵀZ + strength.
(Half as many steps as with 1/2 in the place of q, the bound of Böhning 1992.) Everything is a function of
inner products, so that rotations change nothing; nothing is random.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 60
"""Most steps of L-BFGS; a handful is usual."""
TOLERANCE = 1e-5
"""Of the length of the gradient, beside its length at no weights."""
_ROUGHLY = 1e-3
"""The same, until which float32 is enough."""
_MEMORY = 8
_AHEAD = 0.01
"""The part of a gradient after which the curvature along it is looked at."""
_CONSTANT = 0.05
"""The part of its eigenvalue by which a constant is stretched. As measured (1, 0.2, 0.05, 0.01 take 35, 33,
27, 29 s for 1,000 classes x 16 images): what tells classes apart lies where probabilities are undecided."""
_CHUNK_NUMBERS = 2**22
"""Numbers (images x the wider of dim and classes) that are computed with at once: 32 MiB in float64."""


class Residual(NamedTuple):
    """What is added to the logits of unit embeddings v: v @ weights + bias.

    Attributes:
        weights: (dim, classes).
        bias: (classes,).
    """

    weights: Tensor
    bias: Tensor


class Basis(NamedTuple):
    """Labelled images in the coordinates in which residuals are learned.

    Attributes:
        mean: (dim,) of the embeddings.
        length: root mean square distance from the mean.
        axes: (dim, r) orthonormal: the principal axes of the images.
        images: (images, r) float64, centered and divided by `length`; with a constant also a column of
            ones, the last.
        eigenvalues: of `images.T @ images`, as many as it has columns; of the column of ones a part of it,
            by which it takes fewest steps.
    """

    mean: Tensor
    length: float
    axes: Tensor
    images: Tensor
    eigenvalues: Tensor


def basis(embeds: Tensor, *, constant: bool = True) -> Basis:
    """Return labelled images as `fit` takes them.

    Args:
        embeds: (images, dim) of length one, float64.
        constant: whether a constant is learned for each class too.
    """
    mean = embeds.mean(0)
    seen = embeds - mean
    length = float(seen.square().sum(1).mean().sqrt())
    if not length > 0:  # one image, or all alike: nothing to learn from
        return Basis(mean, 1.0, embeds.new_zeros(len(mean), 0), embeds.new_zeros(len(embeds), 0), mean[:0])
    seen = seen / length
    # The smaller of the two Gram matrices; what is nothing but rounding has no direction.
    if len(seen) < seen.shape[1]:
        values, vectors = torch.linalg.eigh(seen @ seen.T)
        there = values > values[-1] * 1e-12
        values, axes = values[there], seen.T @ vectors[:, there] / values[there].sqrt()
    else:
        values, axes = torch.linalg.eigh(seen.T @ seen)
        there = values > values[-1] * 1e-12
        values, axes = values[there], axes[:, there]
    images = seen @ axes
    if constant:  # across all axes, since images are centered
        images = torch.cat([images, images.new_ones(len(images), 1)], 1)
        values = torch.cat([values, values.new_full((1,), _CONSTANT * len(images))])
    return Basis(mean, length, axes, images, values)


def log_prior(labels: Tensor, classes: int) -> Tensor:
    """Return (classes,) half the log frequencies of labels, each class counted once more than it was seen."""
    counts = torch.bincount(labels, minlength=classes).double() + 1
    return (counts / counts.sum()).log() / 2


def fit(
    images: Tensor,
    logits: Tensor,
    labels: Tensor,
    eigenvalues: Tensor,
    strengths: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
) -> Iterator[Tensor]:
    """Yield the weights for each of some strengths, which are best in descending order.

    Args:
        images: (images, r), rows of `Basis.images`.
        logits: (images, classes) of the space.
        labels: (images,) int64.
        eigenvalues: of the basis.
        strengths: > 0.
        tolerance: of the length of the gradient, beside its length at no weights.

    Yields:
        (r, classes) weights in the coordinates of the basis.
    """
    whole = torch.ones(1, len(images), dtype=torch.bool, device=images.device)
    given = logits, labels, whole, eigenvalues, strengths
    # Float32 takes half the time of float64, which then has little left to do.
    starts = fit_parts(images.float(), *given, tolerance=_ROUGHLY)
    for weights in fit_parts(images, *given, tolerance=tolerance, starts=starts):
        yield weights[:, 0]


def fit_parts(
    images: Tensor,
    logits: Tensor,
    labels: Tensor,
    parts: Tensor,
    eigenvalues: Tensor,
    strengths: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    starts: Iterable[Tensor | None] = repeat(None),
) -> Iterator[Tensor]:
    """Yield the weights for each of some strengths as `fit` does, of several parts of the images at once.

    All parts are one problem, whose products are as wide as all of them together: that is several times as
    fast as one after the other, where classes are few.

    Args:
        images: (images, r), rows of `Basis.images`.
        logits: (images, classes) of the space.
        labels: (images,) int64.
        parts: (parts, images) bool: of which images each residual is learned.
        eigenvalues: of the basis.
        strengths: > 0.
        tolerance: as for `fit`, of the gradients of all parts.
        starts: weights to begin with, one for each strength; None: those of the strength before, or none.

    Yields:
        (r, parts, classes) weights in the coordinates of the basis.
    """
    count, classes = len(parts), logits.shape[1]
    prior = torch.stack([log_prior(labels[part], classes) for part in parts]).to(images)
    rows = max(1, _CHUNK_NUMBERS // max(count * classes, images.shape[1], 1))
    chunks = list(
        zip(
            images.split(rows),
            logits.to(images)[:, None].split(rows),
            labels[:, None, None].expand(-1, count, 1).split(rows),
            parts.T[..., None].to(images).split(rows),
            strict=True,
        )
    )
    # At no weights, the offsets alone: mean variance of the probabilities, and the gradient.
    spread, first = 0.0, images.new_zeros(images.shape[1], count * classes)
    for part, offset, label, shown in chunks:
        found = (offset + prior).softmax(2)
        spread += float((found * (1 - found) * shown).sum())
        first = first.addmm(part.T, _wrong(found, label, shown))
    curvature = spread / (int(parts.sum()) * classes)
    weights = torch.zeros_like(first)
    for strength, start in zip(strengths, starts, strict=False):
        if start is not None:
            weights = start.to(images).reshape_as(first)
        stretch = (eigenvalues.to(images) * curvature + strength).sqrt()[:, None]

        def loss(
            whitened: Tensor, stretch: Tensor = stretch, strength: float = strength
        ) -> tuple[Tensor, Tensor]:
            own = whitened / stretch
            total, slope = strength / 2 * own.square().sum(), strength * own
            for part, offset, label, shown in chunks:
                found = torch.addmm(prior.view(-1), part, own).view(len(part), count, classes).add_(offset)
                found = found.log_softmax(2)
                total = total - (found.gather(2, label) * shown).sum()
                slope = slope.addmm(part.T, _wrong(found.exp_(), label, shown))
            return total, slope / stretch

        enough = tolerance * float((first / stretch).norm())
        weights = minimum(loss, weights * stretch, enough) / stretch
        yield weights.view(-1, count, classes)


def _wrong(found: Tensor, label: Tensor, shown: Tensor) -> Tensor:
    """Return (images, parts x classes) probabilities minus what is right; in the place of `found`."""
    return found.scatter_add_(2, label, -torch.ones_like(shown)).mul_(shown).view(len(found), -1)


def residual(found: Basis, weights: Tensor) -> Residual:
    """Return a residual of unit embeddings. Args: weights: (r, classes) as `fit` gives them."""
    rank = found.axes.shape[1]
    whole = found.axes @ weights[:rank] / found.length
    bias = -(found.mean @ whole)
    return Residual(whole, bias + weights[rank] if len(weights) > rank else bias)


def minimum(loss: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, enough: float) -> Tensor:
    """Return where a convex function is smallest, as torch's L-BFGS finds it.

    Args:
        loss: gives value and gradient at a point; best in coordinates in which its Hessian is about the
            identity.
        start: where to begin.
        enough: the length of a gradient that is near enough to none.
    """
    at = start.clone()
    last: tuple[Tensor, Tensor, Tensor] | None = None

    def asked() -> Tensor:
        nonlocal last
        if last is None or not torch.equal(last[0], at):
            last = (at.clone(), *loss(at))
        _, value, at.grad = last
        # torch's own rule is of the largest number of the gradient, whose size says little here.
        if not at.grad.norm() > enough:
            raise _NearEnoughError
        return value

    search = torch.optim.LBFGS(
        [at],
        max_iter=1,
        max_eval=STEPS * 5 // 4,
        history_size=_MEMORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    (settings,) = search.param_groups
    with suppress(_NearEnoughError):
        asked()
        assert last is not None  # it was just asked
        slope = last[2]
        bend = (slope - loss(at - _AHEAD * slope)[1]).mul_(slope).sum() / _AHEAD
        # torch's first step is 1 / |slope|_1 long, which says nothing of many weights: so many of these.
        settings["lr"] = float(slope.square().sum() / bend * slope.abs().sum().clamp_min(1))
        search.step(asked)
        settings.update(lr=1.0, max_iter=STEPS - 1)
        search.step(asked)
    return at


class _NearEnoughError(Exception):
    pass
