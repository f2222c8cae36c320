"""A shard in, batches out: cut where parts begin and end, then opened and preprocessed, or in pieces."""

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

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.keys)

    def pin_memory(self) -> "DecodedBatch":
        """Return it with its inputs in pinned memory: a loader asks for that where a GPU labels."""
        pinned = None if self.inputs is None else {key: own.pin_memory() for key, own in self.inputs.items()}
        return replace(self, inputs=pinned)


@dataclass(frozen=True)
class ListedBatch:
    """Successive pictures of a shard, none of them opened.

    Attributes:
        shard: the name of that.
        first: the number of the first in the shard.
        samples: the pictures.
        ends_part: whether the part ends here.
        ends_shard: whether the shard ends here.
    """

    shard: str
    first: int
    samples: Sequence[Sample]
    ends_part: bool = False
    ends_shard: bool = False

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.samples)

    def pieces(self, size: int) -> list["ListedBatch"]:
        """Cut it into batches of at most so many pictures; `joined` makes one of them, once they are open."""
        starts = range(0, self.rows, size)
        return [
            replace(
                self,
                first=self.first + start,
                samples=self.samples[start : start + size],
                ends_part=self.ends_part and start == starts[-1],
                ends_shard=self.ends_shard and start == starts[-1],
            )
            for start in starts
        ]

    def opened(self, preprocess: ImageTransform) -> DecodedBatch:
        """Return it with its pictures opened; where their store is out of reach, it says so alone."""
        errors: dict[int, str] = {}
        reduced: dict[int, str] = {}
        opening = partial(Sample.open, needed=preprocess.needed)

        def opened() -> Iterator[Image.Image]:
            number = 0  # `enumerate` would hold a picture while the next one is opened
            for picture in open_samples(self.samples, errors, opening):
                if (note := picture.info.get(REDUCED)) is not None:
                    reduced[number] = note
                number += 1
                yield picture
                del picture

        try:
            inputs = preprocess(opened()) or None
        except ConnectionError as error:
            return broken_off(self.shard, self.first, _in_one_line(error))
        said = {place: _in_one_line(error) for place, error in errors.items()}
        readable = [place for place in range(self.rows) if place not in errors]
        notes = {readable[number]: note for number, note in reduced.items()}
        keys = [in_utf8(sample.key) for sample in self.samples]
        return DecodedBatch(self.first, keys, said, inputs, self.ends_part, self.ends_shard, notes=notes)


def broken_off(shard: str, first: int, said: str) -> DecodedBatch:
    """Return the last row of a shard that breaks off, keyed by the shard."""
    return DecodedBatch(first, [in_utf8(shard)], {0: said}, None, ends_part=True, broken=said)


def _in_one_line(error: Exception | str) -> str:
    return in_utf8(" ".join(str(error).split()))


def joined(pieces: Sequence[DecodedBatch]) -> DecodedBatch:
    """Return successive pieces of a batch as one; where the shard breaks off in one of them, that alone."""
    if (broken := next((piece for piece in pieces if piece.broken is not None), None)) is not None:
        return replace(broken, first=pieces[0].first)
    if len(pieces) == 1:
        return pieces[0]
    errors: dict[int, str] = {}
    notes: dict[int, str] = {}
    keys: list[str] = []
    for piece in pieces:
        errors |= {len(keys) + place: said for place, said in piece.errors.items()}
        notes |= {len(keys) + place: said for place, said in piece.notes.items()}
        keys += piece.keys
    opened = [piece.inputs for piece in pieces if piece.inputs is not None]
    inputs = {key: torch.cat([own[key] for own in opened]) for key in opened[0]} if opened else None
    return replace(pieces[-1], first=pieces[0].first, keys=keys, errors=errors, inputs=inputs, notes=notes)


def listed_batches(
    shard: Shard | EmbeddingFile, rows_per: RowsPer, done: Collection[int] = ()
) -> Iterator[ListedBatch | DecodedBatch]:
    """Give the batches of a shard in order, but for those of the parts that begin at a row in `done`.

    No picture is opened; embeddings are read, as is what says that a shard breaks off, or has no rows.

    Args:
        shard: pictures or embeddings.
        rows_per: batch and part; a part is a whole number of batches.
        done: the first rows of parts that are there already.
    """
    skipped = set(done)
    start = 0
    while start in skipped:
        start += rows_per.part
    batches: Iterator[ListedBatch | DecodedBatch] = (
        _embeddings(shard, rows_per.batch, start)
        if isinstance(shard, EmbeddingFile)
        else _pictures(shard, rows_per.batch, start)
    )
    held: ListedBatch | DecodedBatch | None = None
    broken: Exception | None = None
    try:
        for batch in batches:
            if held is not None and part_start(held.first, rows_per) not in skipped:
                yield _closed(held, rows_per, ends_shard=False)
            held = batch
    except (BrokenShardError, ConnectionError) as error:
        broken = error
    if held is not None:
        start = held.first + held.rows
        if part_start(held.first, rows_per) not in skipped:
            yield _closed(held, rows_per, ends_shard=broken is None)
    elif broken is None:
        yield DecodedBatch(start, [], {}, None, ends_part=True, ends_shard=True)
    if broken is not None:
        yield broken_off(shard.name, start, _in_one_line(broken))


def part_start(row: int, rows_per: RowsPer) -> int:
    """Return the number of the first row of the part that a row lies in."""
    return row // rows_per.part * rows_per.part


def _closed(
    batch: ListedBatch | DecodedBatch, rows_per: RowsPer, *, ends_shard: bool
) -> ListedBatch | DecodedBatch:
    ends_part = ends_shard or (batch.first + batch.rows) % rows_per.part == 0
    return replace(batch, ends_part=ends_part, ends_shard=ends_shard)


def _pictures(shard: Shard, size: int, start: int) -> Iterator[ListedBatch]:
    for first, samples, broken in cut(shard, size, start):
        if samples:
            yield ListedBatch(shard.name, first, samples)
        if broken is not None:
            raise broken


def _embeddings(shard: EmbeddingFile, size: int, start: int) -> Iterator[DecodedBatch]:
    first = start
    for keys, rows, errors in shard.blocks(size, start):
        # In float32: the file's own is of a type that few things compute in. Half precision is left to torch,
        # which widens it several times faster than numpy.
        embeds = torch.from_numpy(rows.astype("f2" if rows.dtype == "f2" else "f4", copy=False)).float()
        good = embeds if not errors else embeds[[i for i in range(len(keys)) if i not in errors]]
        yield DecodedBatch(first, keys, errors, {"image_embeds": good} if len(good) else None)
        first += len(keys)
