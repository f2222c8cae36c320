"""Pictures in, labels of pixels out: features of every patch once, then a head, as often as one likes."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from s3clip.arguments import is_number, plain, whole_number
from s3clip.backbone.backbone import Backbone
from s3clip.class_space import Calibration, FittedClass, class_position
from s3clip.images.opening import one_or_several, open_image
from s3clip.segmentation.dense import DenseTower, check_method
from s3clip.segmentation.result import MAX_BYTES, Segmentation, row_parts
from s3clip.segmentation.scores import best_class, softmax_then_max
from s3clip.segmentation.windows import PatchLogits, Tiling, cut, tile, working_size
from s3clip.space.synonymous_space import SynonymousSpace, unit_vectors

AGGREGATIONS = ("space", "softmax_then_max")
PATCHES_AT_ONCE = 4096


class SegmentingHead(Protocol):
    """What segmentation reads of a head."""

    backbone: Backbone | None

    @property
    def classes(self) -> Sequence[FittedClass]:
        """The classes, in the order of the logits."""

    @property
    def space(self) -> SynonymousSpace:
        """The spaces of all classes."""

    @property
    def logit_scale(self) -> Tensor:
        """() multiplies the scores."""

    @property
    def current_calibration(self) -> Calibration:
        """How logits become probabilities."""

    @property
    def share_offsets(self) -> Tensor | None:
        """(classes,) what the shares of the classes add to the logits."""

    def word_logits(self, image_embeds: Tensor, /) -> Tensor:
        """Return (batch, classes) logits of (batch, dim) embeddings, without what labelled images add."""


class WindowSizes(NamedTuple):
    """How a picture is cut into windows, in pixels.

    Attributes:
        window: height and width of a window.
        stride: from one window to the next.
        short_side: what the shorter side of the picture is resized to before.
    """

    window: int
    stride: int
    short_side: int


class Windows(NamedTuple):
    """The windows of a picture, as an image tower reads them.

    Attributes:
        pixels: (windows, channels, height, width) floating point, on the CPU.
        tiling: where they lie in the resized picture.
        size: height and width of the picture as it came.
    """

    pixels: Tensor
    tiling: Tiling
    size: tuple[int, int]


@dataclass(frozen=True)
class DenseFeatures:
    """The unit embeddings of every patch of every window of one picture.

    Attributes:
        patches: (windows, rows, columns, dim).
        tiling: the windows.
        patch: pixels of a patch.
        size: height and width of the picture as it came.
    """

    patches: Tensor
    tiling: Tiling
    patch: int
    size: tuple[int, int]


def encode_patches(
    backbone: Backbone,
    image: Any,
    *,
    method: str = "sclip",
    window: int | None = None,
    stride: int | None = None,
    short_side: int | None = None,
    batch_size: int = 8,
) -> DenseFeatures:
    """Return the embeddings of all patches of a picture; for the arguments see `segment`."""
    tower = DenseTower(backbone.model)
    check_method(method)
    sizes = window_sizes(tower, window, stride, short_side)
    batch_size = whole_number(batch_size, "batch_size")
    transform = backbone.image_transform(resize=False)
    windows = cut_windows(open_image(image), transform, tower.patch_size, sizes)
    return encode_windows(backbone, windows, method=method, batch_size=batch_size)


def window_sizes(
    tower: DenseTower, window: int | None, stride: int | None, short_side: int | None
) -> WindowSizes:
    """Return the sizes that are meant, in pixels: for what is None, those of the model's own images.

    Raises:
        ValueError: a size that is no whole number >= 1, or a stride beyond the window.
    """
    window = tower.image_size if window is None else whole_number(window, "window")
    stride = max(1, window // 2) if stride is None else whole_number(stride, "stride")
    short_side = 3 * window // 2 if short_side is None else whole_number(short_side, "short_side")
    if stride > window:
        raise ValueError(f"stride: expected no more than the window, {window}, for no gaps; got {stride}")
    return WindowSizes(window, stride, short_side)


def cut_windows(
    picture: Image.Image,
    transform: Callable[[list[Image.Image]], dict[str, Tensor]],
    patch: int,
    sizes: WindowSizes,
) -> Windows:
    """Resize a picture, preprocess it and cut it into windows: what the workers of a loader can do.

    Args:
        picture: in RGB.
        transform: `Backbone.image_transform(resize=False)`.
        patch: pixels of a patch.
        sizes: see `window_sizes`.
    """
    size = (picture.height, picture.width)
    height, width = working_size(*size, sizes.short_side)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    tiling = tile(height, width, sizes.window, sizes.stride)
    pixels = transform([resized])["pixel_values"][0]
    return Windows(torch.stack(list(cut(pixels, tiling, patch))), tiling, size)


@torch.inference_mode()
def encode_windows(backbone: Backbone, windows: Windows, *, method: str, batch_size: int) -> DenseFeatures:
    """Return the embeddings of all patches of windows, so many of them at once through the image tower."""
    tower = DenseTower(backbone.model)
    found = [
        tower.features(part.to(backbone.device, backbone.dtype), method)
        for part in windows.pixels.split(batch_size)
    ]
    return DenseFeatures(torch.cat(found), windows.tiling, tower.patch_size, windows.size)


@torch.inference_mode()
def segment_patches(
    head: SegmentingHead,
    features: DenseFeatures,
    *,
    aggregation: str = "space",
    threshold: float | None = None,
    background: int | str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Segmentation:
    """Return the labels of a picture whose patches were encoded; for the arguments see `segment`."""
    names = [each.name for each in head.classes]
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation: expected one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")
    threshold = plain(threshold)
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"threshold: expected a probability in [0, 1], got {threshold!r}")
    if background is not None and threshold is None:
        raise ValueError("background: it is what pixels below the threshold get; give threshold= too")
    max_bytes = whole_number(max_bytes, "max_bytes")
    nothing = None if background is None else class_position(names, background, "background")
    by_text = aggregation == "softmax_then_max"
    rows = features.patches.flatten(0, 2).split(PATCHES_AT_ONCE)
    logits = torch.cat([_text_logits(head, part) if by_text else head.word_logits(part) for part in rows])
    windows, tall, wide, _ = features.patches.shape
    patches = PatchLogits(
        logits.float().unflatten(0, (windows, tall, wide)).permute(0, 3, 1, 2).contiguous(),
        features.tiling,
        features.patch,
        features.size,
    )
    owners = head.space.owners
    calibration = head.current_calibration

    def probabilities(part: Tensor) -> Tensor:
        if by_text:
            return softmax_then_max(part, owners, len(names))
        return calibration.probabilities(part, dim=0)

    # Without a threshold logits rank classes as their probabilities do.
    needed = by_text or threshold is not None
    labels = [
        best_class(probabilities(part) if needed else part, threshold, nothing).to("cpu", torch.int32)
        for part in row_parts(patches, max_bytes)
    ]
    ids = [fitted.id for fitted in head.classes]
    return Segmentation(patches, probabilities, torch.cat(labels), names, ids, nothing)


def segment(
    head: SegmentingHead,
    images: Any,
    *,
    method: str = "sclip",
    window: int | None = None,
    stride: int | None = None,
    short_side: int | None = None,
    aggregation: str = "space",
    threshold: float | None = None,
    background: int | str | None = None,
    batch_size: int = 8,
    max_bytes: int = MAX_BYTES,
) -> list[Segmentation]:
    """Return which class every pixel of every picture shows.

    Args:
        head: fitted, with a backbone.
        images: one or several, as for `predict`.
        method: where embeddings of patches come from: `s3clip.segmentation.dense.PATCH_FEATURES`.
        window: side in pixels of the windows that are encoded; None: the size of the model's images.
        stride: from one window to the next; None: half a window.
        short_side: pixels that the short side of a picture is resized to first, the long side to 2,048 at
            most; None: one and a half windows. With a model for 224 pixels the three are the published 224,
            112 and 336.
        aggregation: "space" scores the synonymous space of each class, as `forward` does; "softmax_then_max"
            is the usual baseline, a softmax over all texts and the best of each class.
        threshold: pixels whose best class is less probable show nothing; a probability in [0, 1], as of
            `head.probabilities`: calibrated, if the head is.
        background: the class that such pixels get, by position or name; None: -1.
        batch_size: windows per call of the image tower.
        max_bytes: what logits of pixels may take at once; those of patches, and the image tower, come on top.
            At least one row of pixels is computed.

    Returns:
        One for each picture, in the order given, at its own size.

    Raises:
        TypeError: a backbone whose patches have no known embeddings.
        ValueError: not fitted, no backbone, or a setting out of range.
        FileNotFoundError: a path that does not exist.

    Examples:
        >>> head.segment(images[7])[0].labels.shape
        torch.Size([32, 32])
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    if head.backbone is None:
        raise ValueError("segment: this head has no backbone, and patches need its image tower")
    head.space  # noqa: B018  # an unfitted head is named before anything is encoded
    found = []
    for image in one_or_several(images):
        features = encode_patches(
            head.backbone,
            image,
            method=method,
            window=window,
            stride=stride,
            short_side=short_side,
            batch_size=batch_size,
        )
        found.append(
            segment_patches(
                head,
                features,
                aggregation=aggregation,
                threshold=threshold,
                background=background,
                max_bytes=max_bytes,
            )
        )
    return found


def _text_logits(head: SegmentingHead, patches: Tensor) -> Tensor:
    """Return the logits of unit embeddings against every text as it was given: (patches, texts)."""
    texts = unit_vectors(head.space.raw)
    logits = unit_vectors(patches).to(texts) @ texts.T * head.logit_scale.to(texts)
    offsets = head.share_offsets
    return logits if offsets is None else logits + offsets[head.space.owners].to(logits)
