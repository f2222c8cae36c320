"""The synonymous semantic space of every class: which texts make it, and in which coordinates.

A space is a function of the raw text embeddings and the settings, nothing else: it is built again after
every change, in float64 inside.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.rips import SCALE_RULES, chordal_distances, chosen_component, components, minimum_spanning_tree

SAME_TEXT = math.sqrt(2e-6)
"""Chordal distance up to which two texts are one point: cos >= 1 - 1e-6."""

SHORTEST_CENTERED = 1e-4
"""A centered text shorter than this has no direction left."""

CHUNK_NUMBERS = 2**23
"""About how many float64 numbers (64 MiB) of points or distances are held at once while building."""


@dataclass(frozen=True)
class SynonymousSpace:
    """The spaces of all classes. `texts` counts raw rows, `points` those that are kept.

    Attributes:
        raw: (texts, dim) raw text embeddings, row 0 of each class its own name.
        owners: (texts,) int64 ascending, the class of each row.
        kept: (points,) int64 ascending, the rows that make the spaces.
        duplicate_of: (texts,) int64, the row that stands for this one: itself, or the one it repeats.
        scales: (classes,) the ε of each class; inf where everything is kept.
        deaths: (distinct texts - classes,) the finite H0 death times, class by class, ascending.
        death_owners: the class of each.
        mean: (dim,) μ, the mean of the class centres; zeros without centering.
        spread: () m, the mean distance of the class centres from μ; 1 without centering.
        centered: whether μ was subtracted (never where there is only one class).
    """

    raw: Tensor
    owners: Tensor
    kept: Tensor
    duplicate_of: Tensor
    scales: Tensor
    deaths: Tensor
    death_owners: Tensor
    mean: Tensor
    spread: Tensor
    centered: bool

    @property
    def points(self) -> Tensor:
        """(points, dim) unit vectors, class by class, centered where `centered`; computed when asked for."""
        points = normalize(self.raw[self.kept], dim=-1)
        return normalize(points - self.mean, dim=-1) if self.centered else points

    @property
    def point_owners(self) -> Tensor:
        """(points,) int64 ascending, the class of each point."""
        return self.owners[self.kept]

    @property
    def sizes(self) -> Tensor:
        """(classes,) int64, the number of points of each class."""
        return torch.bincount(self.point_owners, minlength=len(self.scales))

    def death_times(self, class_index: int) -> Tensor:
        """Return the death times of one class, ascending: one fewer than its distinct texts."""
        return self.deaths[self.death_owners == class_index]

    def __repr__(self) -> str:
        return (
            f"SynonymousSpace(classes={len(self.scales)}, texts={len(self.raw)}, points={len(self.kept)}, "
            f"dim={self.raw.shape[1]}, centered={self.centered})"
        )


def build_space(
    raw: Tensor,
    owners: Tensor,
    class_names: Sequence[str],
    *,
    scale_rule: str | None = None,
    scale_options: dict[str, object] | None = None,
    keep_name: str = "tie",
    centering: str | None = None,
) -> SynonymousSpace:
    """Build the synonymous space of every class from raw text embeddings.

    In this order: equal texts of a class become one point; the mean of the class centres is subtracted
    (`centering="class_mean"`); the Rips complex of each class is built on what that leaves; the scale rule
    gives ε; the largest component at ε is kept.

    Args:
        raw: (texts, dim) any floating dtype, any length but zero; row 0 of each class its own name.
        owners: (texts,) int64, ascending from 0 to classes - 1 without a gap.
        class_names: one per class, for error messages.
        scale_rule: a key of `s3clip.rips.SCALE_RULES`, or None to keep every distinct text.
        scale_options: the options of the rule.
        keep_name: "tie" (the component of the own name wins among the largest) or "always".
        centering: None or "class_mean".

    Raises:
        ValueError: embeddings that are not finite or of length zero, an unknown rule or option, or classes
            that centering cannot tell apart; the classes are named.
    """
    if not bool(torch.isfinite(raw).all()):
        bad = int(owners[~torch.isfinite(raw).all(1)][0])
        raise ValueError(f"class {class_names[bad]!r}: a text embedding holds NaN or Inf")
    unit = raw.to(torch.float32 if raw.dtype != torch.float64 else raw.dtype)
    lengths = unit.norm(dim=1)
    if bool((lengths == 0).any()):
        bad = int(owners[lengths == 0][0])
        raise ValueError(f"class {class_names[bad]!r}: a text embedding has length zero")
    unit = unit / lengths[:, None]
    duplicate_of = _merge_duplicates(unit, owners)
    distinct = torch.nonzero(duplicate_of == torch.arange(len(owners), device=owners.device))[:, 0]

    classes = len(class_names)
    mean, spread = unit.new_zeros(unit.shape[1]), unit.new_ones(())
    centered = centering == "class_mean" and classes > 1
    if centered:
        sums = unit.new_zeros(classes, unit.shape[1]).double()
        sums.index_add_(0, owners[distinct], unit[distinct].double())
        centres = normalize(sums, dim=-1)
        centre_mean = centres.mean(0)
        spread = (centres - centre_mean).norm(dim=-1).mean().to(unit.dtype)
        mean = centre_mean.to(unit.dtype)
        points = unit - mean
        lengths = points.norm(dim=1)
        vanished = owners[distinct][lengths[distinct] < SHORTEST_CENTERED].unique().tolist()
        if vanished:
            names = ", ".join(repr(class_names[i]) for i in vanished)
            raise ValueError(
                f"classes {names}: a text equals the mean of all classes, so that centering leaves nothing "
                f"of it (two classes with the same single text?); rename one, or set centering=None"
            )
        points = points / lengths[:, None]
    else:
        points = unit

    keep = torch.zeros(len(owners), dtype=torch.bool, device=owners.device)
    scales = torch.full((classes,), torch.inf, dtype=torch.float64, device=owners.device)
    deaths, death_owners = [], []
    for group, rows in _equal_sizes(owners[distinct], unit.shape[1]):
        distances = chordal_distances(points[distinct[rows]].double())
        tree = minimum_spanning_tree(distances)
        deaths.append(tree.lengths.sort(-1).values.reshape(-1))
        death_owners.append(group[:, None].expand_as(tree.lengths).reshape(-1))
        if scale_rule is None:
            keep[distinct[rows]] = True
            continue
        scale = SCALE_RULES[scale_rule](tree.lengths, **(scale_options or {}))
        scales[group] = scale
        keep[distinct[rows]] = chosen_component(distances, tree, scale, keep_name=keep_name)
    death_owner = torch.cat(death_owners)
    by_class = death_owner.argsort(stable=True)
    return SynonymousSpace(
        raw=raw,
        owners=owners,
        kept=torch.nonzero(keep)[:, 0],
        duplicate_of=duplicate_of,
        scales=scales.to(unit.dtype),
        deaths=torch.cat(deaths)[by_class].to(unit.dtype),
        death_owners=death_owner[by_class],
        mean=mean,
        spread=spread,
        centered=centered,
    )


def _merge_duplicates(unit: Tensor, owners: Tensor) -> Tensor:
    """Return for each row the row that stands for it, whatever the order of the texts.

    The own name stands for what equals it; among others, the one nearest to the own name.
    """
    stands_for = torch.arange(len(owners), device=owners.device)
    for _, rows in _equal_sizes(owners, unit.shape[1]):
        points = unit[rows]
        # A cheap look in float32 first: most classes have no two texts as close as this.
        close = (points @ points.mT > 1 - 1e-4).flatten(1).sum(1) > rows.shape[1]
        if not bool(close.any()):
            continue
        rows = rows[close]
        distances = chordal_distances(points[close].double())
        tree = minimum_spanning_tree(distances)
        labels = components(tree, distances.new_full((len(rows),), SAME_TEXT))
        to_name = distances[..., 0, :]
        nearest = torch.full_like(to_name, torch.inf).scatter_reduce(-1, labels, to_name, "amin")
        is_first = to_name == nearest.gather(-1, labels)
        position = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
        first = torch.full_like(position, rows.shape[1]).scatter_reduce(
            -1, labels, torch.where(is_first, position, rows.shape[1]), "amin"
        )
        stands_for[rows] = rows.gather(-1, first.gather(-1, labels))
    return stands_for


def _equal_sizes(owners: Tensor, dim: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield classes with equal numbers of rows together: (classes (c,), row positions (c, n)).

    Grouping needs no padding, and there are at most sqrt(2 * rows) different sizes. Groups are cut so that
    neither their points nor their distances pass `CHUNK_NUMBERS`.
    """
    counts = torch.bincount(owners)
    starts = counts.cumsum(0) - counts
    for size in counts.unique().tolist():
        group = torch.nonzero(counts == size)[:, 0]
        for chunk in group.split(max(1, CHUNK_NUMBERS // (size * max(size, dim)))):
            yield chunk, starts[chunk][:, None] + torch.arange(size, device=owners.device)
