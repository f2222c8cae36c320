"""The unit of work: the shard that a task reads, and the part that it writes, the same in every engine."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from s3clip.backbone.image_transform import ImageTransform
from s3clip.bulk.decoding import (
    DecodedBatch,
    ListedBatch,
    RowsPer,
    broken_off,
    listed_batches,
    part_start,
)
from s3clip.bulk.embedding_shards import EmbeddingFile
from s3clip.bulk.inputs import InputFile, state_now
from s3clip.bulk.labelling import part_counts
from s3clip.bulk.output import Output, Part
from s3clip.files.addresses import is_address
from s3clip.files.writing import in_utf8
from s3clip.images.sources import FileShard, Shard


@dataclass(frozen=True)
class Task:
    """A shard that is not done, as an engine gets it.

    Attributes:
        name: of the shard in the results, and so of its parts.
        shard: what to read.
        files: that it is made of.
        rows_per: batch and part.
        done: the first rows of parts that are there.
        settings: their digest, for the parts.
    """

    name: str
    shard: Shard | EmbeddingFile
    files: tuple[InputFile, ...]
    rows_per: RowsPer
    done: frozenset[int]
    settings: str

    def listed(self) -> Iterator[ListedBatch | DecodedBatch]:
        """Give its batches with no picture opened; see `s3clip.bulk.decoding.listed_batches`."""
        return listed_batches(self.shard, self.rows_per, self.done)

    def batches(self, preprocess: ImageTransform | None) -> Iterator[DecodedBatch]:
        """Give its batches, opened one at a time and checked, up to the one where it breaks off."""
        for batch in self.listed():
            if isinstance(batch, ListedBatch):
                assert preprocess is not None  # the job has one wherever there are pictures
                batch = batch.opened(preprocess)
            checked = self.checked(batch)
            yield checked
            if checked.broken is not None:
                return

    def checked(self, batch: DecodedBatch) -> DecodedBatch:
        """Return a batch; where a part ends whose files changed since they were listed, what says so."""
        if batch.ends_part and (said := self.changed()) is not None:
            return broken_off(self.shard.name, batch.first, said)
        return batch

    def changed(self) -> str | None:
        """Return which file is not what was listed, None if all are."""
        pictures = self.shard.files if isinstance(self.shard, FileShard) else ()
        not_given = {listed.path for listed in pictures if listed.reach is not None}
        for file in self.files:
            if file.path in not_given:
                continue
            if pictures and is_address(file.path):
                continue  # each is fetched at once, so none is half old; the next listing tells a change
            try:
                now = state_now(file)
            except (OSError, ValueError) as error:  # as of a Lance dataset that is gone
                if isinstance(self.shard, FileShard):
                    continue  # a picture that is gone, or a link to itself, is a row with an error
                gone = isinstance(error, FileNotFoundError)
                said = "gone while it was read" if gone else " ".join(str(error).split())
                return f"{in_utf8(file.path)}: {said}"
            if not file.state.agrees(now):
                return f"{in_utf8(file.path)}: changed while it was read"
        return None

    def part(self, batch: DecodedBatch) -> Part:
        """Return what the part of a batch says of itself, as far as the batch tells."""
        return Part(
            shard=self.name,
            start=part_start(batch.first, self.rows_per),
            settings=self.settings,
            version=version_of(self.files),
            ends_shard=batch.ends_shard,
            broken=batch.broken,
        )


def version_of(files: Iterable[InputFile]) -> str:
    """Return 16 hex digits that change when the size or version of a file of a shard does."""
    known = [(file.path, file.state.size, file.state.version) for file in files]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def write_part(part: Part, rows: Sequence[pa.Table], classes: int, output: Output) -> Part:
    """Write the rows of one part: what every engine ends with.

    Args:
        part: `Task.part` of its last batch.
        rows: `Labeller.rows` of its batches, in order.
        classes: how many the head has.
        output: where to.

    Returns:
        The part with its counts, as it was written.

    Raises:
        OSError: it cannot be written.
    """
    table = pa.concat_tables(rows).unify_dictionaries()
    part = part.model_copy(update={"counts": part_counts(table, classes)})
    output.write_part(part, table)
    return part
