"""The pixels of a set of segmentation, counted by what they are and what methods took them for."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from s3clip._version import __version__
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.image_transform import ImageTransform
from s3clip.evaluation.benchmarks.masks import mask_content, mask_labels
from s3clip.evaluation.benchmarks.sets import SegmentationSet
from s3clip.evaluation.method_texts import MethodTexts
from s3clip.evaluation.methods import CONTROL, DEFAULT, Method
from s3clip.evaluation.runs.cache import Cache, Seen
from s3clip.evaluation.scores import IGNORED, confusion_matrix
from s3clip.evaluation.settings import ComparisonSettings, has_descriptors
from s3clip.head import SynonymousSpaceHead
from s3clip.images.opening import open_image
from s3clip.images.sources import Sample
from s3clip.segmentation.dense import PATCH_FEATURES, DenseTower
from s3clip.segmentation.segmenter import (
    DenseFeatures,
    Windows,
    WindowSizes,
    cut_windows,
    encode_windows,
    segment_patches,
    window_sizes,
)

METHODS_PER_PIXEL = ("name", CONTROL.name, "softmax_max", DEFAULT.name)
"""Those that are compared where nobody asks for others."""

DEFAULT_FEATURES = "sclip"
"""Embeddings of patches where nobody asks for others, as of `head.segment`."""


class PixelMethod(NamedTuple):
    """A method, fitted: its head, and how `segment_patches` brings its texts together."""

    name: str
    head: SynonymousSpaceHead
    aggregation: str


class PixelJob:
    """A set of segmentation whose pixels are counted, as the methods take them; see `encoding.Job`.

    Args:
        which: the set.
        backbone: with its text tower, on its device.
        asked: the settings of the comparison; the batch size is that of windows.
        patch_features: embeddings of patches, a key of `s3clip.segmentation.dense.PATCH_FEATURES`.

    Attributes:
        sizes: of the windows.
        methods: fitted.
        texts: how many there are at hand.
        negatives: whether classes have some.
        seconds: that each method took on the patches of all images.

    Raises:
        ValueError: unknown patch features or methods, one whose texts are drawn, or sizes that do not fit.
        TypeError: a backbone whose patches have no embeddings.
    """

    def __init__(
        self, which: SegmentationSet, backbone: Backbone, asked: ComparisonSettings, patch_features: str
    ) -> None:
        if patch_features not in PATCH_FEATURES:
            raise ValueError(
                f"patch_features: expected one of {', '.join(PATCH_FEATURES)}, got {patch_features!r}"
            )
        tower, layout = DenseTower(backbone.model), which.layout
        self.which, self.backbone, self.asked, self.patch_features = which, backbone, asked, patch_features
        self.sizes = window_sizes(tower, layout.window, layout.stride, layout.short_side)
        self.chosen = choose_methods(asked, which)
        texts = MethodTexts(backbone, which.synonyms, which.templates)
        self.texts = sum(map(len, texts.embeddings))
        self.negatives = texts.negatives is not None
        self._embeddings = hashlib.sha256()
        self.methods = [self._fit(each, texts) for each in self.chosen]
        self.seconds = {each.name: 0.0 for each in self.methods}

    def _fit(self, method: Method, texts: MethodTexts) -> PixelMethod:
        embeddings = texts.of(method, self.asked.seed)
        for own in embeddings:
            self._embeddings.update(repr(own.shape).encode() + own.float().cpu().numpy().tobytes())
        head = SynonymousSpaceHead(self.backbone, config=method.config or CONTROL.config)
        against = texts.negatives if method.negatives else None
        for text, row in ((text, row) for own in against or () for text, row in own.items()):
            self._embeddings.update(text.encode() + row.numpy().tobytes())
        head.fit_embeddings(embeddings, texts.class_names, negatives=against).eval()
        return PixelMethod(method.name, head, "softmax_then_max" if method.config is None else "space")

    @property
    def background(self) -> int | None:
        """The class of pixels below the threshold, where there is one."""
        return None if self.which.layout.threshold is None else 0

    def place(self, image_key: str) -> Path:
        """Return where in the cache of a model the counts go: the same where they are, but for rounding.

        Args:
            image_key: of the backbone; to make it takes long.
        """
        layout, bias = self.which.layout, self.backbone.logit_bias()
        facts = {
            "s3clip": __version__,
            "model": image_key,
            "logits": [self.backbone.logit_scale().item(), None if bias is None else bias.item()],
            "texts": self._embeddings.hexdigest(),
            "patch_features": self.patch_features,
            "sizes": self.sizes,
            "threshold": layout.threshold,
            "reduce_zero_label": layout.reduce_zero_label,
            "methods": {
                each.name: None if each.config is None else each.config.model_dump(mode="json")
                for each in self.chosen
            },
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return Path("pixels") / digest[:16]

    @property
    def opening(self) -> "MaskedOpening":
        """How workers open its images."""
        return MaskedOpening(
            transform=self.backbone.image_transform(resize=False),
            patch=DenseTower(self.backbone.model).patch_size,
            sizes=self.sizes,
            reduce_zero_label=self.which.layout.reduce_zero_label,
            classes=len(self.which.class_names),
        )

    def compute(self, prepared: tuple[Windows, Tensor]) -> dict[str, Tensor]:
        """Return, by method, the `Cells` of one image."""
        windows, labels = prepared
        batch_size = self.asked.batch_size
        features = encode_windows(self.backbone, windows, method=self.patch_features, batch_size=batch_size)
        cells = {}
        for each in self.methods:
            begun = time.perf_counter()
            cells[each.name] = self._cells(each, features, labels)
            self.seconds[each.name] += time.perf_counter() - begun
        return cells

    def pack(self, computed: dict[str, Tensor]) -> tuple[dict[str, Any], bytes]:
        """Return how many cells each method has, and all of them in bytes."""
        content = b"".join(own.numpy().astype("<i4").tobytes() for own in computed.values())
        return {"cells": {name: len(own) for name, own in computed.items()}}, content

    def _cells(self, method: PixelMethod, features: DenseFeatures, labels: Tensor) -> Tensor:
        """Return the cells of an image's confusion matrix that are not 0: (cells, 2) int32 on the CPU.

        The position of a cell in the matrix, row by row, and its count.
        """
        predicted = segment_patches(
            method.head,
            features,
            aggregation=method.aggregation,
            threshold=self.which.layout.threshold,
            background=self.background,
        ).labels
        flat = confusion_matrix(labels, predicted, len(self.which.class_names)).flatten()
        positions = flat.nonzero()[:, 0]
        return torch.stack([positions, flat[positions]], dim=1).int().cpu()


def stored_cells(cache: Cache, images: Iterable[Seen]) -> list[dict[str, Tensor]]:
    """Return, by method, the cells of those images that could be scored, in order.

    Raises:
        FileNotFoundError: one of them is not in the cache.
    """
    found = []
    for entry, _ in cache.places(images):
        sizes = entry.content["cells"]
        cells = torch.from_numpy(np.frombuffer(entry.read(), "<i4").copy()).reshape(-1, 2)
        found.append(dict(zip(sizes, cells.split(list(sizes.values())), strict=True)))
    return found


def choose_methods(asked: ComparisonSettings, which: SegmentationSet) -> list[Method]:
    """Return the methods that are asked for, else `METHODS_PER_PIXEL`.

    Raises:
        ValueError: one that is not known, or has its texts drawn.
    """
    names = METHODS_PER_PIXEL if asked.methods is None else asked.methods
    found = replace(asked, methods=names).chosen(
        can_encode=True, has_descriptors=has_descriptors(which.synonyms)
    )
    if drawn := next((each.name for each in found if each.random), None):
        raise ValueError(
            f"methods: {drawn!r} draws its texts several times, and pixels are counted once; leave it out "
            f"with {which.name}, a benchmark of segmentation"
        )
    return found


@dataclass(frozen=True)
class MaskedOpening:
    """Opens an image with its mask, and cuts it into windows."""

    transform: ImageTransform
    patch: int
    sizes: WindowSizes
    reduce_zero_label: bool
    classes: int

    def read(self, sample: Sample) -> Sequence[bytes]:
        """Return the encoded image, and the mask that is its label."""
        return sample.read(), mask_content(sample.key, Path(str(sample.label)))

    def open(self, sample: Sample, content: Sequence[bytes]) -> tuple[Windows, Tensor]:
        """Return the windows, and the labels of the pixels."""
        image = open_image(content[0], name=sample.key)
        labels = mask_labels(content[1], sample.key, Path(str(sample.label)), self.reduce_zero_label)
        if tuple(labels.shape) != (image.height, image.width):
            raise ValueError(
                f"{sample.key}: the mask has {labels.shape[1]} x {labels.shape[0]} pixels, the picture "
                f"{image.width} x {image.height}"
            )
        outside = labels[(labels != IGNORED) & ((labels < 0) | (labels >= self.classes))]
        if len(outside):
            raise ValueError(
                f"{sample.key}: the mask has a label {int(outside[0])}; expected positions of {self.classes} "
                f"classes, or {IGNORED}"
            )
        # A quarter of the bytes on the way from a worker.
        return cut_windows(image, self.transform, self.patch, self.sizes), labels.to(torch.int16)

    def prepare(self, opened: Iterator[tuple[Windows, Tensor]]) -> tuple[Windows, Tensor] | None:
        """Return the one image of a shard, if it is new."""
        found = list(opened)
        return found[0] if found else None
