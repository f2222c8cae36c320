"""A space and a metric, folded into what `forward` needs: rows to multiply with, and small tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s3clip.arguments import resolve_options
from s3clip.space.absence import Absence, present
from s3clip.space.metrics import METRICS, PointGroup, is_traced
from s3clip.space.synonymous_space import SynonymousSpace, check_paired, unit_vectors

BLOCK_ROWS = 32_768
"""Rows multiplied with the images at once. `forward` holds a few (batch, BLOCK_ROWS) matrices, whatever the
number of classes: about 8 MB each in float32 for 64 images. A constant, not a function of the batch, so that
`torch.export` can leave the batch size open."""


class Piece(NamedTuple):
    """`classes` classes of equal size from `first` of group `group` on, in the rows `start` to `stop`."""

    group: int
    first: int
    classes: int
    start: int
    stop: int


def point_groups(space: SynonymousSpace, *, with_edges: bool) -> Iterator[tuple[Tensor, PointGroup]]:
    """Yield the classes (c,) that have equally many points, and their points: small classes first."""
    sizes = space.sizes
    starts = sizes.cumsum(0) - sizes
    first_rows = torch.searchsorted(space.owners, torch.arange(len(sizes), device=sizes.device))
    for size in sizes.unique().tolist():
        members = torch.nonzero(sizes == size)[:, 0]
        rows = space.kept[starts[members][:, None] + torch.arange(size, device=sizes.device)]
        yield (
            members,
            PointGroup(
                points=space.points_of(rows.flatten()).unflatten(0, rows.shape),
                named=rows[:, 0] == first_rows[members],
                edges=space.edges(rows) if with_edges else None,
            ),
        )


def _joined(parts: list[Tensor]) -> Tensor:
    """Return (n, dim) parts as one, and empty their list: each goes when it is copied.

    Memory that nothing was written to yet is not taken, so that at most one part is there twice.
    """
    if len(parts) == 1:
        return parts.pop()
    joined = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    start = 0
    while parts:
        part = parts.pop(0)
        joined[start : start + len(part)] = part
        start += len(part)
    return joined


class FoldedSpace(nn.Module):
    """Scores of images against every class, by one matrix product and little else.

    Classes are grouped by their number of points, so that no padding is needed, and taken in blocks of
    `BLOCK_ROWS` rows. The buffers are derived, hence not part of a state dict.

    Args:
        space: the space of every class.
        metric: a key of `s3clip.space.metrics.METRICS`.
        metric_options: the options of the metric.
        fused: whether to use the kernel of `s3clip.space.kernels`, where it can be used.
        absence: the negatives of the classes; None: no class has one.
    """

    rows: Tensor
    class_order: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        space: SynonymousSpace,
        metric: str,
        metric_options: Mapping[str, Any],
        *,
        fused: bool = False,
        absence: Absence | None = None,
    ) -> None:
        super().__init__()
        self.metric = metric
        self.absence = absence
        self.fused = fused
        self._options = resolve_options(metric, METRICS[metric].options, metric_options)
        if METRICS[metric].pairs(**self._options):
            check_paired(space.sizes, f"metric {metric!r} with its options")
        self.table_names: list[list[str]] = []
        self.blocks: list[list[Piece]] = []
        self.centered = space.centered
        self.relative = space.relative
        multiplied, order, block_start, position = [], [], 0, 0
        for group, (members, point_group) in enumerate(
            point_groups(space, with_edges=METRICS[metric].reads_edges)
        ):
            folded = METRICS[metric].fold(point_group, **self._options)
            self.table_names.append(sorted(folded.tables))
            for name, table in folded.tables.items():
                self.register_buffer(f"{name}_{group}", table, persistent=False)
            multiplied.append(folded.rows.flatten(0, 1))
            order.append(members)
            height = folded.rows.shape[1]
            first = 0
            while first < len(members):
                room = (BLOCK_ROWS - (position - block_start)) // height
                if not self.blocks or (room < 1 and position > block_start):
                    self.blocks.append([])
                    block_start, room = position, max(1, BLOCK_ROWS // height)
                count = min(room, len(members) - first)
                stop = position + count * height
                self.blocks[-1].append(Piece(group, first, count, position, stop))
                first, position = first + count, stop
        self.register_buffer("rows", _joined(multiplied), persistent=False)
        class_order = torch.cat(order).argsort()
        self.reordered = bool((class_order.diff() < 0).any())
        self.register_buffer("class_order", class_order, persistent=False)
        self.register_buffer("mean", space.mean, persistent=False)
        self.register_buffer("spread", space.spread, persistent=False)

    def unit_embeds(self, image_embeds: Any) -> Tensor:
        """Return image embeddings with length 1, in the dtype of the space.

        Args:
            image_embeds: (batch, dim), normalised or not.

        Raises:
            TypeError: no tensor.
            ValueError: another shape.
        """
        if not isinstance(image_embeds, Tensor):
            raise TypeError(f"image_embeds: expected a torch.Tensor, got {type(image_embeds).__name__}")
        if image_embeds.ndim != 2 or image_embeds.shape[1] != self.rows.shape[1]:
            raise ValueError(
                f"image_embeds: expected shape (batch, {self.rows.shape[1]}), got {tuple(image_embeds.shape)}"
            )
        return unit_vectors(image_embeds).to(self.rows.dtype)

    def linear(self) -> Tensor | None:
        """Return (dim, classes) weights whose product with images is `logits` at scale 1, or None."""
        if self.absence is not None or len(self.rows) != len(self.class_order) or any(self.table_names):
            return None
        weights = self.rows[self.class_order].T
        return self.mean[:, None] + self.spread * weights if self.centered else weights.clone()

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of unit image embeddings. Args: images: (batch, dim). Returns: (batch, classes).

        In a centered space the score is v·μ + m·s, s the metric on the centered texts: the same two numbers
        for every class, so the ranking is that of s, and the scale that of CLIP's cosines.
        """
        to_mean = self._to_mean(images)
        scores = [self._block_scores(images, block) for block in self.blocks]
        score = torch.cat(scores, dim=1) if len(scores) > 1 else scores[0]
        if self.reordered:
            score = score[:, self.class_order]
        return score if to_mean is None else to_mean + self.spread * score

    def logits(self, images: Tensor, scale: Tensor | float) -> Tensor:
        """Return (batch, classes) the scores times the scale, measured against the negatives of each class.

        Args:
            images: (batch, dim) unit embeddings.
            scale: > 0.
        """
        logits = self(images) * scale
        return logits if self.absence is None else present(logits, self.absence(images, scale))

    def logits_by_block(self, images: Tensor, scale: Tensor | float) -> Iterator[tuple[Tensor, Tensor]]:
        """Give what `logits` returns some classes at a time, so that the scores are never held as a whole.

        Args:
            images: (batch, dim) unit embeddings.
            scale: > 0.

        Yields:
            (c,) the positions of c classes, of `BLOCK_ROWS` rows or fewer, and (batch, c) their logits.
        """
        positions = self.class_order.argsort()
        to_mean, first = self._to_mean(images), 0
        against = None if self.absence is None else self.absence(images, scale)
        for block in self.blocks:
            score = self._block_scores(images, block)
            classes = positions[first : first + score.shape[1]]
            first += score.shape[1]
            logits = (score if to_mean is None else to_mean + self.spread * score) * scale
            yield classes, logits if against is None else present(logits, against[:, classes])

    def _to_mean(self, images: Tensor) -> Tensor | None:
        """Return (batch, 1) what every score of a centered space begins with, None in another one."""
        return images @ self.mean[:, None] if self.centered else None

    def _block_scores(self, images: Tensor, block: Sequence[Piece]) -> Tensor:
        """Return (batch, c) scores of a block's classes in the order of its rows, not yet from the mean."""
        score_part, kernel = METRICS[self.metric].score, self._kernel()
        rows = self.rows[block[0].start : block[-1].stop]
        products = images @ rows.T if kernel is None else None
        scores, origin = [], block[0].start
        for piece in block:
            tables = {
                # Not by `get_buffer`, which torch.compile does not know in torch 2.4.
                name: getattr(self, f"{name}_{piece.group}")[piece.first : piece.first + piece.classes]
                for name in self.table_names[piece.group]
            }
            own = slice(piece.start - origin, piece.stop - origin)
            if products is not None:
                part = products[:, own].unflatten(1, (piece.classes, -1))
                scores.append(score_part(part, tables, **self._options))
            elif kernel is not None:
                part = rows[own].unflatten(0, (piece.classes, -1))
                scores.append(kernel(images, part, tables, **self._options))
        return torch.cat(scores, dim=1) if len(scores) > 1 else scores[0]

    def _kernel(self) -> Callable[..., Tensor] | None:
        """Return what multiplies and scores in one pass; None where there is nothing, or it is not wanted."""
        if not self.fused or self.metric != "local_center" or is_traced():
            return None
        from s3clip.space import kernels  # needs Triton

        return kernels.local_center
