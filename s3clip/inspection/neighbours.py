"""How near the texts of a class are to their own class, and to others."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.space.edges import CHUNK_NUMBERS
from s3clip.space.synonymous_space import SynonymousSpace

NEAREST_CLASSES = 5


@dataclass(frozen=True)
class Neighbours:
    """Cosines between texts and class centres, a centre being the normalised mean of the kept texts.

    Attributes:
        own: (texts,) of each text with the centre of the other kept texts of its class; NaN where there are
            none.
        other: (texts,) with the nearest centre of another class; NaN where there is one class.
        other_class: (texts,) int64, that class; -1 where there is none.
        classes: (classes, k) int64, the classes with the nearest centres, the nearest first.
        similarities: (classes, k) cosines of those centres.
    """

    own: Tensor
    other: Tensor
    other_class: Tensor
    classes: Tensor
    similarities: Tensor


def find_neighbours(space: SynonymousSpace) -> Neighbours:
    """Compare every text and every class with all classes. The space lies on the CPU."""
    owners, count = space.owners, len(space.scales)
    points = space.points_of(torch.arange(len(owners))).double()
    kept = torch.zeros(len(owners), dtype=torch.bool)
    kept[space.kept] = True
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64)
    sums.index_add_(0, owners[kept], points[kept])
    centres = normalize(sums, dim=-1)
    # A repeated text is not among those kept, but the one that it repeats is.
    itself = space.duplicate_of
    rest = sums[owners] - points[itself] * kept[itself, None]
    others = torch.bincount(owners[kept], minlength=count)[owners] - kept[itself].long()
    own = (points * normalize(rest, dim=-1)).sum(-1).masked_fill(others == 0, torch.nan)
    other, other_class = _best(points, owners, centres, 1)
    similarities, classes = _best(centres, torch.arange(count), centres, NEAREST_CLASSES)
    if count == 1:
        nothing = torch.full_like(own, torch.nan)
        return Neighbours(own, nothing, torch.full_like(owners, -1), classes, similarities)
    return Neighbours(own, other[:, 0], other_class[:, 0], classes, similarities)


def _best(points: Tensor, owners: Tensor, centres: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest cosines of each point with the centres of other classes, and those classes."""
    k = min(k, len(centres) - 1)
    found = []
    for part, own in zip(
        points.split(max(1, CHUNK_NUMBERS // len(centres))),
        owners.split(max(1, CHUNK_NUMBERS // len(centres))),
        strict=True,
    ):
        found.append((part @ centres.T).scatter_(1, own[:, None], -torch.inf).topk(k, dim=1))
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
