"""What is on disk of images: what was computed of each, by its content, and which images each shard has.

What is computed of an image is kept under the digest of the bytes that it was computed from, wherever those
lie and whatever set they belong to. Beside it is kept which images a shard has, and the states of its files:
while these stay what they were, the shard need not be read again to know its images.
"""

import hashlib
import os
import re
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from s3clip.evaluation.benchmarks.masks import MaskedImage
from s3clip.evaluation.runs.store import Entry, Store, Writer
from s3clip.files.addresses import is_address
from s3clip.files.folders import check_own
from s3clip.files.reach import Named
from s3clip.files.state import file_state
from s3clip.images.sources import BrokenShardError, Record, Sample, Shard, Span, Unread
from s3clip.images.table_shards import TableShard
from s3clip.images.tars import TarShard

_READERS = 16


def folder_of_model(cache: Path, key: str) -> Path:
    """Return the folder in a cache of what the model of an image key made."""
    return cache / key[:16]


def check_cache(cache: Path) -> None:
    """Raise ValueError where a folder for a cache holds something else."""

    def is_ours(folder: Path) -> bool:
        return any(re.fullmatch("[0-9a-f]{16}", name) for name in os.listdir(folder))

    check_own(cache, "cache", is_ours, "cache of s3clip eval")


class Seen(NamedTuple):
    """What became of an image; `id` is the digest of its content, None where it cannot be read."""

    record: Record
    id: bytes | None


class Cache:
    """What one model made of images, of whatever sets.

    Args:
        folder: of the logs that it is in.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self._places: dict[bytes, tuple[Entry, int]] = {}
        self._listings: dict[str, dict[str, Any]] = {}

    def refresh(self) -> None:
        """Read what was written since the last time."""
        for entry in self.store.new_entries():
            if "shard" in entry.content:
                self._listings[entry.content["shard"]] = entry.content
            else:
                for position, each in enumerate(entry.content.pop("ids")):
                    self._places[bytes.fromhex(each)] = entry, position

    @property
    def ids(self) -> Container[bytes]:
        """Of all images that are here."""
        return frozenset(self._places)

    def places(self, images: Iterable[Seen]) -> list[tuple[Entry, int]]:
        """Return the entry of each readable image, and which it is among those of the entry.

        Raises:
            FileNotFoundError: one is not here.
        """
        found = []
        for record, each in images:
            if each is None:
                continue
            if each not in self._places:
                raise FileNotFoundError(
                    f"{self.store.folder}: what was made of {record.key} is not here; where several machines "
                    f"encode, --cache must be a folder that all of them share"
                )
            found.append(self._places[each])
        return found

    def listed(self, shard: Shard, key: str | None) -> list[Seen] | None:
        """Return the images of a shard, if all are here, and its files are what they were.

        Args:
            shard: to be read otherwise.
            key: its `listing_key`.
        """
        listing = self._listings.get(key or "")
        if listing is None or not _are_as_they_were(listing["files"]):
            return None
        images = [
            Seen(Record(shard.name, index, name, label, error), None if each is None else bytes.fromhex(each))
            for index, (name, label, error, each) in enumerate(listing["images"])
        ]
        return images if all(each.id is None or each.id in self._places for each in images) else None


def add_images(writer: Writer, ids: Sequence[bytes], said: dict[str, Any], content: bytes) -> None:
    """Write what was made of some images, and what is to be known to read it."""
    writer.append({"ids": [each.hex() for each in ids], **said}, content)


def add_listing(writer: Writer, key: str, files: dict[str, str], images: Iterable[Seen]) -> None:
    """Write which images a shard has.

    Args:
        writer: to the same store.
        key: the `listing_key` of the shard.
        files: the `state_of` all its files, from before they were read.
        images: all of them, those that cannot be read too.
    """
    rows = [(r.key, r.label, r.error, None if each is None else each.hex()) for r, each in images]
    writer.append({"shard": key, "files": files, "images": rows})


def content_id(content: Iterable[bytes]) -> bytes:
    """Return the digest of the files, or parts of files, that something is computed from."""
    digest = hashlib.blake2b(digest_size=16)
    for part in content:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def state_of(path: str) -> str:
    """Return a text that changes when a file does, or comes, or goes."""
    try:
        state = str(file_state(path))
        # Whoever rewrites a file can set its time back, and not that of the change of its status.
        return state if is_address(path) else f"{state} {os.stat(path).st_ctime_ns}"
    except ConnectionError:
        raise
    except OSError as error:
        return type(error).__name__


def _are_as_they_were(states: dict[str, str]) -> bool:
    if len(states) <= _READERS:
        return all(state_of(path) == state for path, state in states.items())
    with ThreadPoolExecutor(_READERS) as pool:  # each is read at both ends, which disks answer late
        return all(map(str.__eq__, pool.map(state_of, states), states.values()))


def files_of(shard: Shard) -> list[str]:
    """Return the files that a shard is made of; those of single samples are their own, see `file_of`."""
    if isinstance(shard, TarShard | TableShard):
        return [_absolute(shard.path)]
    if not isinstance(shard, MaskedImage) or shard.refused is not None:
        return []
    return [_absolute(shard.image), _absolute(shard.mask)]


def file_of(sample: Sample) -> str | None:
    """Return the file that a sample is in; None if it brings its bytes, or may not be opened."""
    data = sample.data
    if isinstance(data, Named):
        try:
            data = data.find()
        except (OSError, ValueError):  # a sample with an error, without a look at the file
            return None
    if isinstance(data, bytes | Unread):
        return None
    return _absolute(data.path if isinstance(data, Span) else data)


def listing_key(shard: Shard) -> str | None:
    """Return 32 hex digits of what a shard says it is, without reading its files; None if it breaks off."""
    what: Any = repr(shard)
    if not isinstance(shard, TarShard | TableShard):
        try:
            what = [(each.key, each.label, file_of(each) or each.data) for each in shard.samples()]
        except BrokenShardError:
            return None
    # Another version of Pillow may read what this one cannot.
    return content_id([repr((PIL.__version__, files_of(shard), what)).encode(errors="surrogatepass")]).hex()


def _absolute(path: Path | str) -> str:
    return path if isinstance(path, str) and is_address(path) else os.path.abspath(path)
