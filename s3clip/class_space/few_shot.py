"""The residual of labelled images, derived when a class space is built: chosen once, solved at every load."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from s3clip.class_space.examples import (
    Examples,
    FewShotReport,
    Gain,
    LearnedResidual,
    copies,
    counts,
)
from s3clip.space.built import BuiltSpace
from s3clip.space.residual import Residual, basis, fit, residual
from s3clip.space.strength import Choice, Estimate, choose

_AT_ONCE = 1024
ROUNDING = 1e-6
"""By which a logit in float32 may differ from itself, computed in another batch."""
_NOTHING = Choice(None, Estimate(0.0, 0.0, 0.0, 0.0), Estimate(0.0, 0.0, 0.0, 0.0))


def learn(
    kept: Examples | LearnedResidual, built: BuiltSpace
) -> tuple[Examples | LearnedResidual, Residual | None]:
    """Return what is kept, with what was chosen, and what it adds to the logits; None: nothing.

    Args:
        kept: labelled images, or what was learned of them before.
        built: the spaces that they belong to.
    """
    if isinstance(kept, LearnedResidual):
        return kept, None if kept.report.strength is None else Residual(kept.weights, kept.bias)
    with torch.no_grad(), torch.autocast(built.raw.device.type, enabled=False):
        return _learned(kept, built)


def _learned(kept: Examples, built: BuiltSpace) -> tuple[Examples, Residual | None]:
    labels = kept.labels.cpu()
    of_class = labels >= 0
    shown, labels = kept.embeds[of_class], labels[of_class]
    report = kept.report
    if report is not None and report.strength is None:
        return kept, None
    logits = _logits(kept.embeds, built, kept.logit_scale)
    found = None
    if len(shown):
        unit = torch.nn.functional.normalize(shown.cpu().double(), dim=1)
        found = basis(unit, constant=report is None or report.constant)
    if report is None:
        choice = _NOTHING if found is None else choose(found, logits[of_class], labels, copies(shown))
        seen, none = counts(kept.labels.tolist(), logits.shape[1])
        report = FewShotReport(
            strength=choice.strength,
            seen=seen,
            none=none,
            top1=Gain(**choice.top1._asdict()),
            recall=Gain(**choice.recall._asdict()),
            threshold=None,
            constant=True,
        )
    learned = None
    if found is not None and report.strength is not None:
        (weights,) = fit(found.images, logits[of_class], labels, found.eigenvalues, [report.strength])
        learned = residual(found, weights)
        at = built.raw
        learned = Residual(*(part.to(device=at.device, dtype=at.dtype) for part in learned))
    if kept.report is None and report.none:
        report = report.model_copy(update={"threshold": _threshold(kept, logits, learned)})
    return replace(kept, report=report), learned


def _logits(embeds: Tensor, built: BuiltSpace, scale: float) -> Tensor:
    """Return (images, classes) logits of the space on the CPU, without the model's bias."""
    folded = built.folded
    parts = [
        folded.logits(folded.unit_embeds(part.to(built.raw.device).float()), scale).cpu()
        for part in embeds.split(_AT_ONCE)
    ]
    return torch.cat(parts)


def _threshold(kept: Examples, logits: Tensor, learned: Residual | None) -> float:
    """Return the logit that images of no class reach no more often than they may."""
    out = kept.labels.cpu() < 0
    found = logits[out]
    if learned is not None:
        unit = torch.nn.functional.normalize(kept.embeds[out].cpu().float(), dim=1)
        found = found + unit.to(learned.weights.cpu()) @ learned.weights.cpu() + learned.bias.cpu()
    return least_threshold(found.amax(1), kept.false_accept_rate)


def least_threshold(scores: Tensor, false_accept_rate: float) -> float:
    """Return the least threshold that at most this share of negatives reaches, whatever batch they are in.

    Args:
        scores: (negatives,) one or more: the largest logit of each image that shows none of the classes.
        false_accept_rate: in [0, 1).
    """
    ordered = np.sort(scores.double().cpu().numpy())[::-1]
    # 1e-9: 0.29 x 100 is 28.999999999999996.
    accepted = int(false_accept_rate * len(ordered) + 1e-9)
    reached = ordered[accepted] + ROUNDING * max(1.0, abs(ordered[accepted]))
    # Logits are float32 at most: none lies between, and no sum with the shares of classes rounds onto it.
    return float(np.nextafter(np.float32(reached), np.float32(np.inf)))
