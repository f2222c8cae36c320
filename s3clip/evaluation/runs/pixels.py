"""Every picture of a set of segmentation through the image tower, once, and all contenders on its patches."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from s3clip._version import __version__
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.image_transform import ImageTransform
from s3clip.evaluation.benchmarks.segmentation import IGNORED, Pair, SegmentationSet, read_mask
from s3clip.evaluation.method_texts import ContenderTexts
from s3clip.evaluation.methods import CONTROL, DEFAULT, Contender
from s3clip.evaluation.runs.pixel_counts import CountedPicture, PixelCounts, file_sizes
from s3clip.evaluation.scores import confusion_matrix
from s3clip.evaluation.settings import Asked, has_descriptors
from s3clip.head import SynonymousSpaceHead
from s3clip.images.sources import Sample
from s3clip.segmentation.dense import DenseTower, check_method
from s3clip.segmentation.segmenter import (
    DenseFeatures,
    Sizes,
    cut_windows,
    encode_windows,
    segment_patches,
    window_sizes,
)

CONTENDERS_PER_PIXEL = ("name", CONTROL.name, "softmax_max", DEFAULT.name)
"""Those that are compared where nobody asks for others."""

DENSE_METHOD = "sclip"
"""Embeddings of patches where nobody asks for others, as of `head.segment`."""


class PixelContender(NamedTuple):
    """A contender, fitted: its head, and how `segment_patches` brings its texts together."""

    name: str
    head: SynonymousSpaceHead
    aggregation: str


@dataclass(frozen=True)
class Counted:
    """What `PixelRun.count` did in one process.

    Attributes:
        images: how many pictures were encoded now.
        seconds: how long that took, with reading them and with all contenders.
        contender_seconds: of it, each contender on the patches of all pictures.
        broken: the key of every picture that cannot be scored, and why.
    """

    images: int
    seconds: float
    contender_seconds: dict[str, float]
    broken: dict[str, str]


class PixelRun:
    """A set of segmentation and the contenders that are compared on it.

    Args:
        which: the set.
        backbone: with its text tower, on its device.
        asked: the settings of the comparison.
        method: embeddings of patches, a key of `s3clip.segmentation.dense.METHODS`.

    Attributes:
        sizes: of the windows.
        contenders: fitted.
        texts: how many there are at hand.

    Raises:
        ValueError: an unknown method or contender, one whose texts are drawn, or sizes that do not fit.
        TypeError: a backbone whose patches have no embeddings.
    """

    def __init__(self, which: SegmentationSet, backbone: Backbone, asked: Asked, method: str) -> None:
        check_method(method)
        tower, layout = DenseTower(backbone.model), which.layout
        self.which, self.backbone, self.asked, self.method = which, backbone, asked, method
        self.sizes = window_sizes(tower, layout.window, layout.stride, layout.short_side)
        self.chosen = choose_contenders(asked, which)
        texts = ContenderTexts(backbone, which.synonyms, which.templates)
        self.texts = sum(map(len, texts.embeddings))
        self.contenders = [self._fit(each, texts) for each in self.chosen]

    def _fit(self, contender: Contender, texts: ContenderTexts) -> PixelContender:
        head = SynonymousSpaceHead(self.backbone, config=contender.config or CONTROL.config)
        head.fit_embeddings(texts.of(contender, self.asked.seed), texts.class_names).eval()
        return PixelContender(
            contender.name, head, "softmax_then_max" if contender.config is None else "space"
        )

    @property
    def background(self) -> int | None:
        """The class of pixels below the threshold, where there is one."""
        return None if self.which.layout.threshold is None else 0

    def key(self, image_key: str) -> str:
        """Return 16 hex digits that are the same where the counts are, but for rounding.

        Args:
            image_key: of the backbone; to make it takes long.
        """
        layout = self.which.layout
        facts = {
            "s3clip": __version__,
            "model": image_key,
            "texts": self.backbone.text_key().hex(),
            "scale": self.backbone.logit_scale().item(),
            "bias": None if (bias := self.backbone.logit_bias()) is None else bias.item(),
            "method": self.method,
            "sizes": self.sizes,
            "threshold": layout.threshold,
            "reduce_zero_label": layout.reduce_zero_label,
            "synonyms": self.which.synonyms.model_dump(mode="json"),
            "templates": self.which.templates,
            "contenders": {
                each.name: None if each.config is None else each.config.model_dump(mode="json")
                for each in self.chosen
            },
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def count(
        self, folder: Path, *, process: int = 0, processes: int = 1, batch_size: int = 64, workers: int = 0
    ) -> Counted:
        """Segment the pictures of this process that the folder does not have yet, and count their pixels.

        A picture is written as soon as all contenders are done with it.

        Args:
            folder: where counts go.
            process: the number of this process.
            processes: how many there are; each takes every so-manieth picture.
            batch_size: windows per call of the image tower.
            workers: processes that read pictures and cut them into windows; 0: this one does.
        """
        started, images = time.perf_counter(), 0
        own = self.which.pairs[process::processes]
        stored = PixelCounts(folder).read()
        left = [pair for pair in own if pair.key not in stored or not stored[pair.key].is_of(pair)]
        seconds = dict.fromkeys((each.name for each in self.contenders), 0.0)
        broken: dict[str, str] = {}
        # On a terminal alone, and of one process: the others do as much.
        bar = tqdm(  # type: ignore[no-untyped-call]
            total=len(own),
            initial=len(own) - len(left),
            desc=self.which.name,
            unit=" images",
            disable=None if process == 0 else True,
        )
        with bar, PixelCounts(folder).writer(process) as writer:
            for opened in self._read(left, workers):
                bar.update(1)
                if opened.error is not None:
                    broken[opened.key] = opened.error
                    continue
                features = encode_windows(
                    self.backbone, opened.windows, method=self.method, batch_size=batch_size
                )
                cells = {}
                for each in self.contenders:
                    begun = time.perf_counter()
                    cells[each.name] = self._cells(each, features, opened.labels)
                    seconds[each.name] += time.perf_counter() - begun
                writer.append(CountedPicture(opened.key, opened.sizes, opened.at, cells))
                images += 1
        return Counted(images, time.perf_counter() - started, seconds, broken)

    def _read(self, pairs: Sequence[Pair], workers: int) -> Iterable["_Opened"]:
        layout = self.which.layout
        dataset: Any = _Pictures(
            pairs,
            transform=self.backbone.image_transform(resize=False),
            patch=DenseTower(self.backbone.model).patch_size,
            sizes=self.sizes,
            reduce_zero_label=layout.reduce_zero_label,
            classes=len(self.which.class_names),
        )
        unchanged: Any = _unchanged
        return DataLoader(
            dataset, batch_size=None, num_workers=min(workers, len(pairs)), collate_fn=unchanged
        )

    def _cells(self, contender: PixelContender, features: DenseFeatures, labels: Tensor) -> Tensor:
        """Return the cells of a picture's confusion matrix that are not 0, as `CountedPicture` has them."""
        predicted = segment_patches(
            contender.head,
            features,
            aggregation=contender.aggregation,
            threshold=self.which.layout.threshold,
            background=self.background,
        ).labels
        flat = confusion_matrix(labels, predicted, len(self.which.class_names)).flatten()
        positions = flat.nonzero()[:, 0]
        return torch.stack([positions, flat[positions]], dim=1).int()


def counts_place(image_key: str, run: PixelRun) -> Path:
    """Return where in a cache the counts of a run go, by the model whose `image_key` this is."""
    which = run.which
    used = quote(f"{which.convention}-{which.split}", safe="")
    return Path(image_key[:16]) / which.name / f"{used}-{run.key(image_key)}"


def choose_contenders(asked: Asked, which: SegmentationSet) -> list[Contender]:
    """Return the contenders that are asked for, else `CONTENDERS_PER_PIXEL`.

    Raises:
        ValueError: one that is not known, or has its texts drawn.
    """
    names = CONTENDERS_PER_PIXEL if asked.contenders is None else asked.contenders
    found = asked._replace(contenders=names).chosen(
        can_encode=True, has_descriptors=has_descriptors(which.synonyms)
    )
    if drawn := next((each.name for each in found if each.random), None):
        raise ValueError(
            f"contenders: {drawn!r} draws its texts several times, and pixels are counted once; leave it out "
            f"with {which.name}, a benchmark of segmentation"
        )
    return found


class _Opened(NamedTuple):
    """A picture that was read: with windows and labels, or with an error."""

    key: str
    at: float
    sizes: tuple[int, int]
    windows: Any
    labels: Any
    error: str | None


class _Pictures(Dataset[_Opened]):
    """Pictures that are read with their masks, and cut into windows."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        transform: ImageTransform,
        patch: int,
        sizes: Sizes,
        reduce_zero_label: bool,
        classes: int,
    ) -> None:
        self.pairs, self.transform, self.patch, self.sizes = pairs, transform, patch, sizes
        self.reduce_zero_label, self.classes = reduce_zero_label, classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> _Opened:
        pair, at = self.pairs[index], time.time()
        try:
            picture = Sample(pair.key, None, pair.image).open()
            labels = self._labels(pair, picture)
            windows = cut_windows(picture, self.transform, self.patch, self.sizes)
            return _Opened(pair.key, at, file_sizes(pair), windows, labels, None)
        except (OSError, ValueError) as error:
            return _Opened(pair.key, at, (0, 0), None, None, str(error))

    def _labels(self, pair: Pair, picture: Image.Image) -> Tensor:
        labels = read_mask(pair, reduce_zero_label=self.reduce_zero_label)
        if tuple(labels.shape) != (picture.height, picture.width):
            raise ValueError(
                f"{pair.key}: the mask has {labels.shape[1]} x {labels.shape[0]} pixels, the picture "
                f"{picture.width} x {picture.height}"
            )
        outside = labels[(labels != IGNORED) & ((labels < 0) | (labels >= self.classes))]
        if len(outside):
            raise ValueError(
                f"{pair.key}: the mask has a label {int(outside[0])}; expected positions of {self.classes} "
                f"classes, or {IGNORED}"
            )
        # A quarter of the bytes on the way from a worker.
        return labels.to(torch.int16)


def _unchanged(opened: _Opened) -> _Opened:
    return opened
