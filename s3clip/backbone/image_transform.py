"""Images to what an image tower reads, apart from any model: for this process or the workers of a loader."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from s3clip.images.opening import open_image, runs_of_pictures

_SIZES = (
    "shortest_edge",
    "height",
    "width",
    "longest_edge",
    "max_height",
    "max_width",
    "min_pixels",
    "max_pixels",
)
_ONE_SIZE = ({"shortest_edge"}, {"height", "width"})


@dataclass(frozen=True)
class ImageTransform:
    """PIL images in, the arguments of `Backbone.encode_images` out, on the CPU. It can be pickled.

    Attributes:
        processor: an image processor of transformers, or a function of one image.
        of_one_image: whether it is the latter, as in open_clip.
        inputs: which of its outputs the image tower reads.
        resize: whether images are brought to the model's size, else their values are scaled alone.
        near_size: whether whoever opens the pictures decodes JPEGs near that size, see `needed`.
    """

    processor: Any
    of_one_image: bool
    inputs: tuple[str, ...]
    resize: bool = True
    near_size: bool = False

    @property
    def needed(self) -> int | None:
        """What `open_image` is told of the pictures: the longer side of the target; None: open them whole."""
        return target_side(self.processor, self.of_one_image) if self.near_size else None

    def __call__(self, images: Iterable[Image.Image]) -> dict[str, Tensor]:
        """Return the arguments for images of any mode, read as RGB; for none, an empty dict.

        Where they are opened as they are asked for, no more than a run of them, see `runs_of_pictures`, is
        held at once.
        """
        outputs = []
        for run in runs_of_pictures(images):
            outputs.append(self._of_run(run))
            del run
        if len(outputs) < 2:
            return outputs[0] if outputs else {}
        return {key: torch.cat([own[key] for own in outputs]) for key in outputs[0]}

    def _of_run(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        colour = [image if image.mode == "RGB" else open_image(image) for image in images]
        if self.of_one_image:
            return {"pixel_values": torch.stack([self.processor(image) for image in colour])}
        unresized = {} if self.resize else dict.fromkeys(("do_resize", "do_center_crop", "do_pad"), False)
        outputs = self.processor(images=colour, return_tensors="pt", **unresized)
        return {key: outputs[key] for key in self.inputs if key in outputs}


def target_side(processor: Any, of_one_image: bool) -> int:
    """Return the longer side, in pixels, that images are brought to, or the shorter where that one is given.

    A picture that is larger than that on both sides is made smaller, in whichever way: cut at its middle,
    squashed, or turned before.

    Raises:
        ValueError: it is not one and the same for all pictures (NaFlex), or not known.
    """
    if of_one_image:  # a composition of torchvision, or one that is made like it
        steps = [own for own in getattr(processor, "transforms", ()) if type(own).__name__ == "Resize"]
        size = getattr(steps[0], "size", None) if steps else None
        sides: list[Any] = [size] if isinstance(size, int) else list(size or ())
    else:
        given: Any = getattr(processor, "size", None)  # a mapping, or an object that stands for one
        found = {
            key: given.get(key) if isinstance(given, Mapping) else getattr(given, key, None) for key in _SIZES
        }
        named = {key: side for key, side in found.items() if side is not None}
        is_fixed = getattr(processor, "do_resize", False) and set(named) in _ONE_SIZE
        sides = list(named.values()) if is_fixed else []
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(
            f"near_size: {type(processor).__name__} says no one size that it brings all pictures to, so they "
            "cannot be decoded near it; leave near_size out"
        )
    return int(max(sides))


def checked_images(images: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Give the images; raise ValueError for none, TypeError for something else than PIL images."""
    count = 0  # `enumerate` would hold an image while the next one is opened
    for image in images:
        if not isinstance(image, Image.Image):
            raise TypeError(f"images: expected PIL images, got {type(image).__name__} at position {count}")
        count += 1
        yield image
        del image
    if count == 0:
        raise ValueError("images: expected at least one image, got none")


def check_pixels(
    model: str, accepted: tuple[str, ...], pixel_values: Tensor, image_inputs: Mapping[str, Any]
) -> None:
    """Raise TypeError for pixels, or inputs beside them, that the image tower of a model does not read."""
    for key in image_inputs:
        if key not in accepted:
            raise TypeError(
                f"{key}: the image tower of {model} does not read it; it reads {('pixel_values', *accepted)}"
            )
    if "spatial_shapes" in accepted and "spatial_shapes" not in image_inputs:
        raise TypeError(
            f"spatial_shapes: {model} needs it and pixel_attention_mask; pass all that preprocess gives"
        )
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"pixel_values: expected preprocessed, floating-point pixels, got {pixel_values.dtype}; use "
            "preprocess for raw images"
        )
