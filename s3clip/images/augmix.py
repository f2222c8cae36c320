"""AugMix (Hendrycks et al. 2020): a picture mixed with distorted copies of itself. Pure, on tensors.

Three chains of one to three distortions, mixed with Dirichlet(1, 1, 1) weights, and the mix with the picture
by a Beta(1, 1) weight; the distortions and their strengths are those of the authors' code at severity 1.
Values stay in [0, 1].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

CHAINS = 3
LONGEST_CHAIN = 3
SEVERITY = 1.0


def augmix(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Return a picture mixed with distorted copies of itself.

    Args:
        picture: (3, height, width) in [0, 1].
        generator: on the CPU.

    Returns:
        The same shape, in [0, 1].
    """
    # Exponential draws in proportion to their sum are Dirichlet(1, ..., 1).
    waits = -torch.rand(CHAINS, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
    shares = (waits / waits.sum()).tolist()
    kept = _uniform(generator, 0, 1)
    mixed = kept * picture
    for share in shares:
        distorted = picture
        for _ in range(1 + int(_uniform(generator, 0, LONGEST_CHAIN))):
            distortion = DISTORTIONS[int(_uniform(generator, 0, len(DISTORTIONS)))]
            level = _uniform(generator, 0.1, SEVERITY) / 10
            sign = 1 if _uniform(generator, 0, 1) < 0.5 else -1
            distorted = distortion(distorted, level, sign)
        mixed = mixed + (1 - kept) * share * distorted
    return mixed.clamp(0, 1)


def autocontrast(picture: Tensor, level: float, sign: int) -> Tensor:
    """Stretch each channel to [0, 1]; a channel of one value stays."""
    low, high = picture.amin((1, 2), keepdim=True), picture.amax((1, 2), keepdim=True)
    return torch.where(high > low, (picture - low) / (high - low).clamp_min(1e-6), picture)


def equalize(picture: Tensor, level: float, sign: int) -> Tensor:
    """Spread the 256 values of each channel evenly: a pixel becomes the share of pixels below it."""
    flat = (picture * 255).round().long().flatten(1)
    counts = torch.zeros(len(flat), 256, device=picture.device).scatter_add_(
        1, flat, torch.ones_like(flat, dtype=torch.float32)
    )
    below = counts.cumsum(1) - counts
    # The last value that occurs becomes 1. A channel of one value stays.
    most = below.gather(1, flat.amax(1, keepdim=True))
    spread = (below / most.clamp_min(1)).gather(1, flat).view_as(picture)
    return torch.where(most[..., None] > 0, spread, picture)


def posterize(picture: Tensor, level: float, sign: int) -> Tensor:
    """Keep the leading 4 bits, fewer at a higher level."""
    steps = 2 ** (8 - (4 - int(level * 4)))
    kept: Tensor = ((picture * 255).round() / steps).floor() * steps / 255
    return kept


def solarize(picture: Tensor, level: float, sign: int) -> Tensor:
    """Invert the values above a threshold."""
    return torch.where(picture < 1 - level, picture, 1 - picture)


def rotate(picture: Tensor, level: float, sign: int) -> Tensor:
    """Turn by up to 30 degrees at level 1."""
    angle = sign * math.radians(level * 30)
    across, down = picture.shape[2], picture.shape[1]
    sin, cos = math.sin(angle), math.cos(angle)
    return _affine(picture, [[cos, -sin * down / across, 0.0], [sin * across / down, cos, 0.0]])


def shear_x(picture: Tensor, level: float, sign: int) -> Tensor:
    """Shift rows by up to 0.3 of their distance at level 1."""
    return _affine(
        picture, [[1.0, sign * level * 0.3 * picture.shape[1] / picture.shape[2], 0.0], [0.0, 1.0, 0.0]]
    )


def shear_y(picture: Tensor, level: float, sign: int) -> Tensor:
    """Shift columns by up to 0.3 of their distance at level 1."""
    return _affine(
        picture, [[1.0, 0.0, 0.0], [sign * level * 0.3 * picture.shape[2] / picture.shape[1], 1.0, 0.0]]
    )


def translate_x(picture: Tensor, level: float, sign: int) -> Tensor:
    """Shift by up to a third of the width at level 1."""
    return _affine(picture, [[1.0, 0.0, sign * level * 2 / 3], [0.0, 1.0, 0.0]])


def translate_y(picture: Tensor, level: float, sign: int) -> Tensor:
    """Shift by up to a third of the height at level 1."""
    return _affine(picture, [[1.0, 0.0, 0.0], [0.0, 1.0, sign * level * 2 / 3]])


DISTORTIONS: tuple[Callable[[Tensor, float, int], Tensor], ...] = (
    autocontrast, equalize, posterize, rotate, solarize, shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip
"""(picture, level in [0, 1], sign ±1) -> picture."""


def _affine(picture: Tensor, matrix: list[list[float]]) -> Tensor:
    """Sample a picture at the places a matrix gives, in units of half its sides; black outside."""
    theta = torch.tensor([matrix], dtype=picture.dtype, device=picture.device)
    grid = affine_grid(theta, [1, *picture.shape], align_corners=False)
    return grid_sample(picture[None], grid, mode="bilinear", align_corners=False)[0]


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
