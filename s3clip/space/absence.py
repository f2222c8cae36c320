"""Negatives, texts of what is seen where a class is not there, and what they leave of its logit.

With z the logit of a class, and n_1 ... n_J those of its negatives, each scored as a class of one text,

    p(present) = exp(z) / (exp(z) + Σ exp(n_j))

is what CLIP says of the choice between the class and its negatives. The logit becomes z + log p(present). It
is never more than z; it is z where all negatives are far below, and 2 z - n where one is far above. In a
softmax the weight of the class, exp(z), is multiplied by p(present): what is left of it goes to a background
of its own. In sigmoids the odds are. The difference z - n alone, the usual pair of prompts, is the choice
without the class: where an image shows neither, it says nothing. docs/absence.md has both measured.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from s3clip.space.synonymous_space import SynonymousSpace, unit_vectors


class Absence(nn.Module):
    """The negatives of all classes as rows that images are multiplied with, in buffers that are derived.

    Args:
        space: of the classes, in whose coordinates negatives are seen.
        negatives: (texts, dim) raw embeddings, one or more, on the device of the space.
        owners: (texts,) int64 ascending, the class of each.
    """

    rows: Tensor
    column: Tensor

    def __init__(self, space: SynonymousSpace, negatives: Tensor, owners: Tensor) -> None:
        super().__init__()
        unit = unit_vectors(negatives)
        if space.centered:
            unit = space.mean + space.spread * unit_vectors(unit - space.mean)
        counts = torch.bincount(owners, minlength=len(space.scales))
        # Classes of as many negatives lie together, so that no padding is needed.
        order = counts[owners].argsort(stable=True)
        self.register_buffer("rows", unit[order], persistent=False)
        self.sizes: list[tuple[int, int]] = []
        column = torch.zeros_like(counts)
        first = 0
        for size in counts.unique().tolist():
            members = torch.nonzero(counts == size)[:, 0]
            if size:
                self.sizes.append((len(members), size))
                column[members] = first + torch.arange(len(members), device=column.device)
                first += len(members)
        column[counts == 0] = first
        self.register_buffer("column", column, persistent=False)

    def forward(self, images: Tensor, scale: Tensor | float) -> Tensor:
        """Return (batch, classes) log Σ exp(n_j) of (batch, dim) unit embeddings; -inf without negatives."""
        logits = images @ self.rows.T * scale
        parts = logits.split([classes * size for classes, size in self.sizes], dim=1)
        sums = [part.unflatten(1, shape).logsumexp(2) for part, shape in zip(parts, self.sizes, strict=True)]
        nothing = torch.full_like(logits[:, :1], -torch.inf)
        return torch.cat([*sums, nothing], dim=1)[:, self.column]


def present(logits: Tensor, against: Tensor) -> Tensor:
    """Return z + log p(present): the same bits as z where nothing stands against it.

    Args:
        logits: (batch, classes).
        against: the same shape, what `Absence` returns.
    """
    return logits - softplus(against.to(logits.dtype) - logits)
