"""The best classes of every image: one rule for ties, the class that stands first."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from s3clip.class_space import Calibration


def largest(values: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of every row, the largest first; of equal ones the lowest positions.

    Args:
        values: (rows, n), none of them NaN.
        positions: (n,) or (rows, n) int64, what each column stands for; no row has one twice.
        k: how many; all where there are fewer.

    Returns:
        (rows, min(k, n)) the values, and their positions.
    """
    positions = positions.expand_as(values)
    # `topk` takes any of equal values, in any order: rows that hold some, which are rare, are sorted. One
    # more than is asked for tells whether the last is one of them.
    found, columns = values.topk(min(k + 1, values.shape[1]), dim=1)
    tied = (found[:, 1:] == found[:, :-1]).any(1)
    found, columns = found[:, :k], columns[:, :k]
    if bool(tied.any()):
        by_position = positions[tied].argsort(1)
        best = values[tied].gather(1, by_position).sort(dim=1, descending=True, stable=True)
        found[tied] = best.values[:, : found.shape[1]]
        columns[tied] = by_position.gather(1, best.indices[:, : found.shape[1]])
    return found, positions.gather(1, columns)


class TopClasses(NamedTuple):
    """The classes of the largest logits of every image, the best first.

    Attributes:
        class_index: (batch, k) int64, their positions among `head.class_names`.
        logits: (batch, k), as of `forward`.
        probabilities: (batch, k) float32, as of `head.probabilities` of all logits.
        accepted: (batch, k) bool, whether a logit reaches its threshold; true without one.
    """

    class_index: Tensor
    logits: Tensor
    probabilities: Tensor
    accepted: Tensor


def top_classes(blocks: Iterable[tuple[Tensor, Tensor]], k: int, calibration: Calibration) -> TopClasses:
    """Return the k largest of logits that come some classes at a time, and are forgotten at once.

    Args:
        blocks: one or more of ((c,) positions of c classes, (batch, c) their logits).
        k: how many; all where there are fewer.
        calibration: what makes probabilities of logits.
    """
    best: tuple[Tensor, Tensor] | None = None  # logits and positions
    total: Tensor | None = None  # log of the sum of exp over all classes so far
    for classes, logits in blocks:
        found = largest(logits, classes, k)
        if best is not None:
            values, positions = (torch.cat(pair, dim=1) for pair in zip(best, found, strict=True))
            found = largest(values, positions, k)
        best = found
        if calibration.activation == "softmax":
            part = calibration.scaled(logits.float()).logsumexp(1)
            total = part if total is None else torch.logaddexp(total, part)
    assert best is not None  # there is a class
    values, index = best
    if total is None:
        probabilities = calibration.probabilities(values.float())
    else:
        probabilities = (calibration.scaled(values.float()) - total[:, None]).exp()
    return TopClasses(index, values, probabilities, calibration.accepts(values, index))
