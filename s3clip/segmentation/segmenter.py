"""Pictures in, labels of pixels out: features of every patch once, then a head, as often as one likes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from s3clip.arguments import is_count, is_number
from s3clip.backbone.backbone import Backbone
from s3clip.images.opening import open_image
from s3clip.segmentation.dense import DenseTower, check_method
from s3clip.segmentation.rle import encode_rle
from s3clip.segmentation.scores import best_class, class_probabilities, softmax_then_max
from s3clip.segmentation.windows import PatchLogits, Tiling, cut, tile, working_size
from s3clip.space.synonymous_space import unit_vectors

if TYPE_CHECKING:
    from s3clip.head import SynonymousSpaceHead

AGGREGATIONS = ("space", "softmax_then_max")
MAX_BYTES = 64 * 2**20
"""More is not faster: rows then leave the cache of the processor."""
PATCHES_AT_ONCE = 4096


class Sizes(NamedTuple):
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


class Segmentation:
    """Which class every pixel of a picture shows.

    Attributes:
        labels: (height, width) int16 on the CPU: positions of classes, -1 where no class reaches the
            threshold.
        class_names: of the head, in the order of the labels.
        class_ids: their ids in the synonym file, None where it gives none.
        background: the class that pixels below the threshold got, if any.
    """

    def __init__(
        self,
        patches: PatchLogits,
        probabilities: Callable[[Tensor], Tensor],
        labels: Tensor,
        class_names: list[str],
        class_ids: list[int | str | None],
        background: int | None,
    ) -> None:
        self._patches = patches
        self._probabilities = probabilities
        self.labels = labels
        self.class_names = class_names
        self.class_ids = class_ids
        self.background = background

    @property
    def logits(self) -> Tensor:
        """(columns, rows, width) logits at the size at which the picture was encoded, made when asked for.

        The columns are classes; with `aggregation="softmax_then_max"` they are texts.
        """
        return self._patches.working_rows(0, self._patches.tiling.height)

    def probabilities(self, which: int | str | None = None, *, max_bytes: int = MAX_BYTES) -> Tensor:
        """Return the probability of one class at every pixel: (height, width) float32 on the CPU.

        Args:
            which: its position, or its name if no other class has it; None: at each pixel the best class.
            max_bytes: as for `segment`.
        """
        position = None if which is None else class_position(self.class_names, which)
        parts = (self._probabilities(part) for part in _row_parts(self._patches, max_bytes))
        rows = [part.amax(0) if position is None else part[position] for part in parts]
        return torch.cat([row.float().cpu() for row in rows])

    def areas(self) -> list[dict[str, Any]]:
        """Return the classes that are there, the largest first: label, class_index, class_id, pixels, share.

        Pixels of no class are not among them.
        """
        found, counts = self.labels.unique(return_counts=True)
        pairs = sorted(
            zip(found.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])
        )
        return [
            {
                "label": self.class_names[i],
                "class_index": i,
                "class_id": self.class_ids[i],
                "pixels": pixels,
                "share": pixels / self.labels.numel(),
            }
            for i, pixels in pairs
            if i >= 0
        ]

    def to_image(self) -> Image.Image:
        """Return the labels as a palette picture in the manner of Pascal VOC, 255 for no class.

        Raises:
            ValueError: more than 255 classes.
        """
        from s3clip.segmentation.pictures import palette_image

        return palette_image(self.labels, self.class_names)

    def to_coco_rle(self) -> list[dict[str, Any]]:
        """Return the mask of every class that is there, as `areas` with COCO's "segmentation" added."""
        return [
            {**area, "segmentation": encode_rle(self.labels == area["class_index"])} for area in self.areas()
        ]

    def to_pipeline(self) -> list[dict[str, Any]]:
        """Return what transformers' image-segmentation pipeline does: label, score, mask.

        The mask is a picture of mode "L", 255 where the class is. The score is the mean probability of the
        class over these pixels (the pipeline gives None for semantic masks).
        """
        areas = self.areas()
        totals = dict.fromkeys((area["class_index"] for area in areas), 0.0)
        start = 0
        for part in _row_parts(self._patches, MAX_BYTES):
            probabilities = self._probabilities(part).float().cpu()
            labels = self.labels[start : start + part.shape[1]].long()
            start += part.shape[1]
            of_pixel = probabilities.gather(0, labels.clamp(min=0)[None])[0]
            for i in totals:
                totals[i] += float(of_pixel[labels == i].double().sum())
        return [
            {
                "label": area["label"],
                "score": totals[area["class_index"]] / area["pixels"],
                "mask": Image.fromarray(((self.labels == area["class_index"]).numpy() * 255).astype("uint8")),
            }
            for area in areas
        ]

    def __repr__(self) -> str:
        """Say how large it is and what it shows most."""
        height, width = self.labels.shape
        shown = ", ".join(f"{area['label']} {area['share']:.0%}" for area in self.areas()[:5])
        return f"Segmentation({width} x {height} pixels: {shown})"


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
    if not is_count(batch_size):
        raise ValueError(f"batch_size: expected a whole number >= 1, got {batch_size!r}")
    transform = backbone.image_transform(resize=False)
    windows = cut_windows(open_image(image), transform, tower.patch_size, sizes)
    return encode_windows(backbone, windows, method=method, batch_size=batch_size)


def window_sizes(tower: DenseTower, window: int | None, stride: int | None, short_side: int | None) -> Sizes:
    """Return the sizes that are meant, in pixels: for what is None, those of the model's own images.

    Raises:
        ValueError: a size that is no whole number >= 1, or a stride beyond the window.
    """
    window = tower.image_size if window is None else window
    stride = max(1, window // 2) if stride is None and is_count(window) else stride
    short_side = 3 * window // 2 if short_side is None and is_count(window) else short_side
    for name, value in (("window", window), ("stride", stride), ("short_side", short_side)):
        if not is_count(value):
            raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
    assert stride is not None  # counts, as just checked
    assert short_side is not None
    if stride > window:
        raise ValueError(f"stride: expected no more than the window, {window}, for no gaps; got {stride}")
    return Sizes(window, stride, short_side)


def cut_windows(
    picture: Image.Image,
    transform: Callable[[list[Image.Image]], dict[str, Tensor]],
    patch: int,
    sizes: Sizes,
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
    head: "SynonymousSpaceHead",
    features: DenseFeatures,
    *,
    aggregation: str = "space",
    threshold: float | None = None,
    background: int | str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Segmentation:
    """Return the labels of a picture whose patches were encoded; for the arguments see `segment`."""
    names = head.class_names
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation: expected one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"threshold: expected a probability in [0, 1], got {threshold!r}")
    if background is not None and threshold is None:
        raise ValueError("background: it is what pixels below the threshold get; give threshold= too")
    if not is_count(max_bytes):
        raise ValueError(f"max_bytes: expected a whole number >= 1, got {max_bytes!r}")
    nothing = None if background is None else class_position(names, background)
    by_text = aggregation == "softmax_then_max"
    rows = features.patches.flatten(0, 2).split(PATCHES_AT_ONCE)
    logits = torch.cat([_text_logits(head, part) if by_text else head(image_embeds=part) for part in rows])
    windows, tall, wide, _ = features.patches.shape
    patches = PatchLogits(
        logits.float().unflatten(0, (windows, tall, wide)).permute(0, 3, 1, 2).contiguous(),
        features.tiling,
        features.patch,
        features.size,
    )
    owners = head.space.owners
    activation = head.activation

    def probabilities(part: Tensor) -> Tensor:
        if by_text:
            return softmax_then_max(part, owners, len(names))
        return class_probabilities(part, activation)

    # Without a threshold logits rank classes as their probabilities do.
    needed = by_text or threshold is not None
    labels = [
        best_class(probabilities(part) if needed else part, threshold, nothing).to("cpu", torch.int16)
        for part in _row_parts(patches, max_bytes)
    ]
    ids = [fitted.id for fitted in head.classes]
    return Segmentation(patches, probabilities, torch.cat(labels), names, ids, nothing)


def segment(head: "SynonymousSpaceHead", images: Any, **settings: Any) -> list[Segmentation]:
    """Segment one or several pictures: `SynonymousSpaceHead.segment`."""
    if head.backbone is None:
        raise ValueError("segment: this head has no backbone, and patches need its image tower")
    head.space  # noqa: B018  # an unfitted head is named before anything is encoded
    listed = list(images) if isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4 else [images]
    scoring = {
        key: settings.pop(key)
        for key in ("aggregation", "threshold", "background", "max_bytes")
        if key in settings
    }
    return [
        segment_patches(head, encode_patches(head.backbone, image, **settings), **scoring) for image in listed
    ]


def class_position(class_names: list[str], which: int | str) -> int:
    """Return the position of a class.

    Raises:
        ValueError: a position out of range, or a name that no class or several classes have.
    """
    positions = [i for i, name in enumerate(class_names) if name == which or i == which]
    if isinstance(which, bool) or not isinstance(which, int | str) or len(positions) != 1:
        raise ValueError(
            f"class: expected a position below {len(class_names)} or the name of one class, got {which!r}"
        )
    return positions[0]


def _text_logits(head: "SynonymousSpaceHead", patches: Tensor) -> Tensor:
    """Return the logits of unit embeddings against every text as it was given: (patches, texts)."""
    texts = unit_vectors(head.space.raw)
    return unit_vectors(patches).to(texts) @ texts.T * head.logit_scale.to(texts)


def _row_parts(patches: PatchLogits, max_bytes: int) -> Iterator[Tensor]:
    height, step = patches.size[0], patches.rows_at_once(max_bytes)
    return (patches.rows(start, min(start + step, height)) for start in range(0, height, step))
