"""Batches in, rows out: the one function by which every engine labels, and the schema of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from s3clip.bulk.decoding import DecodedBatch
from s3clip.bulk.output import SCORE_BINS, Counts
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.groups import top_classes_and_group
from s3clip.prediction.matched_texts import nearest_rows
from s3clip.space.synonymous_space import unit_vectors


@dataclass(frozen=True)
class Asked:
    """What the rows are to say.

    Attributes:
        top_k: how many classes the lists name; all where there are fewer.
        keep_embeddings: give each row its unit embedding in float16, and label from that: labels made of kept
            embeddings later are the same.
        level: of groups, to name the most probable one too; None: none.
        among: positions of the classes among which is answered, ascending; None: all.
    """

    top_k: int
    keep_embeddings: bool
    level: str | None = None
    among: tuple[int, ...] | None = None


def schema(head: SynonymousSpaceHead, asked: Asked) -> pa.Schema:
    """Return the columns of the rows that a head gives; docs/scale.md says what they hold."""
    ids = [each.id for each in head.classes]
    id_type = pa.int64() if any(i is not None for i in ids) and _are_numbers(ids) else pa.string()
    names = pa.dictionary(pa.int32(), pa.string())
    fields = [
        pa.field("shard", names, nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", names),
        pa.field("class_index", pa.int32()),
        pa.field("class_id", id_type),
        pa.field("score", pa.float32()),
        pa.field("logit", pa.float32()),
        pa.field("margin", pa.float32()),
        pa.field("text", names),
        pa.field("accepted", pa.bool_()),
        pa.field("top_class_index", pa.list_(pa.int32())),
        pa.field("top_score", pa.list_(pa.float32())),
        pa.field("error", pa.string()),
        pa.field("note", pa.string()),
    ]
    if asked.level is not None:
        fields += [pa.field("group", names), pa.field("group_score", pa.float32())]
    if asked.keep_embeddings:
        dim = head.space.raw.shape[1]
        fields.append(pa.field("embedding", pa.list_(pa.float16(), dim)))
    return pa.schema(fields)


class Labeller:
    """A head with what its rows need, in the process that labels.

    Args:
        head: fitted, with its image tower where there are pictures.
        asked: what the rows are to say.
    """

    def __init__(self, head: SynonymousSpaceHead, asked: Asked) -> None:
        self.head = head.eval()
        self.asked = asked
        self.schema = schema(head, asked)
        self._names = pa.array(head.class_names, pa.string())
        self._ids = pa.array(
            [
                str(each.id)
                if each.id is not None and self.schema.field("class_id").type == pa.string()
                else each.id
                for each in head.classes
            ],
            self.schema.field("class_id").type,
        )
        texts: list[str | None] = []
        offsets = []
        for each in head.classes:
            offsets.append(len(texts))
            texts.extend(each.texts or [None] * each.rows)
        self._texts = pa.array(texts, pa.string())
        self._text_offsets = np.array(offsets)
        self._groups = None if asked.level is None else pa.array(head.group_names(asked.level), pa.string())

    @torch.inference_mode()
    def rows(self, shard: str, batch: DecodedBatch) -> pa.Table:
        """Return one row for each sample of a batch, in order."""
        count = len(batch.keys)
        errors = dict(batch.errors)
        embeds = None if batch.inputs is None else self._embed(batch.inputs)
        if embeds is not None:
            useless = _without_direction(embeds).cpu().numpy()
            if useless.any():
                places = np.delete(np.arange(count), list(errors))
                errors.update(dict.fromkeys(places[useless].tolist(), "its embedding is zero, NaN or Inf"))
                embeds = embeds[torch.from_numpy(~useless).to(embeds.device)]
        good = np.ones(count, dtype=bool)
        good[list(errors)] = False
        columns = self._labels(embeds, good) if good.any() and embeds is not None else {}
        rows = {
            "shard": pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(count, np.int32)), pa.array([shard], pa.string())
            ),
            "position": pa.array(np.arange(batch.first, batch.first + count)),
            "key": batch.keys if isinstance(batch.keys, pa.Array) else pa.array(batch.keys, pa.string()),
            **{name: _said(own, count) for name, own in (("error", errors), ("note", batch.notes)) if own},
            **columns,
        }
        return pa.table(
            [
                rows[field.name] if field.name in rows else pa.nulls(count, field.type)
                for field in self.schema
            ],
            schema=self.schema,
        )

    def _embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return (rows, dim) embeddings in float32; of length one, rounded to float16, if they are kept."""
        if "image_embeds" in inputs:
            embeds = inputs["image_embeds"].to(self.head.space.raw.device)
        else:
            backbone = self.head.backbone
            assert backbone is not None  # the job has one wherever there are pictures
            embeds = backbone.encode_images(**backbone.placed(inputs))
        embeds = embeds.float()
        return unit_vectors(embeds).half().float() if self.asked.keep_embeddings else embeds

    def _labels(self, embeds: Tensor, good: np.ndarray) -> dict[str, pa.Array]:
        top_k, among, level = self.asked.top_k, self.asked.among, self.asked.level
        asked: dict[str, Any] = {"image_embeds": embeds, "k": max(2, top_k), "among": among}  # 2: the margin
        groups = None
        if level is None:
            best = self.head.top_classes(**asked)
        else:
            best, groups = top_classes_and_group(self.head, level, **asked)
        order = best.class_index[:, :top_k]
        scores = best.probabilities[:, :top_k].cpu().numpy()
        nearest = nearest_rows(self.head.space, embeds, order[:, :1])[:, 0].cpu().numpy()
        top, values = order.cpu().numpy().astype(np.int32), best.logits.float().cpu().numpy()
        index = np.full(len(good), -1)
        index[good] = np.arange(int(good.sum()))
        take = pa.array(index, mask=~good)
        margins = values[:, 0] - values[:, 1] if values.shape[1] > 1 else None
        first = pa.array(top[:, 0])
        found = {
            "label": pa.DictionaryArray.from_arrays(first, self._names),
            "class_index": first,
            "class_id": self._ids.take(first),
            "score": pa.array(scores[:, 0]),
            "logit": pa.array(values[:, 0]),
            "margin": pa.nulls(len(top), pa.float32()) if margins is None else pa.array(margins),
            "text": self._text_column(top[:, 0], nearest),
            "accepted": pa.array(best.accepted[:, 0].cpu().numpy()),
            "top_class_index": _lists(top),
            "top_score": _lists(scores),
        }
        if groups is not None:
            indices = pa.array(groups.group[:, 0].cpu().numpy().astype(np.int32))
            found["group"] = pa.DictionaryArray.from_arrays(indices, self._groups)
            found["group_score"] = pa.array(groups.probabilities[:, 0].cpu().numpy())
        if self.asked.keep_embeddings:
            numbers = pa.array(embeds.half().cpu().numpy().reshape(-1))
            found["embedding"] = pa.FixedSizeListArray.from_arrays(numbers, embeds.shape[1])
        return found if good.all() else {name: column.take(take) for name, column in found.items()}

    def _text_column(self, classes: np.ndarray, nearest: np.ndarray) -> pa.Array:
        rows = self._text_offsets[classes] + nearest
        distinct, codes = np.unique(rows, return_inverse=True)
        known = self._texts.take(pa.array(distinct))
        codes = pa.array(codes.astype(np.int32), mask=~np.asarray(known.is_valid())[codes])
        return pa.DictionaryArray.from_arrays(codes, known.fill_null(""))


def part_counts(table: pa.Table, classes: int) -> Counts:
    """Return what a summary needs of the rows of a part."""
    index = table.column("class_index").drop_null().to_numpy()
    scores = table.column("score").drop_null().to_numpy()
    accepted = table.column("accepted").drop_null().to_numpy()
    by_class = np.bincount(index, minlength=classes)
    said = table.column("error").drop_null()
    return Counts(
        rows=len(table),
        errors=len(said),
        rejected=int((~accepted).sum()),
        classes={int(i): int(by_class[i]) for i in np.flatnonzero(by_class)},
        scores=np.histogram(scores, SCORE_BINS, (0.0, 1.0))[0].tolist(),
        examples=[str(text) for text in said[:3].to_pylist()],
    )


def _without_direction(embeds: Tensor) -> Tensor:
    """Return (rows,) bool: which embeddings are zero, NaN or Inf."""
    # A sum, which takes a tenth of the time, is finite and not 0 but for those, and for few others.
    total = embeds.sum(-1)
    useless = ~total.isfinite() | (total == 0)
    if bool(useless.any()):
        largest = embeds[useless].abs().amax(-1)
        useless[useless.clone()] = ~(largest.isfinite() & (largest > 0))
    return useless


def _said(texts: dict[int, str], count: int) -> pa.Array:
    return pa.array([texts.get(i) for i in range(count)], pa.string())


def _lists(rows: np.ndarray) -> pa.Array:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))


def _are_numbers(ids: Sequence[object]) -> bool:
    return all(i is None or isinstance(i, int) for i in ids)
