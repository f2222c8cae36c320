"""One picture in many forms has the same pixels, and what is no picture is named."""

import base64
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from s3clip.images.opening import BrokenImageError, image_suffixes, one_or_several, open_image
from s3clip.images.sources import Sample
from s3clip.images.table_shards import TableShard
from s3clip.images.tars import TarShard
from tests.serving import FilesOfAFolder, serving_folder

GREY = np.add.outer(np.arange(24) * 5, np.arange(20) * 7).astype(np.uint8)  # uint8, 0 to 248
GREY[0, 0], GREY[-1, -1] = 255, 0  # its whole range
COLORS = np.stack([GREY, GREY[::-1], 255 - GREY], -1)
INK = (GREY > 120).astype(np.uint8) * 255  # where there is ink
ON_WHITE = np.where(INK[..., None] > 0, COLORS, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def of(array: np.ndarray, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(array)
    return image if mode is None else image.convert(mode)


def turned(array: np.ndarray) -> bytes:
    """A picture on its side, and an EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(of(np.rot90(array).copy()), exif=exif)


WIDE = GREY.astype(np.int64) * 257
GREYS = {
    "L": of(GREY),
    "RGB": of(np.stack([GREY] * 3, -1)),
    "P": of(GREY).convert("P"),
    "16 bits": of(WIDE.astype(np.uint16)),
    "16 bits, big-endian": Image.frombytes("I;16B", (20, 24), WIDE.astype(">u2").tobytes()),
    "16-bit PNG": encoded(of(WIDE.astype(np.uint16))),
    "16-bit TIFF": encoded(of(WIDE.astype(np.uint16)), "TIFF"),
    "16-bit PGM, of mode I": b"P5 20 24 65535\n" + WIDE.astype(">u2").tobytes(),
    "I of 8 bits": of(GREY.astype(np.int32)),
    "I of 16 bits": of(WIDE.astype(np.int32)),
    "I of 31 bits": of((GREY.astype(np.int64) * ((2**31 - 1) // 255)).astype(np.int32)),
    "I with negative values": of(GREY.astype(np.int32) * 3 - 100),
    "32-bit TIFF": encoded(of(WIDE.astype(np.int32)), "TIFF"),
    "F of 1": of((GREY / 255).astype(np.float32)),
    "F of 8 bits": of(GREY.astype(np.float32)),
    "F of 16 bits": of(WIDE.astype(np.float32)),
    "F of any range": of((GREY / 255 * 0.7 - 0.2).astype(np.float32)),
    "float TIFF": encoded(of((GREY / 255).astype(np.float32)), "TIFF"),
    "array": GREY,
    "array with a channel": GREY[..., None],
    "array of uint16": WIDE.astype(np.uint16),
    "tensor": torch.from_numpy(GREY)[None],
    "LA": of(GREY, "LA"),
    "EXIF": turned(GREY),
}
ALPHA = np.dstack([COLORS, INK])
PALETTE = Image.fromarray(np.where(INK > 0, 7, 200).astype(np.uint8), "P")
PALETTE.putpalette([0, 0, 0] * 256)  # what is hidden is as black as the ink
GREY_ALPHA = Image.merge("LA", [of(np.zeros_like(INK)), of(INK)])
BLACK_ON_WHITE = np.where(INK[..., None] > 0, 0, 255).astype(np.uint8).repeat(3, -1)
HIDDEN_GREY = np.where(INK > 0, 0, 9).astype(np.uint8)
HIDDEN = {
    "RGBA": (of(ALPHA), ON_WHITE),
    "RGBA PNG": (encoded(of(ALPHA)), ON_WHITE),
    "RGBA WebP": (encoded(of(ALPHA), "WEBP", lossless=True, exact=True), ON_WHITE),
    "premultiplied": (of(ALPHA).convert("RGBa"), ON_WHITE),
    "array of 4 channels": (ALPHA, ON_WHITE),
    "tensor of 4 channels": (torch.from_numpy(ALPHA).movedim(-1, 0), ON_WHITE),
    "EXIF": (turned(ALPHA), ON_WHITE),
    "LA": (GREY_ALPHA, BLACK_ON_WHITE),
    "LA PNG": (encoded(GREY_ALPHA), BLACK_ON_WHITE),
    "La": (GREY_ALPHA.convert("La"), BLACK_ON_WHITE),
    "PA": (of(np.dstack([INK * 0] * 3 + [INK]), "PA"), BLACK_ON_WHITE),
    "palette PNG": (encoded(PALETTE, transparency=200), BLACK_ON_WHITE),
    "palette GIF": (encoded(PALETTE, "GIF", transparency=200), BLACK_ON_WHITE),
    "transparent grey": (encoded(of(HIDDEN_GREY), transparency=9), BLACK_ON_WHITE),
    "transparent color": (encoded(of(HIDDEN_GREY, "RGB"), transparency=(9, 9, 9)), BLACK_ON_WHITE),
    "one bit": (encoded(of(INK == 0).convert("1"), transparency=1), BLACK_ON_WHITE),
}


@pytest.mark.parametrize("form", GREYS)
def test_a_grey_picture_in_every_mode_and_depth_has_the_same_pixels(form):
    found = np.asarray(open_image(GREYS[form]))
    assert found.shape == (24, 20, 3)
    assert np.array_equal(found, np.stack([GREY] * 3, -1))


@pytest.mark.parametrize("form", HIDDEN)
def test_transparent_pictures_lie_on_white(form):
    source, expected = HIDDEN[form]
    assert np.array_equal(np.asarray(open_image(source)), expected)
    again = np.asarray(open_image(source, background=(10, 20, 30)))
    assert np.array_equal(again, np.where(INK[..., None] > 0, expected, np.uint8([10, 20, 30])))


def test_half_transparent_is_half_of_each():
    array = np.full((2, 2, 4), [0, 100, 200, 128], np.uint8)
    assert np.abs(np.asarray(open_image(array)).astype(int) - [127, 177, 227]).max() <= 1


class _Web(FilesOfAFolder):
    def do_GET(self):
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/photo.png")
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"few")
        elif self.path in ("/403", "/500"):
            self.send_error(int(self.path[1:]))
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    (folder / "photo.png").write_bytes(encoded(of(COLORS)))
    (folder / "page.html").write_bytes(b"<html>")
    with serving_folder(folder, _Web) as address:
        yield address


def test_a_picture_wherever_it_lies_has_the_same_pixels(tmp_path, server):
    import fsspec

    png = encoded(of(COLORS))
    path = tmp_path / "photo.png"
    path.write_bytes(png)
    fsspec.filesystem("memory").pipe_file("/opened/photo.png", png)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(path, "a.png")
    pq.write_table(pa.table({"image": [{"bytes": png, "path": None}]}), tmp_path / "t.parquet")
    (in_tar,) = TarShard("t", tmp_path / "t.tar").samples()
    (in_table,) = TableShard("t", tmp_path / "t.parquet", label_column=None).samples()
    forms = [
        of(COLORS),
        path,
        str(path),
        np.str_(path),
        png,
        bytearray(png),
        memoryview(png),
        {"bytes": png, "path": None},
        {"bytes": None, "path": str(path)},
        {"path": path},
        f"{server}/photo.png",
        f"{server}/moved",
        "memory://opened/photo.png",
        f"file://{path}",
        f"data:image/png;base64,{base64.b64encode(png).decode()}",
        COLORS,
        np.asfortranarray(COLORS),
        torch.from_numpy(COLORS).movedim(-1, 0),
        encoded(of(COLORS), "TIFF"),
        encoded(of(COLORS), "BMP"),
        encoded(of(COLORS), "WEBP", lossless=True),
        turned(COLORS),
    ]
    for form in forms:
        assert np.array_equal(np.asarray(open_image(form)), COLORS), form
    samples = [in_tar, in_table, *(Sample("s", None, each) for each in (path, png, f"{server}/photo.png"))]
    for sample in samples:
        assert np.array_equal(np.asarray(sample.open()), COLORS)


def test_several_pictures_are_told_from_one(tmp_path):
    class Column(tuple):  # what `datasets` gives is a sequence of its own, read item by item
        pass

    array = np.zeros((3, 4, 4, 3), np.uint8)
    assert [each.shape for each in one_or_several(array)] == [(4, 4, 3)] * 3
    assert len(one_or_several(torch.zeros(2, 3, 4, 4))) == 2
    assert one_or_several(np.array(["a.png", "b.png"])) == ["a.png", "b.png"]
    assert one_or_several(np.array([Path("a"), Path("b")])) == [Path("a"), Path("b")]
    assert one_or_several(column := Column(["a.png"])) is column
    for one in ("a.png", Path("a.png"), b"x", array[0], {"bytes": b""}, of(GREY), torch.zeros(3, 4, 4)):
        (found,) = one_or_several(one)
        assert found is one


def test_what_is_no_picture_is_named(tmp_path, server):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "eps.png").write_bytes(encoded(of(COLORS), "EPS"))
    (tmp_path / "empty.png").write_bytes(b"")
    nan = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    broken = [
        (tmp_path / "pipe.png", r"pipe\.png: not a readable image \(a pipe or a device"),
        ("/dev/zero", r"/dev/zero: not a readable image \(a pipe or a device"),
        (tmp_path, "not a readable image"),
        (tmp_path / "eps.png", r"EPS holds no pixels"),
        (tmp_path / "empty.png", r"empty, or no format"),
        (f"{server}/page.html", r"page\.html: not a readable image"),
        ("data:image/png,abc", r"expected data:image/\.\.\.;base64"),
        ("data:image/png;base64,abc", r"not a readable image"),
        ({"bytes": b"x", "path": "in/a/table.png"}, r"in/a/table\.png: not a readable image"),
        (nan, r"NaN or infinite"),
    ]
    for source, message in broken:
        with pytest.raises(BrokenImageError, match=message):
            open_image(source)
    for source in (tmp_path / "none.png", f"{server}/none.png"):
        with pytest.raises(FileNotFoundError, match=r"none\.png"):
            open_image(source)
    with pytest.raises(PermissionError, match="403"):
        open_image(f"{server}/403")
    for path, why in (("500", "500"), ("elsewhere", "not allowed"), ("short", "ended")):
        with pytest.raises(ConnectionError, match=f"cannot be reached.*{why}"):
            open_image(f"{server}/{path}")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        open_image("http://127.0.0.1:9/none.png")
    for source in (None, 3, {"other": 1}, np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 4, 4), np.uint8)):
        with pytest.raises(TypeError, match="images: expected"):
            open_image(source)


def test_a_sample_whose_store_cannot_be_had_is_a_broken_picture():
    for address in ("nosuch://bucket/a.png", "gs://bucket/a.png"):
        with pytest.raises(BrokenImageError, match="key"):
            Sample("key", None, address).open()


def test_suffixes_are_those_of_this_pillow():
    assert ".png" in image_suffixes()
