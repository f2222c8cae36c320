"""What a segmentation found: the class of every pixel, and in which forms it can be had."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from s3clip.class_space import class_position
from s3clip.segmentation.palette import palette_image
from s3clip.segmentation.rle import encode_rle
from s3clip.segmentation.windows import PatchLogits

MAX_BYTES = 64 * 2**20
"""More is not faster: rows then leave the cache of the processor."""


class Segmentation:
    """Which class every pixel of a picture shows.

    Attributes:
        labels: (height, width) int32 on the CPU: positions of classes, -1 where no class reaches the
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
        parts = (self._probabilities(part) for part in row_parts(self._patches, max_bytes))
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
        for part in row_parts(self._patches, MAX_BYTES):
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


def row_parts(patches: PatchLogits, max_bytes: int) -> Iterator[Tensor]:
    """Yield the (columns, rows, width) logits of a few rows of pixels at a time."""
    height, step = patches.size[0], patches.rows_at_once(max_bytes)
    return (patches.rows(start, min(start + step, height)) for start in range(0, height, step))
