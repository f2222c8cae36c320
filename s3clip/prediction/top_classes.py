"""The best classes of every image: one rule for ties, the class that stands first."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s3clip.arguments import whole_number
from s3clip.class_space import Calibration
from s3clip.prediction.batches import AnsweringHead
from s3clip.prediction.scope import scope_of


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


@torch.no_grad()
def top_classes(
    head: AnsweringHead,
    pixel_values: Tensor | None = None,
    *,
    image_embeds: Tensor | None = None,
    k: int = 5,
    among: Any = None,
    **image_inputs: Any,
) -> TopClasses:
    """Return the k classes of the largest logits of every image, in one pass over blocks of classes.

    What `forward`, `probabilities` and `topk` say, without the (batch, classes) logits in memory: for large
    batches and tens of thousands of classes.

    Args:
        head: a fitted head.
        pixel_values: as for `forward`.
        image_embeds: as for `forward`.
        k: how many; all where there are fewer.
        among: answer within some classes, as for `predict`.
        image_inputs: as for `forward`.
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    k = whole_number(k, "k")
    blocks = head.logits_by_block(pixel_values, image_embeds=image_embeds, **image_inputs)
    if among is not None:
        scope = scope_of(head.classes, among=among)
        blocks = (scope.taken(*block) for block in blocks)
    return best_classes(blocks, k, head.current_calibration)


class BestClasses:
    """The k largest of logits that come some classes at a time, and are forgotten at once.

    Args:
        k: how many; all where there are fewer.
        calibration: what makes probabilities of logits.
    """

    def __init__(self, k: int, calibration: Calibration) -> None:
        self.k, self.calibration = k, calibration
        self._best: tuple[Tensor, Tensor] | None = None  # logits and positions
        self._total: Tensor | None = None  # log of the sum of exp over all classes so far

    def add(self, classes: Tensor, logits: Tensor) -> None:
        """Take (c,) positions of c classes, and (batch, c) their logits."""
        if not len(classes):
            return
        found = largest(logits, classes, self.k)
        if self._best is not None:
            values, positions = (torch.cat(pair, dim=1) for pair in zip(self._best, found, strict=True))
            found = largest(values, positions, self.k)
        self._best = found
        if self.calibration.activation == "softmax":
            part = self.calibration.scaled(logits.float()).logsumexp(1)
            self._total = part if self._total is None else torch.logaddexp(self._total, part)

    def found(self) -> TopClasses:
        """Return the best of what was taken, which was one class or more."""
        assert self._best is not None
        values, index = self._best
        if self._total is None:
            probabilities = self.calibration.probabilities(values.float())
        else:
            probabilities = (self.calibration.scaled(values.float()) - self._total[:, None]).exp()
        return TopClasses(index, values, probabilities, self.calibration.accepts(values, index))


def best_classes(blocks: Iterable[tuple[Tensor, Tensor]], k: int, calibration: Calibration) -> TopClasses:
    """Return the k largest of logits that come some classes at a time; see `BestClasses`."""
    best = BestClasses(k, calibration)
    for classes, logits in blocks:
        best.add(classes, logits)
    return best.found()
