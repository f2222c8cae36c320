"""How the scale ε of a class is read off its spanning tree: the rules by name, and their options."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import Option, is_number, resolve_options


def fixed(lengths: Tensor, *, epsilon: float) -> Tensor:
    """Return the same ε for every class. Args: lengths: (..., n - 1) in walk order. Returns: (...)."""
    return lengths.new_full(lengths.shape[:-1], epsilon)


def quantile(lengths: Tensor, *, q: float) -> Tensor:
    """Return the q-quantile of each class's death times, linearly interpolated as in numpy.quantile."""
    return torch.quantile(lengths, q, dim=-1) if lengths.shape[-1] > 1 else _everything(lengths)


def largest_gap(lengths: Tensor) -> Tensor:
    """Return the death time below the widest gap between two consecutive ones (of equal gaps the last)."""
    if lengths.shape[-1] < 2:
        return _everything(lengths)
    deaths = lengths.sort(dim=-1).values
    gaps = deaths.diff(dim=-1)
    last_widest = gaps.shape[-1] - 1 - gaps.flip(-1).argmax(-1, keepdim=True)
    return deaths.gather(-1, last_widest)[..., 0]


def kept_share(lengths: Tensor, *, share: float) -> Tensor:
    """Return the smallest ε at which the largest component holds at least `share` of the points."""
    if lengths.shape[-1] < 2:
        return _everything(lengths)
    deaths = lengths.sort(dim=-1).values
    needed = _share_of(lengths.shape[-1] + 1, share)
    # The size of the largest component grows with ε, so bisect among the death times.
    low = torch.zeros(lengths.shape[:-1], dtype=torch.int64, device=lengths.device)
    high = torch.full_like(low, lengths.shape[-1] - 1)
    while bool((low < high).any()):
        middle = (low + high) // 2
        scale = deaths.gather(-1, middle[..., None])[..., 0]
        enough = _largest_size(lengths, scale) >= needed
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return deaths.gather(-1, low[..., None])[..., 0]


def margin(lengths: Tensor, *, epsilon: float, share: float) -> Tensor:
    """Return the smallest ε >= `epsilon` at which the component of point 0 holds `share` of the points.

    Made for edges that are measured relative to the margins of their ends (`build_space`), where
    1 is the distance at which another class is as near as the other end of the edge.
    """
    if lengths.shape[-1] < 2:
        return _everything(lengths)
    # The walk from point 0 finds its component first: it has m points when the first m - 1 edges fit.
    needed = _share_of(lengths.shape[-1] + 1, share)
    return torch.nn.functional.pad(lengths[..., : needed - 1], (1, 0), value=epsilon).amax(-1)


def _share_of(points: int, share: float) -> int:
    # A share such as 0.7 of 10 is 7, though the product is a little more in floating point.
    return math.ceil(share * points - 1e-9)


def _everything(lengths: Tensor) -> Tensor:
    # Fewer than two death times have no statistic worth the name: both points stay.
    return lengths.new_full(lengths.shape[:-1], torch.inf)


def _largest_size(lengths: Tensor, scale: Tensor) -> Tensor:
    runs = torch.nn.functional.pad((lengths > scale[..., None]).to(torch.int64), (1, 0)).cumsum(-1)
    sizes = torch.zeros_like(runs).scatter_add_(-1, runs, torch.ones_like(runs))
    return sizes.amax(-1)


@dataclass(frozen=True)
class ScaleRule:
    """How the scale ε of a class is read off its spanning tree.

    Attributes:
        function: (edge lengths (..., n - 1) in walk order, **options) -> (...) scales.
        options: its options.
        relative: whether it reads edge lengths relative to the margins of their ends.
    """

    function: Callable[..., Tensor]
    options: Mapping[str, Option]
    relative: bool = False

    def __call__(self, lengths: Tensor, **options: Any) -> Tensor:
        """Return (...) scales for (..., n - 1) edge lengths in walk order.

        Raises:
            ValueError: an unknown option or a value out of range.
        """
        return self.function(lengths, **resolve_options(self.function.__name__, self.options, options))


_SHARE = Option(0.75, "a number in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)

SCALE_RULES: dict[str, ScaleRule] = {
    "fixed": ScaleRule(
        fixed, {"epsilon": Option(0.8, "a finite number >= 0", lambda v: is_number(v) and 0 <= v < math.inf)}
    ),
    "quantile": ScaleRule(
        quantile, {"q": Option(0.9, "a number in [0, 1]", lambda v: is_number(v) and 0 <= v <= 1)}
    ),
    "largest_gap": ScaleRule(largest_gap, {}),
    "kept_share": ScaleRule(kept_share, {"share": _SHARE}),
    "margin": ScaleRule(
        margin,
        {
            "epsilon": Option(1.1, "a finite number >= 0", lambda v: is_number(v) and 0 <= v < math.inf),
            "share": replace(_SHARE, default=0.6),
        },
        relative=True,
    ),
}
"""Scale rules by name, with the options of each."""
