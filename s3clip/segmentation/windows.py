"""Windows over a picture, their exact average, and resizing a few rows at a time. Pure.

Nothing of the size (classes, height, width) is made unless it is asked for: what is kept is the logits of
patches, and rows of pixels are computed from them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

LONGEST_SIDE = 2048
"""No picture is enlarged beyond it: mmseg's `Resize(scale=(2048, short_side), keep_ratio=True)`."""


class Tiling(NamedTuple):
    """Windows of one size that cover a picture.

    Attributes:
        height: of the picture, in pixels; so are the others.
        width: of the picture.
        window: height and width of every window.
        corners: top and left of each, in reading order.
    """

    height: int
    width: int
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]


def working_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the height and width at which a picture is encoded: its short side that long, its shape kept."""
    factor = min(short_side / min(height, width), LONGEST_SIDE / max(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def tile(height: int, width: int, window: int, stride: int) -> Tiling:
    """Cover a picture with square windows, as mmseg does.

    The last window of a row or column is moved back into the picture. A picture smaller than the window is
    one window of its own size.
    """
    tall, wide = min(window, height), min(window, width)
    tops, lefts = _starts(height, tall, stride), _starts(width, wide, stride)
    return Tiling(height, width, (tall, wide), tuple((top, left) for top in tops for left in lefts))


def cut(pixels: Tensor, tiling: Tiling, patch: int) -> Iterator[Tensor]:
    """Yield every window of (channels, height, width) pixels, grown to whole patches.

    What is missing to a whole patch at the bottom and on the right is filled with the nearest pixels, so that
    patches keep their size and place; `PatchLogits` cuts it off again.
    """
    tall, wide = tiling.window
    for top, left in tiling.corners:
        window = pixels[None, :, top : top + tall, left : left + wide]
        yield pad(window, (0, -wide % patch, 0, -tall % patch), mode="replicate")[0]


class PatchLogits(NamedTuple):
    """Logits of the patches of every window, from which those of pixels follow.

    Attributes:
        grids: (windows, columns, rows of patches, columns of patches), floating point.
        tiling: the windows.
        patch: pixels of a patch.
        size: height and width of the picture as it came.
    """

    grids: Tensor
    tiling: Tiling
    patch: int
    size: tuple[int, int]

    def working_rows(self, start: int, stop: int) -> Tensor:
        """Return rows of pixels at the size at which the picture was encoded: (columns, rows, width).

        The patches of each window are interpolated to its pixels (bilinear, `align_corners=False`); where
        windows overlap the result is the mean.
        """
        tiling, grids = self.tiling, self.grids
        tall, wide = tiling.window
        total = grids.new_zeros(grids.shape[1], stop - start, tiling.width)
        count = grids.new_zeros(stop - start, tiling.width)
        whole = (grids.shape[-2] * self.patch, grids.shape[-1] * self.patch)
        for grid, (top, left) in zip(grids, tiling.corners, strict=True):
            first, last = max(start, top), min(stop, top + tall)
            if first >= last:
                continue
            rows = resized_rows(grid, 0, grid.shape[-2], whole, first - top, last - top)
            total[:, first - start : last - start, left : left + wide] += rows[..., :wide]
            count[first - start : last - start, left : left + wide] += 1
        return total.div_(count)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows of pixels of the picture as it came: (columns, rows, width)."""
        height = self.tiling.height
        low, high, _ = _neighbours(height, self.size[0], start, stop, self.grids)
        first, last = int(low[0]), int(high[-1]) + 1
        return resized_rows(self.working_rows(first, last), first, height, self.size, start, stop)

    def rows_at_once(self, max_bytes: int) -> int:
        """Return how many rows may be computed at once for their tensors to stay within so many bytes."""
        height, width = self.size
        # Alive together: logits, their copy after the next step (a softmax), and twice the rows on the way
        # there, each with its neighbour below.
        ratio = max(1.0, self.tiling.height / height)
        row = self.grids.shape[1] * self.grids.element_size() * (3 * width + 4 * ratio * self.tiling.width)
        return max(1, min(height, int(max_bytes // row)))


def resized_rows(
    source: Tensor, first: int, height: int, size: tuple[int, int], start: int, stop: int
) -> Tensor:
    """Return rows of a resized map, as `interpolate(mode="bilinear", align_corners=False)` gives them.

    Args:
        source: (columns, rows, width), the rows of the map that are needed, or more.
        first: which row of the map `source` begins with.
        height: how many rows the whole map has.
        size: height and width to resize it to.
        start: the first row wanted of the resized map.
        stop: the row after the last one wanted.

    Returns:
        (columns, stop - start, size[1]).
    """
    if (height, source.shape[-1]) == size:
        return source[:, start - first : stop - first]
    low, high, weight = _neighbours(height, size[0], start, stop, source)
    rows = torch.lerp(source[:, low - first], source[:, high - first], weight[:, None])
    return interpolate(rows[None], (stop - start, size[1]), mode="bilinear", align_corners=False)[0]


def _neighbours(
    height: int, resized: int, start: int, stop: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for rows of a resized map, the two rows that each lies between and the weight of the second."""
    rows = torch.arange(start, stop, device=like.device)
    at = ((rows.to(like.dtype) + 0.5) * (height / resized) - 0.5).clamp(0, height - 1)
    low = at.floor().long()
    return low, (low + 1).clamp(max=height - 1), at - low


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]
