"""A shard in, batches out: opened and preprocessed, cut where parts begin and end."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from s3clip.backbone.image_transform import ImageTransform
from s3clip.bulk.embedding_shards import EmbeddingFile
from s3clip.files.writing import in_utf8
from s3clip.images.opening import REDUCED
from s3clip.images.sources import BrokenShardError, Sample, Shard, cut, open_samples

EMBEDDING_BATCH = 4096
EMBEDDING_PART = 65_536


@dataclass(frozen=True)
class RowsPer:
    """How many rows go through the model at once, as a batch, and into one output file, a part.

    Both are counted from the beginning of the shard, whatever is broken or done already: rows do not depend
    on who computes them.
    """

    batch: int
    part: int


@dataclass(frozen=True)
class DecodedBatch:
    """Successive rows of a shard.

    Attributes:
        first: the number of the first row in the shard.
        keys: one for each row.
        errors: position in the batch -> why this row has no input.
        inputs: of the rows without an error, in order: "image_embeds", or the arguments of `encode_images`;
            None if there are none.
        ends_part: whether the part ends here.
        ends_shard: whether the shard ends here.
        broken: why the shard breaks off here; the last row, keyed by the shard, says so too.
        notes: position in the batch -> what else its row says: that its picture was not decoded whole.
    """

    first: int
    keys: Sequence[str] | pa.Array
    errors: dict[int, str]
    inputs: dict[str, Tensor] | None
    ends_part: bool = False
    ends_shard: bool = False
    broken: str | None = None
    notes: dict[int, str] = field(default_factory=dict)

    def pin_memory(self) -> "DecodedBatch":
        """Return it with its inputs in pinned memory: a loader asks for that where a GPU labels."""
        pinned = None if self.inputs is None else {key: own.pin_memory() for key, own in self.inputs.items()}
        return replace(self, inputs=pinned)


def decoded_batches(
    shard: Shard | EmbeddingFile,
    rows_per: RowsPer,
    preprocess: ImageTransform | None,
    done: Collection[int] = (),
) -> Iterator[DecodedBatch]:
    """Give the batches of a shard in order, but for those of the parts that begin at a row in `done`.

    Args:
        shard: pictures or embeddings.
        rows_per: batch and part; a part is a whole number of batches.
        preprocess: what makes pixels of pictures.
        done: the first rows of parts that are there already.
    """
    skipped = set(done)
    start = 0
    while start in skipped:
        start += rows_per.part
    batches = (
        _embeddings(shard, rows_per, start)
        if isinstance(shard, EmbeddingFile)
        else _pictures(shard, rows_per, start, preprocess, skipped)
    )
    held: DecodedBatch | None = None
    broken: str | None = None
    try:
        for batch in batches:
            if held is not None and part_start(held, rows_per) not in skipped:
                yield _closed(held, rows_per, ends_shard=False)
            held = batch
    except (BrokenShardError, ConnectionError) as error:
        broken = in_utf8(" ".join(str(error).split()))
    if held is not None:
        start = held.first + len(held.keys)
        if part_start(held, rows_per) not in skipped:
            yield _closed(held, rows_per, ends_shard=broken is None)
    elif broken is None:
        yield DecodedBatch(start, [], {}, None, ends_part=True, ends_shard=True)
    if broken is not None:
        yield DecodedBatch(start, [in_utf8(shard.name)], {0: broken}, None, ends_part=True, broken=broken)


def part_start(batch: DecodedBatch, rows_per: RowsPer) -> int:
    """Return the number of the first row of the part that a batch lies in."""
    return batch.first // rows_per.part * rows_per.part


def _closed(batch: DecodedBatch, rows_per: RowsPer, *, ends_shard: bool) -> DecodedBatch:
    ends_part = ends_shard or (batch.first + len(batch.keys)) % rows_per.part == 0
    return replace(batch, ends_part=ends_part, ends_shard=ends_shard)


def _pictures(
    shard: Shard, rows_per: RowsPer, start: int, preprocess: ImageTransform | None, skipped: Collection[int]
) -> Iterator[DecodedBatch]:
    for first, samples, broken in cut(shard, rows_per.batch, start):
        if samples and first // rows_per.part * rows_per.part in skipped:  # not opened
            yield DecodedBatch(first, [sample.key for sample in samples], {}, None)
        elif samples:
            yield _opened(first, samples, preprocess)
        if broken is not None:
            raise broken


def _opened(first: int, samples: Sequence[Sample], preprocess: ImageTransform | None) -> DecodedBatch:
    errors: dict[int, str] = {}
    reduced: dict[int, str] = {}

    assert preprocess is not None  # the job has one wherever there are pictures
    opening = partial(Sample.open, needed=preprocess.needed)

    def opened() -> Iterator[Image.Image]:
        number = 0  # `enumerate` would hold a picture while the next one is opened
        for picture in open_samples(samples, errors, opening):
            if (note := picture.info.get(REDUCED)) is not None:
                reduced[number] = note
            number += 1
            yield picture
            del picture

    inputs = preprocess(opened()) or None
    said = {place: in_utf8(" ".join(error.split())) for place, error in errors.items()}
    readable = [place for place in range(len(samples)) if place not in errors]
    notes = {readable[number]: note for number, note in reduced.items()}
    return DecodedBatch(first, [in_utf8(sample.key) for sample in samples], said, inputs, notes=notes)


def _embeddings(shard: EmbeddingFile, rows_per: RowsPer, start: int) -> Iterator[DecodedBatch]:
    first = start
    for keys, rows, errors in shard.blocks(rows_per.batch, start):
        # In float32: the file's own is of a type that few things compute in. Half precision is left to torch,
        # which widens it several times faster than numpy.
        embeds = torch.from_numpy(rows.astype("f2" if rows.dtype == "f2" else "f4", copy=False)).float()
        good = embeds if not errors else embeds[[i for i in range(len(keys)) if i not in errors]]
        yield DecodedBatch(first, keys, errors, {"image_embeds": good} if len(good) else None)
        first += len(keys)
