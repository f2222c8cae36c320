"""From logits to labels: what brings the texts of a class together, and what is nothing. Pure.

Our head brings them together before any softmax, so its logits are one a class. In published pipelines every
text is a name of its own: softmax over all names, then the largest of each class. There a synonym takes
probability from the others, so adding one lowers a class, and moves what a threshold means.
"""

import torch
from torch import Tensor

NO_CLASS = -1
"""The label of pixels whose best class stays below the threshold, where no class stands for background."""


def softmax_then_max(logits: Tensor, owners: Tensor, classes: int) -> Tensor:
    """Return what published pipelines take for the probability of each class.

    Args:
        logits: (texts, ...), one for every name.
        owners: (texts,) int64, the class of each, ascending; every class has one.
        classes: how many there are.

    Returns:
        (classes, ...) in (0, 1]; they sum to 1 only where every class has one text.
    """
    counts = torch.bincount(owners, minlength=classes).tolist()
    best = torch.stack([own.amax(0) for own in logits.split(counts)])
    return best.sub_(logits.logsumexp(0)).exp_()


def best_class(probabilities: Tensor, threshold: float | None, background: int | None) -> Tensor:
    """Return the best class of every pixel.

    Args:
        probabilities: (classes, ...); without a threshold, anything that ranks classes alike, such as logits.
        threshold: pixels whose best class is less probable get the background.
        background: its class; `NO_CLASS` if None.

    Returns:
        (...) int64; the first of classes that tie.
    """
    best, labels = probabilities.max(0)
    if threshold is None:
        return labels
    return torch.where(best < threshold, NO_CLASS if background is None else background, labels)
