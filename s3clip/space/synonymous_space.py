"""The synonymous semantic space of every class: which texts make it, and in which coordinates.

A space is a function of the raw text embeddings and the settings, nothing else: it is built again after
every change, in float64 inside.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.arguments import check_text_count
from s3clip.space.duplicates import SAME_TEXT, merge_duplicates
from s3clip.space.edges import CHUNK_NUMBERS, edge_lengths, equal_sizes, spanning_trees
from s3clip.space.rips import SpanningTree, chosen_component, untold, within
from s3clip.space.scale_rules import SCALE_RULES

SHORTEST_CENTERED = 1e-4
"""A centered text shorter than this has no direction left."""

SMALLEST_MARGIN = SAME_TEXT
"""A text that is the centre of another class would be infinitely far from its own, and rounding would say how
far."""

LEAST_COMPARED = 128
"""Texts that are compared with the centres of all classes at once: products of fewer are slower, by a third
for 49 of them; their cosines with 100,000 classes are 100 MiB in float64."""

MARGINS_CHECKED = 64
"""Of margins that are known, so many are measured again: those of other embeddings differ all over."""

MOST_PAIRED = 2**14
"""Texts of a class where something holds a number for each pair of them: 2 GiB in float64."""


@dataclass(frozen=True)
class SynonymousSpace:
    """The spaces of all classes. `texts` counts raw rows, `points` those that are kept.

    Attributes:
        raw: (texts, dim) raw text embeddings, row 0 of each class its own name.
        owners: (texts,) int64 ascending, the class of each row.
        kept: (points,) int64 ascending, the rows that make the spaces.
        duplicate_of: (texts,) int64, the row that stands for this one: itself, or the one it repeats.
        scales: (classes,) the ε of each class; inf where everything is kept.
        deaths: (distinct texts - classes,) the finite H0 death times, class by class, ascending; in units of
            the margin where the rule is `relative`.
        death_owners: the class of each.
        margins: (texts,) what edges are measured by where the rule is `relative`, else 1.
        mean: (dim,) μ, the mean of the class centres; zeros where there is only one class.
        spread: () m, the mean distance of the class centres from μ; 1 where there is only one class.
        centered: whether points are taken from μ (never where there is only one class).
        relative: whether the complex is that of a relative scale rule.
    """

    raw: Tensor
    owners: Tensor
    kept: Tensor
    duplicate_of: Tensor
    scales: Tensor
    deaths: Tensor
    death_owners: Tensor
    margins: Tensor
    mean: Tensor
    spread: Tensor
    centered: bool
    relative: bool

    @property
    def points(self) -> Tensor:
        """(points, dim) unit vectors, class by class, centered where `centered`; computed when asked for."""
        return self.points_of(self.kept)

    def points_of(self, rows: Tensor) -> Tensor:
        """Return the points of some raw rows. Args: rows: (n,) int64. Returns: (n, dim) unit vectors."""
        dim, dtype = self.raw.shape[1], torch.promote_types(self.raw.dtype, torch.float32)
        points = self.raw.new_empty(len(rows), dim, dtype=dtype)
        for part, own in zip(_parts(points, dim), _parts(rows, dim), strict=True):
            found = unit_vectors(self.raw[own])
            part.copy_(unit_vectors(found - self.mean) if self.centered else found)
        return points

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

    def edges(self, rows: Tensor) -> Tensor:
        """Return which texts share an edge of the complex.

        Args:
            rows: (c, n) int64, n rows of each of c classes.

        Returns:
            (c, n, n) bool.
        """
        return within(self.edge_lengths(rows), self.scales[self.owners[rows[:, 0]]])

    def edge_lengths(self, rows: Tensor) -> Tensor:
        """Return the filtration value of every edge between some texts, in units of the margin if `relative`.

        Args:
            rows: (c, n) int64, n rows of each of c classes.

        Returns:
            (c, n, n) float64.
        """
        return edge_lengths(self._measured(rows), self.margins[rows])

    def trees(self, rows: Tensor) -> SpanningTree:
        """Return the minimum spanning trees of some texts: of edges as `edge_lengths` says, in linear memory.

        Args:
            rows: (c, n) int64, n rows of each of c classes.
        """
        at = torch.arange(rows.numel(), device=rows.device).view_as(rows)
        return spanning_trees(self._measured(rows).flatten(0, 1), self.margins[rows].flatten(), at)[0]

    def _measured(self, rows: Tensor) -> Tensor:
        """(c, n, dim) unit vectors, the texts as they are seen where edges are measured."""
        points = unit_vectors(self.raw[rows])
        if self.centered or self.relative:
            points = _seen_from(self.mean, points.flatten(0, 1)).view_as(points)
        return points

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
    scale_options: Mapping[str, Any] | None = None,
    keep_name: str = "tie",
    centering: str | None = None,
    margins: Tensor | None = None,
    progress: Callable[[int], object] = untold,
) -> SynonymousSpace:
    """Build the synonymous space of every class from raw text embeddings.

    In this order: equal texts of a class become one point; the mean μ of the class centres is subtracted
    (`centering="class_mean"`); the Rips complex of each class is built on what that leaves; the scale rule
    gives ε; the largest component at ε is kept.

    A `relative` rule looks at the other classes: its complex is built on the texts seen from μ whatever the
    centering, and an edge is measured by the margins of its two ends, |a - b| / sqrt(σ_a σ_b), where σ of a
    text is its distance to the centre of the nearest other class. (Local scaling as in Zelnik-Manor and
    Perona 2004, with the other classes in the place of the k-th neighbour.)

    Args:
        raw: (texts, dim) any floating dtype, any length but zero; row 0 of each class its own name.
        owners: (texts,) int64, ascending from 0 to classes - 1 without a gap.
        class_names: one per class, for error messages.
        scale_rule: a key of `s3clip.space.scale_rules.SCALE_RULES`, or None to keep every distinct text.
        scale_options: the options of the rule.
        keep_name: "tie" (the component of the own name wins among the largest) or "always".
        centering: None or "class_mean".
        margins: (texts,) those of the space that was built of these embeddings by a relative rule, of which
            some are measured again; None: not known. To find them each text is compared with each class,
            which nothing else here is.
        progress: called with how many texts more are done; each is done three times.

    Raises:
        ValueError: embeddings that are not finite or of length zero, an unknown setting, classes that
            centering cannot tell apart, or one of too many texts; the classes are named. Margins of other
            embeddings.
    """
    for argument, value, known in (
        ("scale_rule", scale_rule, (*SCALE_RULES, None)),
        ("keep_name", keep_name, ("tie", "always")),
        ("centering", centering, ("class_mean", None)),
    ):
        if value not in known:
            raise ValueError(f"unknown {argument} {value!r}; known: {', '.join(map(str, known))}")
    sizes = torch.bincount(owners)
    largest = int(sizes.argmax())
    check_text_count(class_names[largest], int(sizes[largest]))
    unit = _checked_unit(raw, owners, class_names)
    stands_for = merge_duplicates(unit, owners, progress)
    distinct = torch.nonzero(stands_for == torch.arange(len(owners), device=owners.device))[:, 0]
    own = owners[distinct]
    classes = len(class_names)
    rule = None if scale_rule is None else SCALE_RULES[scale_rule]
    centered = centering == "class_mean" and classes > 1
    relative = rule is not None and rule.relative and classes > 1
    centres = _class_centres(unit, distinct, owners, classes)
    mean, spread = torch.zeros_like(centres[0]), torch.ones_like(centres[0, 0])
    if classes > 1:
        mean = centres.mean(0)
        spread = (centres - mean).norm(dim=-1).mean()
    del centres  # of classes of few texts a table that counts
    if centered:
        _check_centered(unit[distinct] - mean, own, class_names)
    # In place: of very many texts, two tables at once are felt.
    points = _seen_from(mean, unit) if centered or relative else unit
    if relative:
        margins = _checked_margins(margins, points, distinct, owners, classes, progress)
    else:
        margins = torch.ones_like(unit[:, 0])
        progress(len(distinct))

    keep = torch.zeros(len(owners), dtype=torch.bool, device=owners.device)
    scales = unit.new_full((classes,), torch.inf, dtype=torch.float64)
    sizes = torch.bincount(own)
    # Tensors that are made whole, here and below: small ones kept among large ones that go leave holes.
    deaths = unit.new_empty(len(own) - classes, dtype=torch.float64)
    for group, rows in equal_sizes(own, 1):
        members = distinct[rows]
        tree, to_name = spanning_trees(points, margins, members, progress)
        deaths[rows[:, 1:] - 1 - group[:, None]] = tree.lengths.sort(-1).values
        # One class has no other to measure margins by: a relative rule keeps it whole.
        if rule is None or (rule.relative and not relative):
            keep[members] = True
            continue
        scale = rule(tree.lengths, **(scale_options or {}))
        scales[group] = scale
        keep[members] = chosen_component(to_name, tree, scale, keep_name=keep_name)
    return SynonymousSpace(
        raw=raw,
        owners=owners,
        kept=torch.nonzero(keep)[:, 0],
        duplicate_of=stands_for,
        scales=scales,
        deaths=deaths,
        death_owners=torch.arange(classes, device=own.device).repeat_interleave(sizes - 1),
        margins=margins,
        mean=mean,
        spread=spread,
        centered=centered,
        relative=relative,
    )


def check_paired(sizes: Tensor, what: str) -> None:
    """Raise ValueError where a class has too many texts for a number for each pair of them.

    Args:
        sizes: (classes,).
        what: would hold these numbers.
    """
    largest = int(sizes.argmax())
    if sizes[largest] > MOST_PAIRED:
        raise ValueError(
            f"class {largest}: {int(sizes[largest]):,} texts, and {what} holds a number for each pair of "
            f"them; give it {MOST_PAIRED:,} at most, or use the metric nearest, center or local_center"
        )


def as_tensor(given: Any) -> Tensor:
    """Return what was given as a tensor, which stays where it is; other numbers come to the CPU.

    By itself torch takes both to where the process makes tensors (`torch.set_default_device`).
    """
    return given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return vectors of length one in the same directions, in float32 at least, whatever length they had.

    Args:
        vectors: (..., dim).

    Returns:
        (..., dim); zero where a vector is.
    """
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    tiny = torch.finfo(wide.dtype).tiny
    # Squares leave the range of float32 long before the numbers do.
    return normalize(wide / wide.abs().amax(-1, keepdim=True).clamp_min(tiny), dim=-1, eps=tiny)


def _checked_unit(raw: Tensor, owners: Tensor, class_names: Sequence[str]) -> Tensor:
    """(texts, dim) unit rows, in float32 at least."""
    unit = torch.empty_like(raw, dtype=torch.promote_types(raw.dtype, torch.float32))
    has_direction = torch.empty_like(owners, dtype=torch.bool)
    step = max(1, CHUNK_NUMBERS // raw.shape[1])
    for part, own, good in zip(unit.split(step), raw.split(step), has_direction.split(step), strict=True):
        part[:] = unit_vectors(own)
        good[:] = part.norm(dim=1) > 0.5  # zero stays zero, and NaN and Inf end as NaN
    if not bool(has_direction.all()):
        row = int(torch.nonzero(~has_direction)[0])
        what = "has length zero" if bool(torch.isfinite(raw[row]).all()) else "holds NaN or Inf"
        raise ValueError(f"class {class_names[int(owners[row])]!r}: a text embedding {what}")
    return unit


def _check_centered(centered: Tensor, owners: Tensor, class_names: Sequence[str]) -> None:
    """Raise ValueError where centering leaves nothing of a text."""
    if vanished := owners[centered.norm(dim=1) < SHORTEST_CENTERED].unique().tolist():
        names = ", ".join(repr(class_names[i]) for i in vanished)
        raise ValueError(
            f"classes {names}: a text equals the mean of all classes, so that centering leaves nothing "
            f"of it (two classes with the same single text?); rename one, or set centering=None"
        )


def _class_centres(points: Tensor, rows: Tensor, owners: Tensor, classes: int) -> Tensor:
    """(classes, dim) normalised mean of each class's points among some rows, summed in float64."""
    sums = torch.zeros(classes, points.shape[1], dtype=torch.float64, device=points.device)
    for part in _parts(rows, points.shape[1]):
        sums.index_add_(0, owners[part], points[part].double())
    return normalize(sums, dim=-1, out=sums).to(points.dtype)


def _parts(rows: Tensor, width: int) -> tuple[Tensor, ...]:
    """Cut rows so that a part of a table of this width holds no more than `CHUNK_NUMBERS`."""
    parts: tuple[Tensor, ...] = rows.split(max(1, CHUNK_NUMBERS // width))
    return parts


def _seen_from(mean: Tensor, unit: Tensor) -> Tensor:
    """Turn unit vectors, in place, into directions as seen from the mean; one that lies on it stays."""
    for part in unit.split(max(1, CHUNK_NUMBERS // unit.shape[1])):
        moved = part - mean
        lengths = moved.norm(dim=1, keepdim=True)
        moved /= lengths.clamp_min(SHORTEST_CENTERED)
        part.copy_(torch.where(lengths < SHORTEST_CENTERED, part, moved))
    return unit


def _checked_margins(
    known: Tensor | None,
    points: Tensor,
    distinct: Tensor,
    owners: Tensor,
    classes: int,
    progress: Callable[[int], object],
) -> Tensor:
    """(texts,) margins, 1 of a text that is repeated; of those that are known, some are measured again."""
    centres = _class_centres(points, distinct, owners, classes).double()
    if known is None:
        margins = torch.ones_like(points[:, 0])
        margins[distinct] = _margins(points, distinct, owners, centres, progress)
        return margins
    some = distinct[:: math.ceil(len(distinct) / MARGINS_CHECKED)]
    if not torch.allclose(_margins(points, some, owners, centres), known[some], atol=1e-3):
        raise ValueError(
            "margins: they are not those of these embeddings and classes; fit these anew, or leave them out"
        )
    progress(len(distinct))
    return known


def _margins(
    points: Tensor,
    rows: Tensor,
    owners: Tensor,
    centres: Tensor,
    progress: Callable[[int], object] = untold,
) -> Tensor:
    """(rows,) distance of some points to the centre of the nearest class but their own."""
    margins = points.new_empty(len(rows))
    # Products of few rows read all centres for little; see `LEAST_COMPARED`.
    step = max(LEAST_COMPARED, CHUNK_NUMBERS // max(centres.shape))
    for part, own in zip(rows.split(step), margins.split(step), strict=True):
        cosines = points[part].double() @ centres.T
        nearest = cosines.scatter_(1, owners[part, None], -torch.inf).argmax(1)
        own.copy_((points[part] - centres[nearest].to(points.dtype)).norm(dim=1))
        progress(len(part))
    return margins.clamp_min_(SMALLEST_MARGIN)
