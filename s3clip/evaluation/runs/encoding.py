"""Every image of some sets through the image tower, once: what is on disk already is not encoded again."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.identity import check_fingerprint
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.runs.embeddings import ShardEmbeddings, Stored, StoredRows, still_true
from s3clip.files.writing import write_atomically
from s3clip.images.sources import BATCH_SIZE, Batch, Record, Shard, read


@dataclass(frozen=True)
class Encoded:
    """What `encode_set` did.

    Attributes:
        images: how many were encoded now.
        seconds: how long that took, with reading and preparing them.
    """

    images: int
    seconds: float


def set_folder(cache: Path, key: str, which: ClassificationSet) -> Path:
    """Return the folder of a set's embeddings by the model whose `image_key` this is."""
    return cache / key[:16] / which.name / f"{which.convention}-{which.split}"


def check_model(cache: Path, key: str, backbone: Backbone) -> None:
    """Note which model a folder of embeddings is of, or check that this one still embeds as it did.

    Raises:
        ValueError: the weights are the same, and the embeddings are not: a library computes otherwise; or the
            note cannot be read.
    """
    found = {"image": backbone.fingerprint()["image"]}
    path = cache / key[:16] / "fingerprint.safetensors"
    if path.exists():
        try:
            saved = {"image": load_tensors(path.read_bytes())["image"]}
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"{path}: cannot be read ({error}); remove {path.parent}, which is encoded again then, or "
                f"give another --cache"
            ) from error
        check_fingerprint(saved, found, str(path.parent))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save_tensors(found))


def encode_set(
    which: ClassificationSet,
    backbone: Backbone,
    folder: Path,
    *,
    process: int = 0,
    processes: int = 1,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Encoded:
    """Encode the images of this process's shards that are not in the folder yet.

    A batch is written as soon as the next one is on its way through the tower.

    Args:
        which: the set.
        backbone: in evaluation mode, on its device.
        folder: where embeddings go; each shard has files of its own there.
        process: the number of this process.
        processes: how many there are; each takes every so-manieth shard.
        batch_size: images per call of the tower.
        workers: processes that open and prepare images; 0: this one does.
    """
    started, images = time.perf_counter(), 0
    own = which.shards[process::processes]
    left, done = [], 0
    for shard in own:
        place = ShardEmbeddings(folder, shard.name, backbone.dim)
        stored = place.read()
        if stored.batches or stored.is_complete:
            stored = still_true(stored, shard, place.records_path.stat().st_mtime)
        done += stored.samples
        if not stored.is_complete:
            left.append((shard, place, stored))
    expected = None if which.expected_images is None else -(-which.expected_images // processes)
    # On a terminal alone, and of one process: the others do as much.
    bar = tqdm(  # type: ignore[no-untyped-call]
        total=expected,
        initial=done,
        desc=which.name,
        unit=" images",
        disable=None if process == 0 else True,
    )
    with bar:
        for group in _groups(left):
            images += _encode_group(group, backbone, batch_size, workers, bar)
    return Encoded(images, time.perf_counter() - started)


def read_set(which: ClassificationSet, folder: Path, dim: int) -> tuple[list[Record], StoredRows]:
    """Return the records of all shards in order, and the embeddings of those without an error.

    Raises:
        FileNotFoundError: some are missing.
    """
    records: list[Record] = []
    files = []
    for shard in which.shards:
        place = ShardEmbeddings(folder, shard.name, dim)
        stored = place.read()
        if not stored.is_complete:
            raise FileNotFoundError(
                f"{place.records_path}: the embeddings of {shard.name} are not here; where several machines "
                f"encode, --cache must be a folder that all of them share"
            )
        records += [record for batch in stored.batches for record in batch.records]
        files.append((place.rows_path, stored.rows))
    return records, StoredRows.of(files, dim)


_Left = tuple[Shard, ShardEmbeddings, Stored]


def _groups(left: Sequence[_Left]) -> list[list[_Left]]:
    """Split into runs of shards that one loader can read: only the first of each is begun already."""
    groups: list[list[_Left]] = []
    for each in left:
        if not groups or each[2].samples:
            groups.append([])
        groups[-1].append(each)
    return groups


def _encode_group(group: list[_Left], backbone: Backbone, batch_size: int, workers: int, bar: tqdm) -> int:
    batches = read(
        [shard for shard, _, _ in group],
        transform=backbone.image_transform(),
        start=group[0][2].samples,
        batch_size=batch_size,
        workers=workers,
    )
    images = 0
    ahead = _one_ahead(batches, backbone)
    following = next(ahead, None)
    for shard, place, stored in group:
        with place.writer(stored.batches) as writer:
            while following is not None and following[0].records[0].shard == shard.name:
                batch, embeds = following
                # On a GPU this returns once the next batch is queued; `cpu()` waits for this one.
                following = next(ahead, None)
                writer.append(batch.records, embeds.float().cpu().numpy())
                images += len(embeds)
                bar.update(len(batch.records))
            writer.finish()
    return images


def _one_ahead(batches: Iterable[Batch], backbone: Backbone) -> Iterator[tuple[Batch, Tensor]]:
    for batch in batches:
        yield batch, _encode(batch, backbone)


def _encode(batch: Batch, backbone: Backbone) -> Tensor:
    if batch.value is None:
        return torch.empty(0, backbone.dim)
    inputs = {key: value.to(backbone.device, non_blocking=True) for key, value in batch.value.items()}
    with torch.inference_mode():
        return backbone.encode_images(**inputs)
