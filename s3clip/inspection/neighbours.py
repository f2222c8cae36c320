"""How near the texts of a class are to their own class, and to others."""

from dataclasses import dataclass

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.space.edges import CHUNK_NUMBERS
from s3clip.space.synonymous_space import LEAST_COMPARED, SynonymousSpace

NEAREST_CLASSES = 5


@dataclass(frozen=True)
class Neighbours:
    """Cosines between some texts and class centres, a centre being the normalised mean of the kept texts.

    Attributes:
        own: (n,) of each text with the centre of the other kept texts of its class; NaN where there are none.
        other: (n,) with the nearest centre of another class; NaN where there is one class.
        other_class: (n,) int64, that class; -1 where there is none.
    """

    own: Tensor
    other: Tensor
    other_class: Tensor


def find_neighbours(space: SynonymousSpace, rows: Tensor | None = None) -> Neighbours:
    """Compare texts with all classes; a bar shows how far it is where that takes long.

    Args:
        space: on the CPU.
        rows: (n,) int64, which texts; None: all.
    """
    rows = torch.arange(len(space.owners)) if rows is None else rows
    sums, count = _sums(space), len(space.scales)
    # In the precision of the embeddings: what is shown has three digits.
    centres = normalize(sums, dim=-1).to(torch.promote_types(space.raw.dtype, torch.float32))
    kept = torch.zeros(len(space.owners), dtype=torch.bool)
    kept[space.kept] = True
    # A repeated text is not among those kept, but the one that it repeats is.
    itself, owners, sizes = space.duplicate_of[rows], space.owners[rows], space.sizes
    own, other = (torch.full((len(rows),), torch.nan, dtype=centres.dtype) for _ in range(2))
    other_class = torch.full_like(rows, -1)
    bar = tqdm(total=len(rows), desc="neighbours", unit=" texts", delay=2, disable=None)  # type: ignore[no-untyped-call]
    with bar:
        for part in torch.arange(len(rows)).split(_step(space)):
            points, at = space.points_of(rows[part]), owners[part]
            counted = kept[itself[part]]
            rest = sums[at] - space.points_of(itself[part]) * counted[:, None]
            cosines = (points * normalize(rest, dim=-1).to(points.dtype)).sum(-1)
            own[part] = cosines.masked_fill(sizes[at] == counted.long(), torch.nan)
            if count > 1:
                nearest = (points @ centres.T).scatter_(1, at[:, None], -torch.inf).max(1)
                other[part], other_class[part] = nearest.values, nearest.indices
            bar.update(len(part))
    return Neighbours(own, other, other_class)


def nearest_classes(space: SynonymousSpace, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes whose centres are nearest to those of some classes, the nearest first.

    Args:
        space: on the CPU.
        classes: (c,) int64.

    Returns:
        (c, k) int64 positions and (c, k) cosines, k at most `NEAREST_CLASSES`.
    """
    centres = normalize(_sums(space), dim=-1)
    k = min(NEAREST_CLASSES, len(centres) - 1)
    found = [
        (centres[part] @ centres.T).scatter_(1, part[:, None], -torch.inf).topk(k, dim=1)
        for part in classes.split(_step(space))
    ]
    return torch.cat([each.indices for each in found]), torch.cat([each.values for each in found])


def _sums(space: SynonymousSpace) -> Tensor:
    """(classes, dim) the sum of the kept texts of each class, in float64."""
    sums = torch.zeros(len(space.scales), space.raw.shape[1], dtype=torch.float64)
    for part in space.kept.split(_step(space)):
        sums.index_add_(0, space.owners[part], space.points_of(part).double())
    return sums


def _step(space: SynonymousSpace) -> int:
    return max(LEAST_COMPARED, CHUNK_NUMBERS // max(len(space.scales), space.raw.shape[1]))
