"""Every image of a set through the image tower, once: what is in the cache already is not encoded again."""

import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.identity import check_fingerprint
from s3clip.evaluation.benchmarks.sets import EvaluationSet
from s3clip.evaluation.runs.cache import (
    Cache,
    Seen,
    add_images,
    add_listing,
    content_id,
    file_of,
    files_of,
    listing_key,
    state_of,
)
from s3clip.files.writing import write_atomically
from s3clip.images.sources import BATCH_SIZE, Sample, Shard, read


class Opening(Protocol):
    """How workers open the images of a set. It can be pickled."""

    def read(self, sample: Sample) -> Sequence[bytes]:
        """Return all that what is made of a sample is computed from."""

    def open(self, sample: Sample, content: Sequence[bytes]) -> Any:
        """Return what that holds."""

    def prepare(self, opened: Iterator[Any]) -> Any:
        """Return the input of `Job.compute` for all of these, each opened when it is asked for.

        There may be none; what is returned then is not used.
        """


class Job(Protocol):
    """What a run makes of the images of a set."""

    @property
    def which(self) -> EvaluationSet:
        """The set."""

    @property
    def opening(self) -> Opening:
        """How workers open its images."""

    @property
    def seconds(self) -> dict[str, float]:
        """What it measures of its parts."""

    def place(self, image_key: str) -> Path:
        """Return where in the cache of a model what it makes goes; jobs that make the same share it."""

    def compute(self, prepared: Any) -> Any:
        """Send images through the tower. It may return before the device is done."""

    def pack(self, computed: Any) -> tuple[dict[str, Any], bytes]:
        """Wait for the device, and return what `add_images` writes of these images."""


@dataclass(frozen=True)
class Done:
    """What `encode` did in one process.

    Attributes:
        images: how many were encoded now.
        seconds: how long that took, with reading and preparing them.
        seen: what became of the images of each of its shards, by the number of the shard.
        parts: `Job.seconds`.
    """

    images: int
    seconds: float
    seen: dict[int, list[Seen]]
    parts: dict[str, float]


def encode(
    job: Job,
    cache: Cache,
    *,
    process: int = 0,
    processes: int = 1,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Done:
    """Encode the images of this process's shards that are not in the cache yet.

    A batch is written as soon as the next one is on its way through the tower.

    Args:
        job: the set, and what is made of its images.
        cache: where that goes.
        process: the number of this process.
        processes: how many there are; each takes every n-th shard.
        batch_size: images that are prepared at once.
        workers: processes that open and prepare images; 0: this one does.

    Raises:
        ValueError: another process is at the same shards.
        ConnectionError: a store cannot be reached; start again, and what was encoded is there.
    """
    started, images, which = time.perf_counter(), 0, job.which
    cache.refresh()
    seen: dict[int, list[Seen]] = {}
    left: list[tuple[int, str | None, _Watched]] = []
    for number in range(process, len(which.shards), processes):
        shard = which.shards[number]
        key = listing_key(shard)
        listed = cache.listed(shard, key)
        seen[number] = listed or []
        if listed is None:
            left.append((number, key, _Watched(shard, {})))
    batches = read(
        [shard for _, _, shard in left],
        opening=_Opening(job.opening, cache.ids),
        transform=_Preparing(job.opening),
        batch_size=batch_size,
        workers=workers,
    )
    # On a terminal alone, and of one process: the others do as much.
    bar = tqdm(  # type: ignore[no-untyped-call]
        total=None if which.expected_images is None else -(-which.expected_images // processes),
        initial=sum(map(len, seen.values())),
        desc=which.name,
        unit=" images",
        disable=None if process == 0 else True,
    )
    if not left:
        return Done(0, time.perf_counter() - started, seen, job.seconds)
    log = quote(f"{which.name}-{which.convention}-{which.split}-{process}", safe="")
    with bar, cache.store.writer(log) as writer:
        ahead = ((batch.records, *_computed(job, batch.value)) for batch in batches)
        following = next(ahead, None)
        for number, key, shard in left:
            while following is not None and following[0][0].shard == shard.name:
                records, ids, new, computed = following
                # On a GPU this returns once the next batch is queued; `pack` waits for this one.
                following = next(ahead, None)
                if new:
                    add_images(writer, new, *job.pack(computed))
                    images += len(new)
                readable = iter(ids)
                seen[number] += [Seen(each, None if each.error else next(readable)) for each in records]
                bar.update(len(records))
            if key is not None:
                add_listing(writer, key, shard.files, seen[number])
    return Done(images, time.perf_counter() - started, seen, job.seconds)


def images_of(done: Iterable[Done]) -> list[Seen]:
    """Return what became of all images of a set, in order, from what its processes did."""
    shards = {number: own for each in done for number, own in each.seen.items()}
    return [each for number in sorted(shards) for each in shards[number]]


def check_model(folder: Path, backbone: Backbone) -> None:
    """Note which model a folder is of, or check that this one still embeds as it did.

    Raises:
        ValueError: the weights are the same, and the embeddings are not: a library computes otherwise; or the
            note cannot be read.
    """
    found = {"image": backbone.fingerprint()["image"]}
    path = folder / "fingerprint.safetensors"
    if path.exists():
        try:
            saved = {"image": load_tensors(path.read_bytes())["image"]}
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"{path}: cannot be read ({error}); remove {folder}, which is encoded again then, or give "
                f"another --cache"
            ) from error
        check_fingerprint(saved, found, str(folder))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save_tensors(found))


@dataclass(frozen=True)
class _Watched:
    """A shard that notes the states of its files, each before anything of it is read."""

    shard: Shard
    files: dict[str, str]

    @property
    def name(self) -> str:
        return self.shard.name

    def samples(self, start: int = 0) -> Iterator[Sample]:
        self._note(*files_of(self.shard))
        for sample in self.shard.samples(start):
            if (path := file_of(sample)) is not None:
                self._note(path)
            yield sample

    def _note(self, *paths: str) -> None:
        for path in paths:
            if path not in self.files:
                self.files[path] = state_of(path)


@dataclass(frozen=True)
class _Opening:
    """Opens an image that is not known; gives its id, and None for one that is."""

    opening: Opening
    known: Container[bytes]

    def __call__(self, sample: Sample) -> tuple[bytes, Any]:
        content = self.opening.read(sample)
        each = content_id(content)
        return each, None if each in self.known else self.opening.open(sample, content)


@dataclass(frozen=True)
class _Preparing:
    """Prepares those that were opened; gives the ids of all, of those, and the input of the tower."""

    opening: Opening

    def __call__(self, opened: Iterator[tuple[bytes, Any]]) -> tuple[list[bytes], list[bytes], Any]:
        ids: list[bytes] = []
        new: list[bytes] = []

        def images() -> Iterator[Any]:
            for each, image in opened:
                ids.append(each)
                if image is not None:
                    new.append(each)
                    yield image
                del image  # the next one is not to be opened beside it

        return ids, new, self.opening.prepare(images())


def _computed(job: Job, value: Any) -> tuple[Sequence[bytes], Sequence[bytes], Any]:
    if value is None:  # none of them can be read
        return (), (), None
    ids, new, prepared = value
    with torch.inference_mode():
        return ids, new, job.compute(prepared) if new else None
