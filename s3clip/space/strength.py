"""How strongly to hold on to the space: chosen by cross-validation, "as it is" being one of the choices.

Each labelled image is scored by residuals that were learned without it. A strength counts where it lowers
the log-loss of these images beyond chance (half a standard error of the paired differences), and lowers
neither accuracy nor mean recall by more than chance. Of those that count, the best one is taken or, where
that is no better beyond half a standard error, a stronger one. Where none counts the space stays as it is.

Log-loss decides, since of a hundred images accuracy changes on a few. Recall is the mean over classes; of
classes that were not seen nothing is known, and they count as the classes do that were seen least (of one
image the residual that is asked had seen none): after Good (1953).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s3clip.space.residual import Basis, fit_parts, log_prior

STRENGTHS = {2500.0: 0, 800.0: 0, 250.0: 0, 80.0: 0, 30.0: 1, 10.0: 3, 2.5: 10}
"""Divided by the number of images: with few of them, the space is held on to. Of each how many images a class
there must be, as `images_a_class` counts them: a weak one loses what rare classes had before."""
USUAL = 250.0
"""Stronger ones are asked only where this one would be taken, or none; none was seen to differ for it."""
FOLDS = 10
ENOUGH = 2000
"""Images that are asked; of more, some folds alone are computed."""
_Z = 1.96
_ROUGHLY = 3e-3
"""Tolerance of the residuals that are asked, as of `s3clip.space.residual.fit`."""
_AT_ONCE_NUMBERS = 2**22
"""Weights (folds x dimensions x classes) that are learned at once: 16 MiB in float32, some twenty times."""


class Asked(NamedTuple):
    """Images asked by residuals that were learned without them.

    Attributes:
        labels: (asked,) int64, their classes.
        folds: (asked,) int64, with which others each was left out.
        before: (asked,) float64, 1 where the space alone is right, else 0.
        after: (asked, strengths), the same with each residual.
        gains: (asked, strengths) by how much the log-loss falls.
    """

    labels: Tensor
    folds: Tensor
    before: Tensor
    after: Tensor
    gains: Tensor


class Estimate(NamedTuple):
    """A share of images before, its change, and the 95 % interval of the change; all of them shares."""

    before: float
    gain: float
    low: float
    high: float


class Choice(NamedTuple):
    """What cross-validation says.

    Attributes:
        strength: of the residual; None: no residual, the space stays as it is.
        top1: the share of images that are classified right.
        recall: the mean of that over the classes that were seen.
    """

    strength: float | None
    top1: Estimate
    recall: Estimate


def images_a_class(labels: Tensor, classes: int) -> float:
    """Return the harmonic mean of the images of all classes, half a one added to each.

    The rarest classes decide, whose recall is lost first; of one without any image nothing is known.

    Args:
        labels: (images,) int64.
        classes: how many there are.
    """
    counts = torch.bincount(labels, minlength=classes).double() + 0.5
    return float(1 / counts.reciprocal().mean())


def first_of(groups: Tensor) -> Tensor:
    """Return (groups,) the first image of each group. Args: groups: (images,) int64 from 0 on, none empty."""
    first = groups.new_full((int(groups.max()) + 1,), len(groups))
    return first.scatter_reduce_(0, groups, torch.arange(len(groups), device=groups.device), "amin")


def fold_of(labels: Tensor, groups: Tensor, count: int = FOLDS, mixed: Tensor | None = None) -> Tensor:
    """Return (images,) which fold each image is in: classes spread evenly, images of a group together.

    Args:
        labels: (images,) int64.
        groups: (images,) int64 from 0 on: one number for all copies of an image.
        count: of folds; fewer where there are fewer groups.
        mixed: (groups,) the order of groups within classes; None: as they come.
    """
    first = first_of(groups)
    mixed = torch.arange(len(first), device=groups.device) if mixed is None else mixed
    order = mixed[labels[first[mixed]].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order), device=order.device) % min(count, len(order))
    return fold[groups]


def held_out(
    found: Basis, logits: Tensor, labels: Tensor, folds: Tensor, strengths: Sequence[float]
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Yield what residuals that were learned without them add to the logits of images, fold by fold.

    In float32 and not to the last digit: far below what one image more or less changes.

    Args:
        found: labelled images.
        logits: (images, classes) of the space.
        labels: (images,) int64.
        folds: (images,) int64 from 0 on, two or more; those below 0 are left out of none and not asked.
        strengths: in descending order.

    Yields:
        (asked,) the positions of the images of a fold, which strength, and (asked, classes) what is added.
    """
    if not strengths:
        return
    images, logits = found.images.float(), logits.float()
    at_once = max(1, _AT_ONCE_NUMBERS // max(1, images.shape[1] * logits.shape[1]))
    for some in torch.arange(int(folds.max()) + 1, device=folds.device).split(at_once):
        parts = folds != some[:, None]
        fitted = fit_parts(images, logits, labels, parts, found.eigenvalues, strengths, tolerance=_ROUGHLY)
        for position, weights in enumerate(fitted):
            for part, own in zip(parts, weights.unbind(1), strict=True):
                out = (~part).nonzero()[:, 0]
                yield out, position, images[out] @ own


def ask(found: Basis, logits: Tensor, labels: Tensor, groups: Tensor, strengths: Sequence[float]) -> Asked:
    """Ask images in folds. Args: see `choose`."""
    folds = fold_of(labels, groups)
    folds[folds >= math.ceil(ENOUGH * (int(folds.max()) + 1) / len(labels))] = -1
    after = torch.zeros(len(labels), len(strengths), dtype=torch.float64, device=labels.device)
    gains = torch.zeros_like(after)
    for out, position, added in held_out(found, logits, labels, folds, strengths):
        own, offsets = labels[out], logits[out].double()
        taught = offsets + added.double()
        prior = log_prior(labels[folds != folds[out[0]]], logits.shape[1])
        after[out, position] = (taught.argmax(1) == own).double()
        gains[out, position] = _log_loss(offsets + prior, own) - _log_loss(taught + prior, own)
    asked = folds >= 0
    before = (logits[asked].argmax(1) == labels[asked]).double()
    return Asked(labels[asked], folds[asked], before, after[asked], gains[asked])


def chosen(asked: Asked, classes: int) -> int | None:
    """Return which strength is taken, by position; None: none. Args: classes: how many there are."""
    # Fewer images show nothing beyond chance.
    if len(asked.labels) < FOLDS or not asked.gains.shape[1]:
        return None
    mean, error = _mean_and_error(asked.gains)
    change = asked.after - asked.before[:, None]
    counts = mean > error / 2
    for weights in (_of_images(asked.labels), _of_classes(asked.labels, classes)):
        weighted = weights[:, None] * change
        counts &= weighted.sum(0) >= -weighted.square().sum(0).sqrt() - 1e-9
    if not bool(counts.any()):
        return None
    best = int(torch.where(counts, mean, -torch.inf).argmax())
    below, by_chance = _mean_and_error(asked.gains[:, best : best + 1] - asked.gains)
    return int((counts & (below <= by_chance / 2)).int().argmax())  # the first, which is the strongest


def choose(found: Basis, logits: Tensor, labels: Tensor, groups: Tensor) -> Choice:
    """Choose a strength.

    Args:
        found: labelled images.
        logits: (images, classes) of the space.
        labels: (images,) int64.
        groups: (images,) int64 from 0 on, equal for copies of one image.

    Returns:
        The choice. What it gains is estimated fold by fold: with the strength that the other folds choose, so
        that choosing the best of several adds nothing to it. The interval's upper end allows for the images
        of its own class that an image is asked without.
    """
    classes = logits.shape[1]
    a_class = images_a_class(labels, classes)
    allowed = [each for each, least in STRENGTHS.items() if a_class >= least]
    if len(labels.unique()) == 1 or not bool(groups.any()):  # nothing tells classes apart
        allowed = []
    strengths = [each / len(labels) for each in allowed if each <= USUAL]
    asked = ask(found, logits, labels, groups, strengths)
    position = chosen(asked, classes)
    if not position:
        stronger = [each / len(labels) for each in allowed if each > USUAL]
        more = ask(found, logits, labels, groups, stronger)
        strengths = stronger + strengths
        asked = asked._replace(
            after=torch.cat([more.after, asked.after], 1), gains=torch.cat([more.gains, asked.gains], 1)
        )
        position = chosen(asked, classes)
    after = asked.before.clone()
    if position is not None:
        for fold in asked.folds.unique().tolist():
            out = asked.folds == fold
            others = Asked(*(part[~out] for part in asked))
            own = chosen(others, classes)
            after[out] = asked.after[out, position if own is None else own]
    part = asked.folds * classes + asked.labels
    missing = torch.bincount(part)[part].double()
    shown = torch.bincount(labels)[asked.labels] - missing
    return Choice(
        None if position is None else strengths[position],
        *(
            _estimate(asked.before, after, weights, missing, shown, changed=position is not None)
            for weights in (_of_images(asked.labels), _of_classes(asked.labels, None))
        ),
    )


def _estimate(
    before: Tensor, after: Tensor, weights: Tensor, missing: Tensor, shown: Tensor, *, changed: bool
) -> Estimate:
    """Return what images gain; `missing` and `shown` of its class it is asked without and with, (asked,)."""
    share = min(1.0, float(weights @ before))  # sums of shares round
    if not changed:
        return Estimate(share, 0.0, 0.0, 0.0)
    change = after - before
    gain = max(-1.0, min(1.0, float(weights @ change)))
    # As if one image more had been mended and one been spoilt (after Agresti and Min 2005).
    spread = float((weights.square() * change.square()).sum() + 2 * weights.square().mean())
    margin = _Z * math.sqrt(spread)
    # More images of a class gain more, and each no more than those before it did: so at most as many times.
    more = max(0.0, gain) * float(weights @ missing) / max(1.0, float(weights @ shown))
    return Estimate(share, gain, max(-1.0, gain - margin), min(1.0, gain + more + margin))


def _log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def _of_images(labels: Tensor) -> Tensor:
    return torch.full((len(labels),), 1 / max(1, len(labels)), dtype=torch.float64, device=labels.device)


def _of_classes(labels: Tensor, classes: int | None) -> Tensor:
    """Return (images,) weights of a mean over classes: those seen, or all of `classes`, as said above."""
    counts = torch.bincount(labels, minlength=1).double()
    seen = counts > 0
    shares = seen.double()
    if classes is not None and len(labels):
        rarest = seen & (counts == counts[seen].min())
        shares[rarest] += (classes - seen.sum()) / rarest.sum()
    return (shares / shares.sum().clamp_min(1) / counts.clamp_min(1))[labels]
