"""The embeddings of the views of pictures: the plain view, and random crops made on the device.

A picture is decoded once; its crops are cut from it and resized on the device. The views of one picture go
through the image tower apart from those of others: which pictures stand beside it changes nothing.
"""

from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.images.augmix import augmix
from s3clip.images.opening import open_image
from s3clip.images.views import ViewSettings, cut, picture_generator, random_crops, shrunk

PIXEL_NUMBERS = 2**23
"""Pixel values of views held at once, 32 MiB in float32: 55 views of 224 x 224. The image tower adds what it
needs for a batch of so many."""

PROBE_SIDE = 64
"""Shorter side of the pictures that show what a processor does."""

LARGEST_SIDE = 2
"""A picture is first shrunk until its shorter side is this many times the view's."""


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
def encode_views(backbone: Backbone, pictures: Iterable[Image.Image], settings: ViewSettings) -> Tensor:
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
        picture = open_image(picture)
        plain = processor.view(picture)
        height, width = plain.shape[-2:]
        small = shrunk(picture, LARGEST_SIDE * min(height, width), backbone.device)
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
