"""Views: against Pillow, whole batches against single pictures, and the processor's own pixels."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessor

from s3clip import Backbone
from s3clip.images import augmix as augmix_module
from s3clip.images.augmix import DISTORTIONS, augmix
from s3clip.images.views import RATIOS, Crop, ViewSettings, cut, picture_generator, random_crops
from s3clip.prediction.view_embeddings import Processor, encode_views
from tests.tiny_models import IMAGE_SIZE, build

GRID_FAMILIES = ["clip", "siglip", "align", "blip"]


@pytest.fixture(scope="module")
def backbone():
    return Backbone(*build("clip"))


def photo(seed=0, width=50, height=40):
    """A smooth picture: coarse random colours, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def as_tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


# ---- crops -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "area"), [(300, 400, 0.08), (400, 300, 0.5), (90, 90, 1.0)])
def test_crops_lie_in_the_picture_and_have_the_area_and_the_ratio(height, width, area):
    crops = random_crops(height, width, 2000, torch.Generator().manual_seed(0), area)
    for crop in crops:
        assert 0 <= crop.top <= height - crop.height
        assert 0 <= crop.left <= width - crop.width
        whole_height, whole_width = crop.height < height, crop.width < width
        if whole_height and whole_width:  # not cut to the picture
            assert crop.height * crop.width >= 0.95 * area * height * width
            assert 0.97 * RATIOS[0] <= crop.width / crop.height <= 1.03 * RATIOS[1]
    assert np.mean([crop.flipped for crop in crops]) == pytest.approx(0.5, abs=0.04)
    assert len(set(crops)) > 100
    if area < 0.3:
        shares = [crop.height * crop.width / (height * width) for crop in crops]
        assert min(shares) < 0.12
        assert max(shares) > 0.9


def test_a_picture_of_one_pixel_has_crops():
    assert {crop[:4] for crop in random_crops(1, 1, 5, torch.Generator(), 0.1)} == {(0, 0, 1, 1)}


@pytest.mark.parametrize("size", [(20, 16), (64, 64)])
@pytest.mark.parametrize("flipped", [False, True])
def test_cut_is_pillows_crop_and_resize(size, flipped):
    picture = photo(width=120, height=90)
    crop = Crop(top=11, left=23, height=70, width=61, flipped=flipped)
    box = picture.crop((23, 11, 84, 81)).resize(size[::-1], Image.Resampling.BICUBIC)
    expected = as_tensor(ImageOps.mirror(box) if flipped else box)
    found = cut(as_tensor(picture), crop, size)
    assert (found - expected).abs().max() < 2.5 / 255  # Pillow rounds after each of its two passes


# ---- views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmented", [False, True])
def test_views_depend_on_the_picture_and_the_seed_alone(backbone, augmented):
    pictures = [photo(seed, width=40 + 5 * seed) for seed in range(3)]
    settings = ViewSettings(views=6, augmix=augmented)
    together = encode_views(backbone, pictures, settings)
    assert torch.equal(encode_views(backbone, pictures[::-1], settings), together.flip(0))
    torch.manual_seed(99)  # the global generator has no say
    for picture, own in zip(pictures, together, strict=True):
        assert torch.equal(encode_views(backbone, [picture.copy()], settings)[0], own)
    other = encode_views(backbone, pictures, ViewSettings(views=6, seed=1, augmix=augmented))
    assert torch.equal(other[:, 0], together[:, 0])
    assert (other[:, 1:] - together[:, 1:]).abs().amax((1, 2)).min() > 1e-4


def test_more_views_begin_with_the_same(backbone):
    few, many = (encode_views(backbone, [photo()], ViewSettings(views=n)) for n in (3, 9))
    torch.testing.assert_close(many[:, :3], few, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", GRID_FAMILIES)
def test_view_0_is_the_plain_picture(family):
    model = Backbone(*build(family))
    pictures = [photo(seed) for seed in range(2)]
    with torch.no_grad():
        plain = model.encode_images(**model.preprocess(pictures))
    torch.testing.assert_close(
        encode_views(model, pictures, ViewSettings(views=3))[:, 0], plain, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("family", GRID_FAMILIES)
def test_views_get_the_processors_scaling_of_pixels(family):
    """A picture of one colour looks the same in all views, if the pixels are scaled as the processor does."""
    model = Backbone(*build(family))
    flat = Image.new("RGB", (60, 60), (200, 90, 30))
    views = encode_views(model, [flat], ViewSettings(views=5))[0]
    assert (views - views[0]).abs().max() < 1e-3
    other = encode_views(model, [Image.new("RGB", (60, 60), (30, 90, 200))], ViewSettings(views=1))[0]
    assert (other - views[0]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "width", "height", "expected"),
    [
        ({"size": {"shortest_edge": 32}, "crop_size": 32}, 60, 80, 1.0),
        ({"size": {"shortest_edge": 40}, "crop_size": 32}, 300, 100, 1.0),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, 60, 80, 0.75),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, 1000, 500, 2.0),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_normalize": False}, 75, 60, 1.25),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_crops_are_stretched_as_the_plain_view_is(settings, width, height, expected, dtype):
    model, _ = build("clip")
    processor = Processor(Backbone(model.to(dtype), (None, CLIPImageProcessor(**settings))))
    assert processor.crop_ratio(photo(width=width, height=height)) == expected
    crops = random_crops(1000, 1000, 400, torch.Generator().manual_seed(0), 0.1, expected)
    free = [crop for crop in crops if max(crop.height, crop.width) < 1000]
    assert np.exp(np.mean([math.log(c.width / c.height) for c in free])) == pytest.approx(expected, rel=0.1)


def test_a_memory_bound_on_the_pixels_changes_nothing(backbone, monkeypatch):
    seen = []
    encode = Backbone.encode_images
    monkeypatch.setattr(
        Backbone, "encode_images", lambda self, pixels: seen.append(pixels.numel()) or encode(self, pixels)
    )
    whole = encode_views(backbone, [photo()], ViewSettings(views=9))
    numbers = seen[0]
    assert max(seen) == 8 * numbers
    seen.clear()
    monkeypatch.setattr("s3clip.prediction.view_embeddings.PIXEL_NUMBERS", 3 * numbers)
    torch.testing.assert_close(
        encode_views(backbone, [photo()], ViewSettings(views=9)), whole, rtol=0, atol=1e-5
    )
    assert max(seen) == 3 * numbers


@pytest.mark.parametrize(("width", "height"), [(1000, 800), (800, 1000)])
def test_large_pictures_are_shrunk_first(backbone, monkeypatch, width, height):
    side = 2 * IMAGE_SIZE
    sizes = []

    def spy(height, width, *rest):
        sizes.append((height, width))
        return random_crops(height, width, *rest)

    monkeypatch.setattr("s3clip.prediction.view_embeddings.random_crops", spy)
    encode_views(backbone, [photo(width=width, height=height), photo()], ViewSettings(views=2))
    assert sizes == [(side * height // min(width, height), side * width // min(width, height)), (40, 50)]


def test_patch_models_are_told_apart():
    with pytest.raises(ValueError, match=r"Siglip2Model reads pixel_values, .*image_embeds="):
        encode_views(Backbone(*build("siglip2")), [photo()], ViewSettings(views=2))


def test_no_pictures(backbone):
    assert encode_views(backbone, [], ViewSettings(views=4)).shape == (0, 4, backbone.dim)


def test_generators_differ_by_pixels_size_and_seed():
    one, other = Image.new("RGB", (4, 6)), Image.new("RGB", (6, 4))
    changed = one.copy()
    changed.putpixel((0, 0), (0, 0, 1))
    seeds = {picture_generator(p, s).initial_seed() for p in (one, other, changed) for s in (0, 1)}
    assert len(seeds) == 6
    assert picture_generator(one, 0).initial_seed() == picture_generator(one.copy(), 0).initial_seed()


# ---- AugMix ------------------------------------------------------------------------------------------------


def test_augmix_stays_in_range_and_changes_the_picture():
    picture = as_tensor(photo())
    generator = torch.Generator().manual_seed(0)
    mixed = [augmix(picture, generator) for _ in range(20)]
    for own in mixed:
        assert own.shape == picture.shape
        assert own.min() >= 0
        assert own.max() <= 1
    assert max(float((own - picture).abs().max()) for own in mixed) > 0.05
    assert float(torch.stack([own - picture for own in mixed]).abs().mean()) < 0.15


def test_augmix_of_nothing_is_the_picture(monkeypatch):
    # The weights sum to one, whatever they are.
    monkeypatch.setattr(augmix_module, "DISTORTIONS", (lambda picture, level, sign: picture,))
    picture = as_tensor(photo())
    torch.testing.assert_close(augmix(picture, torch.Generator().manual_seed(1)), picture, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "level", "expected", "tolerance"),
    [
        ("autocontrast", 0.1, ImageOps.autocontrast, 1.01),
        ("equalize", 0.1, ImageOps.equalize, 3.01),
        ("posterize", 0.1, lambda picture: ImageOps.posterize(picture, 4), 0.01),
        ("posterize", 0.3, lambda picture: ImageOps.posterize(picture, 3), 0.01),
        ("solarize", 0.25, lambda picture: ImageOps.solarize(picture, 192), 0.01),
    ],
)
def test_distortions_of_colour_are_pillows(name, level, expected, tolerance):
    picture = photo(4, width=200, height=150)
    found = getattr(augmix_module, name)(as_tensor(picture), level, 1)
    assert 255 * (found - as_tensor(expected(picture))).abs().max() <= tolerance


def test_distortions_of_one_colour_leave_it():
    flat = torch.full((3, 8, 8), 0.4)
    for name in ("autocontrast", "equalize"):
        assert torch.equal(getattr(augmix_module, name)(flat, 0.5, 1), flat)


def test_quarter_turns_and_whole_pixels():
    picture = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    turned = augmix_module.rotate(picture, 3.0, 1)  # 90 degrees
    assert min((turned - torch.rot90(picture, k, (1, 2))).abs().max() for k in (1, 3)) < 1e-5
    moved = augmix_module.translate_x(picture, 0.75, 1)  # a quarter of the width
    torch.testing.assert_close(moved[..., :9], picture[..., 3:], rtol=0, atol=1e-5)
    assert moved[..., 9:].abs().max() < 1e-5
    moved = augmix_module.translate_y(picture, 0.75, -1)
    torch.testing.assert_close(moved[:, 3:], picture[:, :9], rtol=0, atol=1e-5)
    assert moved[:, :3].abs().max() < 1e-5


def test_a_turn_of_an_oblong_picture_turns_a_dot_about_the_middle():
    picture = torch.zeros(1, 41, 81)
    picture[0, 20, 60] = 1.0  # 20 pixels to the right of the middle
    turned = augmix_module.rotate(picture, 1.0, 1)  # 30 degrees
    row, column = divmod(int(turned[0].argmax()), 81)
    assert math.hypot(row - 20, column - 40) == pytest.approx(20, abs=1)
    assert abs(math.degrees(math.atan2(row - 20, column - 40))) == pytest.approx(30, abs=3)


def test_shears_move_rows_and_columns_in_proportion():
    ramp = (torch.arange(60) / 60).expand(3, 40, 60)
    sheared = augmix_module.shear_x(ramp, 1.0, 1)
    rows = torch.arange(40) - 19.5
    expected = ramp[0, 0, 30] + 0.3 * rows / 60
    torch.testing.assert_close(sheared[0, :, 30], expected, rtol=0, atol=1e-3)
    sheared = augmix_module.shear_y(ramp.mT.contiguous(), 1.0, 1)
    torch.testing.assert_close(sheared[0, 30], expected, rtol=0, atol=1e-3)


def test_there_are_nine_distortions():
    assert len({distortion.__name__ for distortion in DISTORTIONS}) == 9
