"""Views of a picture: the plain one, and random crops and flips, made on the device and encoded.

A picture is decoded once; its crops are cut from it and resized there. The draws depend on the seed and on
the picture's own pixels alone, and the views of one picture go through the image tower apart from those of
others: which pictures stand beside it, and in what order, changes nothing.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from s3clip.arguments import is_count, is_number
from s3clip.backbone.backbone import Backbone
from s3clip.images.augmix import augmix

PIXEL_NUMBERS = 2**23
"""Pixel values of views held at once, 32 MiB in float32: 55 views of 224 x 224. The image tower adds what it
needs for a batch of so many."""

RATIOS = (3 / 4, 4 / 3)
"""Between these lies a view's width to its height as against the plain view's: how much it is stretched."""

PROBE_SIDE = 64
"""Shorter side of the pictures that show what a processor does."""

LARGEST_SIDE = 2
"""A picture is first shrunk until its shorter side is this many times the view's."""


@dataclass(frozen=True)
class ViewSettings:
    """Which views are made of a picture.

    Attributes:
        views: how many, the plain one among them.
        seed: of the draws.
        crop_area: the smallest share of the picture's area that a crop shows, in (0, 1]. Small crops do much
            harm on photos of one thing that fills them (docs/adaptation.md).
        augmix: mix each crop with distorted copies of itself.
    """

    views: int = 64
    seed: int = 0
    crop_area: float = 0.8
    augmix: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if not is_count(self.views):
            raise ValueError(f"views: expected a whole number >= 1, got {self.views!r}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"seed: expected a whole number, got {self.seed!r}")
        if not (is_number(self.crop_area) and 0 < self.crop_area <= 1):
            raise ValueError(f"crop_area: expected a share of the area in (0, 1], got {self.crop_area!r}")


class Crop(NamedTuple):
    """A box of a picture in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool


def random_crops(
    height: int, width: int, count: int, generator: torch.Generator, crop_area: float, ratio: float = 1.0
) -> list[Crop]:
    """Draw crops: area uniform from `crop_area` to 1, ratio log-uniform in `RATIOS`, place and flip uniform.

    As torchvision's `RandomResizedCrop`, but that a box which is too wide or too high is cut to the picture.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        count: how many.
        generator: on the CPU, so that every device gets the same boxes.
        crop_area: the smallest share of the area.
        ratio: of width to height where `RATIOS` says 1.
    """
    draws = torch.rand(count, 5, generator=generator, dtype=torch.float64).tolist()
    low, high = map(math.log, RATIOS)
    crops = []
    for area, stretch, down, across, flip in draws:
        pixels = (crop_area + (1 - crop_area) * area) * height * width
        shape = ratio * math.exp(low + (high - low) * stretch)
        own_height = min(height, max(1, round(math.sqrt(pixels / shape))))
        own_width = min(width, max(1, round(math.sqrt(pixels * shape))))
        top, left = int(down * (height - own_height + 1)), int(across * (width - own_width + 1))
        crops.append(Crop(top, left, own_height, own_width, flip < 0.5))
    return crops


def cut(picture: Tensor, crop: Crop, size: tuple[int, int]) -> Tensor:
    """Return a crop at the size of a view, by antialiased bicubic interpolation.

    Args:
        picture: (3, height, width) in [0, 1].
        crop: the box.
        size: (height, width) of the view.

    Returns:
        (3, *size) in [0, 1].
    """
    box = picture[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    view = interpolate(box[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
    return view.flip(-1) if crop.flipped else view


def picture_generator(picture: Image.Image, seed: int) -> torch.Generator:
    """Return a random generator of a picture's own, on the CPU: the same for equal pixels and seeds."""
    digest = hashlib.blake2b(f"{seed} {picture.size} ".encode(), digest_size=8)
    digest.update(picture.tobytes())
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)


class Processor:
    """What an image processor does to pictures, read off pictures that show it; cheap, and right for any.

    Args:
        backbone: a model that reads pixels on a grid.

    Raises:
        ValueError: a model that reads patches.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        side = (PROBE_SIDE, PROBE_SIDE)
        self._black, self._white = (
            self.view(Image.new("RGB", side, colour))[0, :, :1, :1] for colour in ("black", "white")
        )
        self._ratios: dict[tuple[int, int], float] = {}

    def view(self, picture: Image.Image) -> Tensor:
        """Return the plain view, (1, 3, height, width)."""
        inputs = self.backbone.preprocess([picture])
        pixels = inputs["pixel_values"]
        if len(inputs) > 1 or pixels.ndim != 4:
            raise ValueError(
                f"views: {type(self.backbone.model).__name__} reads {', '.join(inputs)} of shape "
                f"{tuple(pixels.shape)}, not pixels on a grid; make the views yourself and give their "
                f"embeddings as image_embeds= of shape (images, views, dim)"
            )
        return pixels

    def scaled(self, pixels: Tensor) -> Tensor:
        """Return pixels in [0, 1], (n, 3, height, width), scaled and shifted as the model reads them."""
        return self._black + (self._white - self._black) * pixels

    def crop_ratio(self, picture: Image.Image) -> float:
        """Return the ratio of width to height of a crop that is stretched as the plain view is.

        1 where a processor keeps shapes and views are square; that of the picture where it squeezes
        pictures into a square: a model that was trained so knows squeezed things alone. Rounded to a
        twentieth, so that a model in half precision gets the same crops.
        """
        scale = PROBE_SIDE / min(picture.size)
        width, height = (max(1, round(scale * side)) for side in picture.size)
        if (width, height) not in self._ratios:
            across = torch.linspace(0, 255, width).expand(height, width)
            down = torch.linspace(0, 255, height)[:, None].expand(height, width)
            ramps = torch.stack([across, down, torch.zeros_like(down)], dim=-1).round().byte()
            view = self.view(Image.fromarray(ramps.numpy()))
            values = ((view - self._black) / (self._white - self._black))[0].float()
            # Over the middle half of the view, where nothing is padded.
            rows, columns = values.shape[1:]
            top, left = rows // 4, columns // 4
            seen_across = (values[0, :, -1 - left] - values[0, :, left]).median() * width
            seen_down = (values[1, -1 - top] - values[1, top]).median() * height
            self._ratios[width, height] = max(1, round(20 * float(seen_across / seen_down))) / 20
        return self._ratios[width, height]


@torch.no_grad()
def encode_views(backbone: Backbone, pictures: Sequence[Image.Image], settings: ViewSettings) -> Tensor:
    """Return the unit embeddings of the views of pictures, in the dtype that the model gives.

    View 0 is the plain picture, preprocessed as the model's own processor does it; the others get the
    processor's scaling of pixel values, and are stretched about as much as view 0 is. At most
    `PIXEL_NUMBERS` pixel values are held at once.

    Args:
        backbone: a model that reads pixels on a grid.
        pictures: RGB pictures.
        settings: which views.

    Returns:
        (pictures, views, dim) on the model's device.

    Raises:
        ValueError: a model that reads patches.
    """
    processor = Processor(backbone)
    encoded = []
    for picture in pictures:
        picture = picture.convert("RGB")
        plain = processor.view(picture)
        height, width = plain.shape[-2:]
        small = _shrunk(picture, LARGEST_SIDE * min(height, width), backbone.device)
        generator = picture_generator(picture, settings.seed)
        ratio = processor.crop_ratio(picture)
        crops = random_crops(
            small.shape[1], small.shape[2], settings.views - 1, generator, settings.crop_area, ratio
        )
        rows = [backbone.encode_images(plain)]
        step = max(1, PIXEL_NUMBERS // plain.numel())
        for start in range(0, len(crops), step):
            views = [cut(small, crop, (height, width)) for crop in crops[start : start + step]]
            if settings.augmix:
                views = [augmix(view, generator) for view in views]
            rows.append(backbone.encode_images(processor.scaled(torch.stack(views))))
        encoded.append(torch.cat(rows))
    if not encoded:
        return torch.zeros(0, settings.views, backbone.dim, device=backbone.device, dtype=backbone.dtype)
    return torch.stack(encoded)


def _shrunk(picture: Image.Image, side: int, device: torch.device) -> Tensor:
    """(3, height, width) float32 in [0, 1] on the device, its shorter side no longer than `side`."""
    pixels = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1).float() / 255
    height, width = pixels.shape[1:]
    if min(height, width) <= side:
        return pixels
    size = (
        (max(side, height * side // width), side)
        if width < height
        else (side, max(side, width * side // height))
    )
    return interpolate(pixels[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
