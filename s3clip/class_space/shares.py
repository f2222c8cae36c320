"""How common classes are, and what that adds to the logits by Bayes' rule."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_SHARE = 1e-9
"""Of a class: what is rarer is as good as never there, and can be removed."""

ROUNDING = 1e-3
"""By how much shares of all classes, which people round, may miss 1; they are then divided by their sum."""


def check_shares(shares: Sequence[float], classes: int) -> None:
    """Raise ValueError where these are not the shares of so many classes."""
    if len(shares) != classes or classes < 2:
        raise ValueError(f"class_shares: {len(shares)} shares for {classes} classes")
    # Divided by their sum, the least may have become smaller by as much.
    if not all(share >= SMALLEST_SHARE * (1 - ROUNDING) for share in shares):
        raise ValueError(f"class_shares: expected {SMALLEST_SHARE:g} or more each, got {min(shares)}")
    if not abs(math.fsum(shares) - 1) <= 1e-9:
        raise ValueError(f"class_shares: expected a sum of 1, got {math.fsum(shares)}")


def in_logits(offsets: Tensor, activation: str, temperature: float) -> Tensor:
    """Return those (classes,) of the (2, classes) `share_offsets` that logits of a temperature are given."""
    return offsets[0 if activation == "softmax" else 1] * temperature


def share_offsets(shares: Sequence[float]) -> Tensor:
    """Return what shares add to logits, in units of the temperature: (2, classes) in float64.

    The probabilities of a head are those of images among which all classes are as common. By Bayes' rule
    others multiply a softmax by ``share · classes``, before it is divided by its sum; and the odds of a
    sigmoid, for which every class is there or is not, by the odds of the share over those of 1 / classes.

    Returns:
        The logarithms of both: row 0 for a softmax, row 1 for a sigmoid.
    """
    own = torch.tensor(list(shares), dtype=torch.float64, device="cpu")
    odds = torch.log(own) - torch.log1p(-own)
    return torch.stack([torch.log(own * len(own)), odds + math.log(len(own) - 1)])
