"""All that is built of a class space, on one device: the spaces, and what `forward` multiplies."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from s3clip.space.absence import Absence
from s3clip.space.folding import FoldedSpace
from s3clip.space.synonymous_space import SynonymousSpace

_DERIVED = ("kept", "duplicate_of", "scales", "deaths", "death_owners", "margins", "mean", "spread")


class BuiltSpace(nn.Module):
    """The spaces of all classes and their scores, as buffers that no state dict holds.

    Args:
        space: as built, on the device where it was built.
        metric: a key of `s3clip.space.METRICS`.
        metric_options: the options of the metric.
        raw: (texts, dim) the raw embeddings; their device and dtype are those of the buffers.
        fused: whether to use the kernel of `s3clip.space.kernels`, where it can be used.
        negatives: (n, dim) raw embeddings of the negatives, and (n,) int64 the class of each; None: no class
            has one.
    """

    raw: Tensor
    owners: Tensor

    def __init__(
        self,
        space: SynonymousSpace,
        metric: str,
        metric_options: Mapping[str, Any],
        *,
        raw: Tensor,
        fused: bool = False,
        negatives: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("raw", raw, persistent=False)
        self.register_buffer("owners", space.owners.to(raw.device), persistent=False)
        for name in _DERIVED:
            value = getattr(space, name)
            dtype = raw.dtype if value.is_floating_point() else value.dtype
            self.register_buffer(name, value.to(device=raw.device, dtype=dtype), persistent=False)
        # Under autocast its tables would be made in half precision.
        with torch.autocast(space.raw.device.type, enabled=False):
            absence = None
            if negatives is not None:
                absence = Absence(space, *(part.to(space.raw.device) for part in negatives))
            folded = FoldedSpace(space, metric, metric_options, fused=fused, absence=absence)
        self.folded: FoldedSpace = folded.to(device=raw.device, dtype=raw.dtype)

    @property
    def space(self) -> SynonymousSpace:
        """The spaces of all classes; a view of the buffers."""
        derived = {name: self.get_buffer(name) for name in _DERIVED}
        return SynonymousSpace(
            raw=self.raw,
            owners=self.owners,
            centered=self.folded.centered,
            relative=self.folded.relative,
            **derived,
        )
