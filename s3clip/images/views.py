"""Views of a picture: random crops and flips of it, which depend on the seed and on its own pixels alone."""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from s3clip.arguments import is_number, is_whole, plain, whole_number

RATIOS = (3 / 4, 4 / 3)
"""Between these lies a view's width to its height as against the plain view's: how much it is stretched."""


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
        object.__setattr__(self, "views", whole_number(self.views, "views"))
        for name in ("seed", "crop_area"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if not is_whole(self.seed):
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


def shrunk(picture: Image.Image, side: int, device: torch.device) -> Tensor:
    """Return (3, height, width) float32 in [0, 1] on the device, its shorter side no longer than `side`."""
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
