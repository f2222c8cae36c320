"""The embeddings of images: made of the images of a set of classification, and read from disk in parts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from s3clip._version import __version__
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.image_transform import ImageTransform
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.runs.cache import Cache, Seen
from s3clip.images.opening import open_image
from s3clip.images.sources import Sample

ROW = np.dtype("<f4")


@dataclass(frozen=True)
class StoredRows:
    """Embeddings on disk. They are read a few at a time: what is held does not grow with their number.

    Attributes:
        files: in order, and how many rows are taken of each, from its first on.
        dim: numbers in a row.
        chosen: (rows,) int64, which rows these are, counted through all files.
    """

    files: tuple[tuple[Path, int], ...]
    dim: int
    chosen: np.ndarray[Any, Any]

    @classmethod
    def of(cls, files: Sequence[tuple[Path, int]], dim: int) -> "StoredRows":
        """Return all rows of some files."""
        return cls(tuple(files), dim, np.arange(sum(rows for _, rows in files)))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: Any) -> "StoredRows":
        """Return those of these rows whose numbers are given; nothing is read."""
        return replace(self, chosen=self.chosen[np.asarray(rows)])

    def split(self, size: int) -> Iterator[Tensor]:
        """Read `size` rows at a time, in order, as `Tensor.split` gives them: (size, dim) float32."""
        ends = np.cumsum([rows for _, rows in self.files])
        for start in range(0, len(self), size):
            wanted = self.chosen[start : start + size]
            files = np.searchsorted(ends, wanted, side="right")
            found = np.empty((len(wanted), self.dim), ROW)
            for number in np.unique(files):
                path, rows = self.files[number]
                # Mapped anew each time: pages that were read would count as memory of this process.
                mapped = np.memmap(path, ROW, "r", shape=(rows, self.dim))
                own = files == number
                found[own] = mapped[wanted[own] - (ends[number] - rows)]
            yield torch.from_numpy(found)


def stored_rows(cache: Cache, images: Iterable[Seen], dim: int) -> StoredRows:
    """Return the embeddings of those images that can be read, in order.

    Raises:
        FileNotFoundError: one of them is not in the cache.
    """
    # A file has as many rows as there are up to the last of these.
    places = [(entry.data, entry.start // (dim * ROW.itemsize) + at) for entry, at in cache.places(images)]
    files: dict[Path, int] = {}
    for path, row in places:
        files[path] = max(files.get(path, 0), row + 1)
    firsts = dict(zip(files, np.cumsum([0, *files.values()]).tolist(), strict=False))
    rows = StoredRows.of(list(files.items()), dim)
    return rows[np.array([firsts[path] + row for path, row in places], dtype=np.int64)]


@dataclass(frozen=True)
class ImageOpening:
    """Opens images, as far as their preparation needs them, and prepares them for the image tower."""

    transform: ImageTransform

    def read(self, sample: Sample) -> Sequence[bytes]:
        """Return the encoded image."""
        return (sample.read(),)

    def open(self, sample: Sample, content: Sequence[bytes]) -> Image.Image:
        """Return the image."""
        return open_image(content[0], name=sample.key, needed=self.transform.needed)

    def prepare(self, opened: Iterator[Image.Image]) -> dict[str, Tensor]:
        """Return the arguments of the image tower."""
        return self.transform(opened)


@dataclass(frozen=True)
class ImageJob:
    """A set of classification whose images become embeddings by a model; see `encoding.Job`.

    With `near_size` JPEGs are decoded near the size that the model needs.
    """

    which: ClassificationSet
    backbone: Backbone
    near_size: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def opening(self) -> ImageOpening:
        """How workers open its images."""
        return ImageOpening(self.backbone.image_transform(near_size=self.near_size))

    def place(self, image_key: str) -> Path:
        """Return where in the cache of a model they go: sets share them, versions of s3clip do not.

        Another version may read pictures otherwise; so are they where they are not decoded whole.
        """
        return Path(f"embeddings-{__version__}{'-near' if self.near_size else ''}")

    def compute(self, prepared: dict[str, Tensor]) -> Tensor:
        """Return (images, dim)."""
        return self.backbone.encode_images(**self.backbone.placed(prepared))

    def pack(self, computed: Tensor) -> tuple[dict[str, Any], bytes]:
        """Return their rows in bytes."""
        return {}, computed.float().cpu().numpy().astype(ROW).tobytes()
