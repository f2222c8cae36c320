"""Pictures and tars that are small on disk and large in memory: bounded, and answers are what they were."""

import gzip
import io
import tarfile
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.bulk import label
from s3clip.demo import model_folder
from s3clip.images import opening, sources
from s3clip.images.opening import REDUCED, open_image, runs_of_pictures
from s3clip.images.sources import BrokenImageError, BrokenShardError, Sample, cut, open_samples, read
from s3clip.images.tars import TarShard

pq = pytest.importorskip("pyarrow.parquet")


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


@pytest.fixture(scope="module")
def head() -> SynonymousSpaceHead:
    head = SynonymousSpaceHead.from_backbone(str(model_folder()))
    return head.fit_classes({"zero": [], "one": ["a one"]})


# ---- decoded pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 40 * 30 * 3, 40 * 30 * 7, 1 << 30])
def test_pixels_do_not_depend_on_the_budget(monkeypatch, budget):
    transform = Backbone.from_pretrained(str(model_folder())).image_transform()
    pictures = [picture(i, (40 + i, 30)) for i in range(7)]
    whole = transform.processor(images=pictures, return_tensors="pt")["pixel_values"]
    monkeypatch.setattr(opening, "DECODED_BYTES", budget)
    assert torch.equal(transform(pictures)["pixel_values"], whole)
    assert torch.equal(transform(iter(pictures))["pixel_values"], whole)
    assert [each for run in runs_of_pictures(pictures) for each in run] == pictures
    for run in runs_of_pictures(pictures):
        assert sum(3 * each.width * each.height for each in run[:-1]) < budget
    assert transform([]) == {}


def test_no_more_decoded_pictures_are_held_than_the_budget(monkeypatch, head, tmp_path):
    """By every way in: label, predict, eval's reader with its opening."""
    from s3clip.evaluation.runs.embeddings import ImageOpening
    from s3clip.evaluation.runs.encoding import _Opening, _Preparing

    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02}.png").write_bytes(encoded(picture(i)))
    (folder / "05.png").write_bytes(b"no picture")
    alive: list[weakref.ref] = []
    most = 0
    as_rgb = opening._as_rgb

    def watched(image, *args, **options):
        nonlocal most
        made = as_rgb(image, *args, **options)
        alive.append(weakref.ref(made))
        most = max(most, sum(each() is not None for each in alive))
        return made

    def peak(work):
        nonlocal most
        most = 0
        alive.clear()
        return work(), most

    files = sorted(map(str, folder.iterdir()))
    shard = sources.file_shards(folder, [sources.Listed(Path(file).name, None) for file in files])
    transform = ImageOpening(head.backbone.image_transform())

    def evaluated():
        batches = read(shard, opening=_Opening(transform, ()), transform=_Preparing(transform))
        return torch.cat([batch.value[2]["pixel_values"] for batch in batches])

    def labelled(out):
        label(folder, head, tmp_path / out, workers=0, max_error_share=1)
        (part,) = (tmp_path / out).glob("*.parquet")
        return pq.read_table(part).drop_columns(["shard"]).to_pylist()

    def predicted():
        with pytest.warns(UserWarning, match="no prediction for it"):
            return head.predict(files, batch_size=64)

    ways = {"evaluated": evaluated, "labelled": lambda: labelled(f"out-{opening.DECODED_BYTES}")}
    ways["predicted"] = predicted
    before = {name: work() for name, work in ways.items()}
    monkeypatch.setattr(opening, "_as_rgb", watched)
    for runs in (1, 3):
        monkeypatch.setattr(opening, "DECODED_BYTES", runs * 40 * 30 * 3)
        for name, work in ways.items():
            found, held = peak(work)
            same = torch.equal(found, before[name]) if name == "evaluated" else found == before[name]
            assert same, name
            assert held <= runs, (name, held)
    monkeypatch.setattr(opening, "DECODED_BYTES", 1 << 30)
    assert peak(evaluated)[1] == 11


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "1")])
def test_a_picture_that_alone_is_over_the_bound_is_brought_to_half_its_size(monkeypatch, kind, mode):
    image = picture(0, (16, 12)).resize((640, 480), Image.Resampling.BICUBIC).convert(mode)
    content = encoded(image, kind)
    whole = open_image(content)
    assert (whole.size, REDUCED in whole.info) == ((640, 480), False)
    monkeypatch.setattr(opening, "LARGEST_DECODED", 640 * 480 * 3)
    assert np.array_equal(np.asarray(open_image(content)), np.asarray(whole))  # at the bound, not over it
    for bound, factor in ((640 * 480 * 3 - 1, 2), (200_000, 4)):
        monkeypatch.setattr(opening, "LARGEST_DECODED", bound)
        with pytest.warns(UserWarning, match=f"decoded at 1/{factor} of its 640 x 480 pixels"):
            half = open_image(content)
        assert half.size == (640 // factor, 480 // factor)
        assert half.info[REDUCED] == f"decoded at 1/{factor} of its 640 x 480 pixels"
        difference = np.asarray(half).astype(int) - np.asarray(whole.reduce(factor))
        assert np.abs(difference).mean() < 3


@pytest.mark.filterwarnings("ignore:.*decoded at 1/2", "ignore:Image size")
def test_rows_say_what_was_reduced_and_which_are_over_the_limit(monkeypatch, head, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.png", (40, 30)), ("b.jpg", (100, 80)), ("c.png", (300, 200)), ("d.png", (50, 40))):
        image = picture(1, size)
        image.save(folder / name)
    plain = head.predict([str(folder / "a.png")])
    monkeypatch.setattr(opening, "LARGEST_DECODED", 100 * 80 * 3 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 80)
    label(folder, head, tmp_path / "out", workers=0, max_error_share=1)
    rows = pq.read_table(next((tmp_path / "out").glob("photos-*.parquet"))).to_pylist()
    assert [row["note"] for row in rows] == [None, "decoded at 1/2 of its 100 x 80 pixels", None, None]
    assert [row["error"] is None for row in rows] == [True, True, False, True]
    assert "60000 pixels" in rows[2]["error"]
    assert "c.png" in rows[2]["error"]
    assert rows[0]["label"] == plain[0][0].label


def test_what_is_done_in_strips_has_the_pixels_that_it_had(monkeypatch):
    rgba = picture(3, (37, 23)).convert("RGBA")
    rgba.putalpha(picture(4, (37, 23)).convert("L"))
    deep = Image.fromarray(np.random.default_rng(5).integers(0, 65536, (23, 37)).astype(np.uint16))
    real = Image.fromarray(np.random.default_rng(6).normal(size=(23, 37)).astype(np.float32))
    images = [rgba, rgba.convert("LA"), rgba.convert("P"), deep, real]
    whole = [np.asarray(open_image(image)) for image in images]
    for pixels in (1, 40, 37 * 5):
        monkeypatch.setattr(opening, "_AT_ONCE", pixels)
        for image, expected in zip(images, whole, strict=True):
            assert np.array_equal(np.asarray(open_image(image)), expected)
    over = Image.new("RGB", rgba.size, "white")  # the plain way
    over.paste(rgba, mask=rgba)
    assert np.array_equal(whole[0], np.asarray(over))


# ---- tars --------------------------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 512)


def record(key: str, size: int, letter: bytes = b"x") -> bytes:
    start = f"{size} {key}=".encode()
    return start + letter * (size - len(start) - 1) + b"\n"


END = b"\0" * 1024
BIG = 32 << 20
GOOD = header("a.png", len(encoded(picture(0)))) + padded(encoded(picture(0)))
BOMBS = {
    "pax header": header("p", BIG, b"x") + padded(record("comment", BIG)) + GOOD,
    "global header": header("p", BIG, b"g") + padded(record("comment", BIG)) + GOOD,
    "long name": header("././@LongLink", BIG, b"L") + padded(b"x" * BIG) + GOOD,
    "long link": header("././@LongLink", BIG, b"K") + padded(b"x" * BIG) + GOOD,
    "many long names": (header("././@LongLink", 6, b"L") + padded(b"b.png\0")) * 3000 + GOOD,
    "many pax headers": (header("p", 20, b"x") + padded(record("comment", 20))) * 3000 + GOOD,
    "global headers between files": b"".join(
        header("p", 1 << 19, b"g") + padded(record(f"k{i}", 1 << 19)) + header(f"{i}.txt", 0)
        for i in range(64)
    ),
    "digits": header("p", 1 << 19, b"x") + padded(record("comment", 1 << 19, b"1")) + GOOD,
    "a name that is no path": header("././@LongLink", 9000, b"L") + padded(b"x" * 9000) + GOOD,
}


def peak_of(work) -> tuple[object, int]:
    tracemalloc.start()
    try:
        found = work()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_header_without_measure_breaks_its_own_shard(tmp_path, name, ending):
    content = GOOD + BOMBS[name] + END
    path = tmp_path / f"t.{ending}"
    path.write_bytes(gzip.compress(content, 1) if ending == "tar.gz" else content)
    del content

    def samples():
        why = r"t: not a readable tar: a (header|name) .* after 1 samples"
        with pytest.raises(BrokenShardError, match=why):
            list(TarShard("t", path, grouped=False).samples())

    assert peak_of(samples)[1] < 8 << 20
    first = next(TarShard("t", path, grouped=False).samples())
    assert first.key == "t/a.png"


def test_a_member_without_measure_is_a_picture_that_cannot_be_read(tmp_path, monkeypatch):
    content = header("big.png", BIG) + b"\0" * BIG + GOOD + header("z.cls", BIG) + b"1" * BIG + GOOD + END
    for ending in ("tar", "tar.gz"):
        path = tmp_path / f"t.{ending}"
        path.write_bytes(gzip.compress(content, 1) if ending == "tar.gz" else content)
        monkeypatch.setattr(sources, "LARGEST_FILE", 1 << 20)
        monkeypatch.setattr("s3clip.images.tars.LARGEST_FILE", 1 << 20)

        def work(path=path):
            found = list(TarShard("t", path).samples())
            errors: dict[int, str] = {}
            return found, [each.size for each in open_samples(found, errors)], errors

        (found, sizes, errors), peak = peak_of(work)
        assert [sample.key for sample in found] == ["t/big", "t/a", "t/z", "t/a"]
        assert [sample.label for sample in found] == [None] * 4
        assert sizes == [(40, 30)] * 2
        assert "t/big: not a readable image (it has 33,554,432 bytes" in errors[0]
        assert set(errors) == {0, 2}
        assert peak < 8 << 20
        with pytest.raises(BrokenImageError, match="1,048,576 are read at most"):
            found[0].read()


def test_files_that_are_passed_over_are_counted_and_not_held(tmp_path):
    members = b"".join(header(f"a.{i}.png", 0) for i in range(5000)) + header("a.png", 0)
    path = tmp_path / "t.tar"
    path.write_bytes(members + END)
    with pytest.warns(
        UserWarning, match=r"5,000 files passed over.*: a\.1\.png, a\.2\.png, a\.3\.png, \.\.\."
    ):
        (sample,) = TarShard("t", path).samples()
    assert sample.key == "t/a"


def test_a_batch_holds_no_more_encoded_pictures_than_its_bound(monkeypatch):
    class Many:
        name = "many"

        def samples(self, start=0):
            for i in range(start, 10):
                yield Sample(str(i), None, encoded(picture(i)))

    size = len(encoded(picture(0)))
    whole = [sample for run in cut(Many(), 5) for sample in run.samples]
    monkeypatch.setattr(sources, "ENCODED_BYTES", 3 * size + size // 2)
    runs = list(cut(Many(), 5))
    assert [(run.first, len(run.samples)) for run in runs] == [(0, 5), (5, 5)]
    held = [sample for run in runs for sample in run.samples]
    assert [held[i] == whole[i] for i in range(10)] == [True, True, True, False, False] * 2
    errors: dict[int, str] = {}
    assert len(list(open_samples(held, errors))) == 6
    assert all("take smaller batches" in error for error in errors.values())
