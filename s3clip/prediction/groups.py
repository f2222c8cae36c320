"""Groups of classes as answers: the probability of a group from those of its classes.

Where probabilities are a softmax, classes exclude each other, and that of a group is the sum over its
classes. Where they are sigmoids, classes may be there together, and a group is there where one of them is:
1 - product of (1 - p), as of classes that come independently of each other. It lies between the largest of
them and their sum, which bound it whatever comes together (Fréchet); of both, and beside the largest, it was
the better guess of what product photos show (`examples/studies/levels.py --sigmoids`), and unlike a sum that
is cut off at 1 it never makes sure groups equal.
"""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s3clip.arguments import whole_number
from s3clip.class_space import Calibration
from s3clip.prediction.batches import AnsweringHead
from s3clip.prediction.scope import Scope, scope_of
from s3clip.prediction.top_classes import BestClasses, TopClasses, largest
from s3clip.texts.groups import checked_level, group_owners

_NONE = torch.iinfo(torch.int64).max


class TopGroups(NamedTuple):
    """The most probable groups of every image, the best first; of equals the one whose class stands first.

    Attributes:
        group: (images, k) int64, their positions among the groups.
        class_index: (images, k) int64, of each its class of the largest logit.
        logits: (images, k), those logits.
        probabilities: (images, k) float32, of the groups.
        accepted: (images, k) bool, whether one of its classes is accepted.
    """

    group: Tensor
    class_index: Tensor
    logits: Tensor
    probabilities: Tensor
    accepted: Tensor


@torch.no_grad()
def top_groups(
    head: AnsweringHead,
    level: str,
    pixel_values: Tensor | None = None,
    *,
    image_embeds: Tensor | None = None,
    k: int = 5,
    among: Any = None,
    **image_inputs: Any,
) -> TopGroups:
    """Return the k most probable groups of every image, in one pass over blocks of classes.

    Args:
        head: a fitted head.
        level: of the groups, one of `head.levels`.
        pixel_values: as for `forward`.
        image_embeds: as for `forward`.
        k: how many; all where there are fewer.
        among: answer within some classes, as for `predict`.
        image_inputs: as for `forward`.

    Raises:
        ValueError: no class has a group at this level; else as for `forward` and `predict`.
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    k = whole_number(k, "k")
    scope = scope_of(head.classes, checked_level(level), among)
    assert scope.owners is not None  # a level was asked for
    blocks = head.logits_by_block(pixel_values, image_embeds=image_embeds, **image_inputs)
    return best_groups((scope.taken(*each) for each in blocks), k, head.current_calibration, scope.owners)


@torch.no_grad()
def top_classes_and_group(
    head: AnsweringHead, level: str, *, image_embeds: Tensor, k: int = 5, among: Any = None
) -> tuple[TopClasses, TopGroups]:
    """Return what `top_classes` says, and `top_groups` of the most probable group, in one pass over classes.

    Args:
        head: a fitted head.
        level: of the groups.
        image_embeds: as for `forward`.
        k: how many classes.
        among: answer within some classes, as for `predict`.
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    scope = scope_of(head.classes, checked_level(level), among)
    assert scope.owners is not None  # a level was asked for
    calibration = head.current_calibration
    best, groups = BestClasses(k, calibration), BestGroups(1, calibration, scope.owners)
    for block in head.logits_by_block(image_embeds=image_embeds):
        own = scope.taken(*block)
        best.add(*own)
        groups.add(*own)
    return best.found(), groups.found()


class BestGroups:
    """The k most probable groups, of logits that come some classes at a time, and are forgotten at once.

    Args:
        k: how many; all where there are fewer.
        calibration: what makes probabilities of logits.
        owners: (classes,) int64, the group of every class. Groups of which no class comes are no answers.
    """

    def __init__(self, k: int, calibration: Calibration, owners: Tensor) -> None:
        self.k, self.calibration, self.owners = k, calibration, owners
        self.groups = int(owners.max()) + 1
        self._so_far: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def add(self, classes: Tensor, logits: Tensor) -> None:
        """Take (c,) positions of c classes, and (images, c) their logits."""
        logits, owners, groups = logits.float(), self.owners, self.groups
        if self._so_far is None:
            best = logits.new_full((len(logits), groups), -torch.inf)
            member = torch.full_like(best, _NONE, dtype=torch.int64)
            mass = _mass(self.calibration, logits[:, :0], owners[:0], groups)
            self._so_far = best, member, mass, torch.zeros_like(member)
        best, member, mass, passed = self._so_far
        own = owners.to(classes.device)[classes]
        index = own.expand_as(logits)
        found = best.scatter_reduce(1, index, logits, "amax")
        # Of equal logits the first class.
        first = torch.where(logits == found.gather(1, index), classes, _NONE)
        member = torch.where(found > best, _NONE, member).scatter_reduce(1, index, first, "amin")
        passed = passed.scatter_reduce(1, index, self.calibration.accepts(logits, classes).long(), "amax")
        more = _mass(self.calibration, logits, own, groups)
        mass = torch.logaddexp(mass, more) if self.calibration.activation == "softmax" else mass + more
        self._so_far = found, member, mass, passed

    def found(self) -> TopGroups:
        """Return the best of what was taken, which was one class or more."""
        assert self._so_far is not None
        best, member, mass, passed = self._so_far
        absent = member == _NONE
        there = self.groups - int(absent[0].sum()) if len(absent) else self.groups
        every = torch.arange(self.groups, device=mass.device)
        values, order = largest(mass.masked_fill(absent, -torch.inf), every, min(self.k, there))
        if self.calibration.activation == "softmax":
            probabilities = (values - mass.logsumexp(1, keepdim=True)).exp()
        else:
            probabilities = -torch.expm1(-values)
        return TopGroups(
            order,
            member.gather(1, order),
            best.gather(1, order),
            probabilities.float(),
            passed.gather(1, order).bool(),
        )


def best_groups(
    blocks: Iterable[tuple[Tensor, Tensor]], k: int, calibration: Calibration, owners: Tensor
) -> TopGroups:
    """Return the k most probable groups, of logits that come some classes at a time; see `BestGroups`."""
    best = BestGroups(k, calibration, owners)
    for classes, logits in blocks:
        best.add(classes, logits)
    return best.found()


def _mass(calibration: Calibration, logits: Tensor, owners: Tensor, groups: int) -> Tensor:
    """Return what grows with the probability of each group, in float64: (images, groups).

    Of a softmax, the log of the sum of exp over the classes of a group; of sigmoids, minus the log of the
    product of (1 - p), which is a sum of softplus. Both of no class where a group has none.
    """
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # which that has not
    scaled, index = calibration.scaled(logits).to(precise), owners.to(logits.device).expand_as(logits)
    none = scaled.new_zeros(len(logits), groups)
    if calibration.activation == "sigmoid":
        return none.scatter_add(1, index, torch.nn.functional.softplus(scaled))
    most = (none - torch.inf).scatter_reduce(1, index, scaled, "amax")
    return most + none.scatter_add(1, index, (scaled - most.gather(1, index)).exp()).log()


def group_names(head: AnsweringHead, level: str) -> list[str]:
    """Return the names of the groups at a level, in the order of their first classes.

    A class that is in none is a group of its own.

    Raises:
        ValueError: not fitted, or no class has a group at this level.
    """
    return group_owners(head.classes, level)[1]


def group_probabilities(head: AnsweringHead, logits: Tensor, level: str) -> Tensor:
    """Return the probabilities of the groups at a level, in the order of `group_names`.

    Of a softmax the sums over the classes of a group; of sigmoids 1 - product of (1 - p), see above.

    Args:
        head: a fitted head.
        logits: (..., classes), as of `forward`.
        level: of the groups.

    Returns:
        (..., groups).

    Raises:
        ValueError: no class has a group at this level, or logits of other classes.
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    owners, _ = group_owners(head.classes, level)
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits: expected a torch.Tensor, got {type(logits).__name__}")
    if logits.shape[-1] != len(owners):
        raise ValueError(f"logits: expected shape (..., {len(owners)}), got {tuple(logits.shape)}")
    scope = Scope(None, [], torch.tensor(owners, device="cpu"))
    return answer_probabilities(scope, head.current_calibration, logits.reshape(-1, len(owners))).view(
        *logits.shape[:-1], max(owners) + 1
    )


def answer_probabilities(scope: Scope, calibration: Calibration, logits: Tensor) -> Tensor:
    """Return (images, answers) the probabilities of `scope.answers`, of (images, classes) logits."""
    positions, within = scope.taken(torch.arange(logits.shape[1], device=logits.device), logits)
    probabilities = calibration.probabilities(within)
    if scope.owners is None:
        return probabilities
    groups, owners = scope.owners.to(positions.device)[positions].unique(return_inverse=True)
    if calibration.activation == "sigmoid":
        return -torch.expm1(-_mass(calibration, within, owners, len(groups))).to(probabilities)
    empty = probabilities.new_zeros(len(probabilities), len(groups))
    return empty.scatter_add(1, owners.expand_as(probabilities), probabilities)
