"""A JPEG that is decoded near the size that a model needs is the same picture, only smaller."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from s3clip import Backbone
from s3clip.backbone.image_transform import target_side
from s3clip.images.opening import NEAR, open_image
from tests.tiny_models import FAMILIES, build

ORIENTATION = 0x0112


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Colors that run into each other, another one in every corner."""
    corners = np.array([[[250, 20, 30], [20, 240, 60]], [[30, 40, 230], [240, 230, 40]]], np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def jpeg(image: Image.Image, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=95, **options)
    return sink.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(8, 110), st.integers(8, 110)).map(lambda size: (8 * size[0], 8 * size[1])),
    needed=st.integers(1, 300),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    progressive=st.booleans(),
    orientation=st.integers(1, 8),
)
def test_near_size_is_the_picture_made_smaller(size, needed, mode, progressive, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = jpeg(photograph(*size, mode), progressive=progressive, exif=exif)
    whole, near = open_image(content), open_image(content, needed=needed)
    factor = next((each for each in (8, 4, 2) if min(size) >= each * NEAR * needed), 1)
    assert near.size == tuple(-(-side // factor) for side in whole.size)
    assert min(near.size) >= min(NEAR * needed, *whole.size)
    difference = np.abs(
        np.asarray(near, float) - np.asarray(whole.resize(near.size, Image.Resampling.BOX), float)
    )
    assert difference.mean() < 3


def test_what_is_no_jpeg_is_decoded_whole():
    sink = io.BytesIO()
    photograph(640, 480).save(sink, "PNG")
    assert open_image(sink.getvalue(), needed=16).size == (640, 480)


def test_near_size_is_decoded_and_not_made_smaller_afterwards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "reduce", None)
    monkeypatch.setattr(Image.Image, "resize", None)
    content = jpeg(Image.new("RGB", (640, 480), "red"))
    assert open_image(content, needed=30).size == (80, 60)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_given_no_less_than_twice_what_it_takes(family: str):
    model, processor = build(family)
    backbone = Backbone(model, processor)
    if family == "siglip2":  # NaFlex, whose sizes hang on the picture
        with pytest.raises(ValueError, match=r"near_size: Siglip2ImageProcessor.* says no one size"):
            backbone.image_transform(near_size=True)
        return
    transform = backbone.image_transform(near_size=True)
    needed = transform.needed
    pixels = transform([photograph(320, 200)])["pixel_values"]
    assert needed is not None
    assert needed >= max(pixels.shape[-2:]) or hasattr(backbone.image_processor, "crop_size")
    content = jpeg(photograph(16 * needed, 12 * needed))
    near = transform([open_image(content, needed=needed)])["pixel_values"]
    whole = transform([open_image(content)])["pixel_values"]
    assert near.shape == whole.shape
    assert (near - whole).abs().mean() < 0.05  # of pixels with a deviation of about one


def test_sizes_that_are_not_one_are_refused_and_functions_are_read():
    class Resize:
        def __init__(self, size):
            self.size = size

    class Steps:
        def __init__(self, *transforms):
            self.transforms = transforms

    assert target_side(Steps(object(), Resize(224)), True) == 224
    assert target_side(Steps(Resize((224, 336))), True) == 336
    for other in (Steps(object()), lambda image: image):
        with pytest.raises(ValueError, match="says no one size"):
            target_side(other, True)
    for size in ({"longest_edge": 224}, {"shortest_edge": 224, "longest_edge": 500}, None):
        processor = type("Processor", (), {"size": size, "do_resize": True})()
        with pytest.raises(ValueError, match="near_size: Processor says no one size"):
            target_side(processor, False)
