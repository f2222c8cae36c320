"""The law of the cache: whatever has changed of what it was computed from, cached is uncached."""

import copy
import io
import itertools
import json
import os
import shutil
import tarfile
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from s3clip import Backbone
from s3clip.backbone.precision import cast_images
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation.benchmarks.opening import open_benchmark
from s3clip.evaluation.benchmarks.table import find_benchmark
from s3clip.evaluation.runs.cache import Cache
from s3clip.evaluation.runs.embeddings import ImageJob, stored_rows
from s3clip.evaluation.runs.encoding import encode, images_of
from s3clip.evaluation.runs.run import evaluate
from tests.hub_server import Repository
from tests.local_masks import open_masks, write_masks, write_row

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
DIGITS, LABELS = held_out_digits()
NEW = itertools.count(20)
LAW = settings(max_examples=30, deadline=None)


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained(str(model_folder()))


def bitmap(number):
    """One of many digits, turned: no two are alike, and all have as many bytes."""
    turned = DIGITS[number % len(DIGITS)].convert("RGB").resize((16, 16)).rotate(number // len(DIGITS) * 7)
    turned.putpixel((0, 0), (number % 256, number // 256 % 256, 7))
    stream = io.BytesIO()
    turned.save(stream, "ppm")
    return stream.getvalue()


def tar_bytes(contents):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for i, content in enumerate(contents):
            for suffix, data in (("cls", b"%d" % (i % 10)), ("ppm", content)):
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def write_table(folder, images):
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{"image": each, "label": i % 10} for i, each in enumerate(images)])
    parquet.write_table(table, folder / "photos" / "test.parquet")


def write_images(folder, kind, contents):
    """Write a set of one's own of some images, whose files keep their names, whatever is in them."""
    if kind == "folders":
        place = folder / "photos" / "one"
        place.mkdir(parents=True, exist_ok=True)
        for i, content in enumerate(contents):
            (place / f"{i}.ppm").write_bytes(content)
    elif kind == "webdataset":
        (folder / "photos" / "test").mkdir(parents=True, exist_ok=True)
        (folder / "photos" / "test" / "0.tar").write_bytes(tar_bytes(contents))
    else:
        write_table(folder, [{"bytes": each, "path": None} for each in contents])
    layouts = [{"kind": kind, "folder": "photos"}]
    row = {"name": "own", "synonyms": str(synonym_file()), "conventions": {"own": {"layouts": layouts}}}
    (folder / "own.json").write_text(json.dumps(row))


def opened(folder):
    return open_benchmark(find_benchmark(folder / "own.json"), "nowhere")


def embedded(backbone, folder, cache, near_size=False, **work):
    """How many images were encoded, what became of all, and their embeddings, as `evaluate` asks for them."""
    job = ImageJob(opened(folder), backbone, near_size)
    key = backbone.image_key()
    stored = Cache(cache / key[:16] / job.place(key))
    done = encode(job, stored, **work)
    stored.refresh()
    images = images_of([done])
    rows = list(stored_rows(stored, images, backbone.dim).split(100))
    return done.images, [record for record, _ in images], torch.cat(rows) if rows else torch.empty(0)


def keeping_times(change, folder, shift):
    """Change files, and set their times to what they were, or to some nanoseconds before or after."""
    before = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    change()
    for path, status in before.items():
        if path.exists():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + shift))


class World:
    """A set of seven images, the model, and how it is asked: what changes are made to."""

    def __init__(self, root, kind, backbone):
        self.root, self.kind, self.backbone, self.work, self.near_size = root, kind, backbone, {}, False
        self.folder, self.contents = root / "set", [bitmap(i) for i in range(7)]
        write_images(self.folder, kind, self.contents)

    def write(self, shift=0):
        """Write the images anew; the times of files are those of before, but for the shift."""
        keeping_times(lambda: write_images(self.folder, self.kind, self.contents), self.folder, shift)

    def copy_model(self):
        processor = (self.backbone.tokenizer, copy.deepcopy(self.backbone.image_processor))
        self.backbone = Backbone(copy.deepcopy(self.backbone.model), processor)
        return self.backbone


# Each changes a world, and returns how many images are new; None: all.


def images(world, data):
    """Other contents of the same sizes, under the same names; the times stay, or are older or newer."""
    chosen = data.draw(st.sets(st.integers(0, 6), min_size=1), label="images")
    for i in chosen:
        world.contents[i] = bitmap(next(NEW))
    world.write(data.draw(st.sampled_from([0, -(10**9), -(10**15), 10**9]), label="shift of times in ns"))
    return len(chosen)


def another_set(world, data):
    """A set of the same name elsewhere, whose files have the times of the first."""
    shutil.copytree(world.folder, world.root / "other")
    world.folder = world.root / "other"
    return images(world, data)


def order(world, data):
    world.contents = data.draw(st.permutations(world.contents))
    world.write()
    return 0


def gone(world, data):
    del world.contents[data.draw(st.integers(0, 6))]
    shutil.rmtree(world.folder)
    world.write()
    return 0


def more(world, data):
    world.contents.insert(data.draw(st.integers(0, 7)), bitmap(next(NEW)))
    world.write()
    return 1


def broken(world, data):
    world.contents[data.draw(st.integers(0, 6))] = b"P6 is no picture"
    world.write()
    return 0


def repaired(world, data):
    broken(world, data)
    embedded(world.backbone, world.folder, world.root / "cache")
    world.contents = [bitmap(next(NEW)) if len(each) < 99 else each for each in world.contents]
    world.write()
    return 1


def image_processor(world, data):
    settings = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 0,
        "do_rescale": False,
    }
    name = data.draw(st.sampled_from(sorted(settings)))
    setattr(world.copy_model().image_processor, name, settings[name])


def weight(world, data):
    tower = dict(world.copy_model().model.vision_model.named_parameters())
    name = data.draw(st.sampled_from(sorted(tower)))
    with torch.no_grad():
        tower[name].view(-1)[data.draw(st.integers(0, tower[name].numel() - 1))] += 0.5


def text_tower(world, data):
    tower = world.copy_model().model.text_model
    with torch.no_grad():
        data.draw(st.sampled_from(sorted(tower.parameters(), key=torch.numel))).mul_(1.5)
    return 0


def dtype(world, data):
    cast_images(world.copy_model(), data.draw(st.sampled_from(["bfloat16", "float16"])))


def decoding(world, data):
    world.near_size = True


def batch_size(world, data):
    world.work["batch_size"] = data.draw(st.integers(1, 9))
    return 0


def nothing(world, data):
    return 0


MODEL = [image_processor, weight, dtype, batch_size, nothing]
IMAGES = [decoding, images, another_set, order, gone, more, broken, repaired, text_tower, *MODEL]


@pytest.mark.parametrize("kind", ["folders", "webdataset", "parquet"])
def test_cached_is_uncached_and_unchanged_hits(kind, backbone, tmp_path_factory):
    @LAW
    @given(
        data=st.data(),
        change=st.sampled_from(IMAGES),
    )
    def law(data, change):
        world = World(tmp_path_factory.mktemp("law"), kind, backbone)
        cache, fresh = world.root / "cache", world.root / "fresh"
        assert embedded(backbone, world.folder, cache, batch_size=3)[0] == 7
        new = change(world, data)
        near = world.near_size
        found, records, rows = embedded(world.backbone, world.folder, cache, near, **world.work)
        every, as_fresh, true = embedded(world.backbone, world.folder, fresh, near)
        assert found == (every if new is None else new)
        assert records == as_fresh
        torch.testing.assert_close(rows, true, atol=1e-5, rtol=0)
        assert embedded(world.backbone, world.folder, cache, near)[0] == 0

    law()


@pytest.mark.skipif(os.name == "nt", reason="there the time of the last change is not kept")
def test_a_change_amid_a_large_tar_that_keeps_its_size_and_time_is_seen(backbone, tmp_path):
    world = World(tmp_path, "webdataset", backbone)
    world.contents = [each + bytes(50_000) for each in world.contents]
    world.write()
    assert embedded(backbone, world.folder, tmp_path / "cache")[0] == 7
    world.contents[3] = bitmap(next(NEW)) + bytes(50_000)
    world.write()
    assert embedded(backbone, world.folder, tmp_path / "cache")[0] == 1


def test_a_function_that_prepares_images_is_the_same_in_the_next_process(backbone, tmp_path):
    """Its `repr` has an address, which another run has elsewhere."""

    class OpenClip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logit_scale, self.visual = torch.nn.Parameter(torch.tensor(3.0)), torch.nn.Linear(3, 8)

        def encode_image(self, pixels):
            return self.visual(pixels.mean((2, 3)))

        def encode_text(self, tokens):
            return torch.zeros(len(tokens), 8)

    def preprocess():
        return lambda image: to_tensor(image)

    def to_tensor(image):
        return torch.tensor(np.asarray(image.resize((4, 4)))).movedim(2, 0) / 255

    write_images(tmp_path, "folders", [bitmap(i) for i in range(5)])
    model, functions = OpenClip(), [preprocess(), preprocess()]
    assert repr(functions[0]) != repr(functions[1])
    found = [
        embedded(Backbone(model, (lambda texts: torch.zeros(len(texts), 4).long(), each)), tmp_path, tmp_path)
        for each in functions
    ]
    assert [images for images, *_ in found] == [5, 0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_find_what_this_process_left(backbone, tmp_path):
    world = World(tmp_path, "webdataset", backbone)
    assert [embedded(backbone, world.folder, tmp_path / "c", workers=count)[0] for count in (0, 1)] == [7, 0]
    world.contents[2] = bitmap(next(NEW))
    world.write()
    assert [embedded(backbone, world.folder, tmp_path / "c", workers=count)[0] for count in (2, 0)] == [1, 0]


def test_a_picture_that_a_table_names_is_a_file_of_it(backbone, tmp_path):
    write_images(tmp_path, "parquet", [b""])
    write_table(tmp_path, [{"bytes": None, "path": f"{i}.ppm"} for i in range(3)])
    for i in range(3):
        (tmp_path / "photos" / f"{i}.ppm").write_bytes(bitmap(i))
    assert embedded(backbone, tmp_path, tmp_path / "cache")[0] == 3
    assert embedded(backbone, tmp_path, tmp_path / "cache")[0] == 0
    path = tmp_path / "photos" / "1.ppm"
    keeping_times(lambda: path.write_bytes(bitmap(next(NEW))), tmp_path, 0)
    assert embedded(backbone, tmp_path, tmp_path / "cache")[0] == 1


def test_sets_share_what_they_have_in_common(backbone, tmp_path):
    """In one command and in several, in files, tars and tables."""
    contents, sets = [bitmap(i) for i in range(8)], []
    for kind in ("folders", "webdataset", "parquet"):
        write_images(tmp_path / kind, kind, contents[: 6 if kind == "folders" else 8])
        sets.append(replace(opened(tmp_path / kind), name=kind))
    asked = {"backbone": backbone, "cache": tmp_path / "cache", "methods": ["name"], "bootstrap": 2}
    run = evaluate(sets, **asked)
    assert [each.images_encoded for each in run.measured.benchmarks] == [6, 2, 0]
    shutil.copytree(tmp_path / "folders", tmp_path / "copy")
    again = evaluate([replace(opened(tmp_path / "copy"), name="copy")], **asked)
    assert [each.images_encoded for each in again.measured.benchmarks] == [0]


# ---- segmentation ---------------------------------------------------------------------------------------


class PixelWorld(World):
    """Three images with masks, as bitmaps, whose sizes do not hang on what they show."""

    layout: ClassVar = {"images": 3, "image_suffix": ".bmp", "mask_suffix": ".bmp"}

    def __init__(self, root, source, backbone):
        self.root, self.backbone, self.work, self.folder = root, backbone, {}, root / "set"
        shutil.copytree(source, self.folder)

    def run(self, cache):
        asked = {"bootstrap": 3, **self.work}
        run = evaluate([open_masks(self.folder)], backbone=self.backbone, cache=self.root / cache, **asked)
        content = run.to_dict()
        return content.pop("measured")["benchmarks"][0]["images_encoded"], content


def image_or_mask(world, data):
    path = data.draw(st.sampled_from(sorted(world.folder.rglob("*.bmp"))))
    turned = Image.open(path).rotate(180)
    keeping_times(lambda: turned.save(path), world.folder, data.draw(st.sampled_from([0, -(10**12)])))
    return 1


def masks_swapped(world, data):
    paths = sorted((world.folder / "masks").rglob("*.bmp"))[:2]
    first, second = (path.read_bytes() for path in paths)
    keeping_times(lambda: (paths[0].write_bytes(second), paths[1].write_bytes(first)), world.folder, 0)
    return 2


def row(world, data):
    own = data.draw(st.sampled_from([{"threshold": 0.2}, {"reduce_zero_label": True}, {"window": 24}]))
    write_row(world.folder, **world.layout, **own)


def word(world, data):
    path = world.folder / "words.json"
    words = json.loads(path.read_text())
    words["classes"][data.draw(st.integers(0, 9))]["synonyms"].append("none at all")
    path.write_text(json.dumps(words))


def row_of_tokens(world, data):
    """One row of the text tower's table, of a token that the names have: as textual inversion changes it."""
    token = world.backbone.tokenizer("zero").input_ids[1]
    with torch.no_grad():
        world.copy_model().model.text_model.embeddings.token_embedding.weight[token] += 1


def patch_features(world, data):
    world.work["patch_features"] = data.draw(st.sampled_from(["maskclip", "naclip", "patch"]))


PIXELS = [image_or_mask, masks_swapped, row, word, row_of_tokens, patch_features, *MODEL]


def test_cached_counts_are_those_of_a_fresh_run(backbone, tmp_path_factory):
    source = write_masks(tmp_path_factory.mktemp("masks") / "data", pictures=3)
    for path in source.rglob("0*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
    write_row(source, **PixelWorld.layout)

    @settings(LAW, max_examples=20)
    @given(
        data=st.data(),
        change=st.sampled_from(PIXELS),
    )
    def law(data, change):
        world = PixelWorld(tmp_path_factory.mktemp("law"), source, backbone)
        assert world.run("cache")[0] == 3
        new = change(world, data)
        found, results = world.run("cache")
        assert found == (3 if new is None else new)
        assert results == world.run("fresh")[1]
        assert world.run("cache")[0] == 0

    law()


def test_what_was_streamed_is_not_fetched_again_until_there_is_another_commit(hub, backbone, tmp_path):
    contents = [bitmap(i) for i in range(4)]
    repository = hub.repositories["me/set"] = Repository()

    def publish():
        repository.add({"test/0.tar": tar_bytes(contents)})

    def counted():
        hub.requests.clear()
        images = embedded(backbone, tmp_path, tmp_path / "stored")[0]
        return images, sum("GET" in request and "0.tar" in request for request in hub.requests)

    publish()
    write_images(tmp_path, "folders", contents)
    row = json.loads((tmp_path / "own.json").read_text())
    row["conventions"]["own"]["layouts"] = [{"kind": "webdataset", "hub": "me/set"}]
    (tmp_path / "own.json").write_text(json.dumps(row))
    images, fetched = counted()
    assert images == 4
    assert fetched
    assert counted() == (0, 0)
    contents[1] = bitmap(next(NEW))
    publish()
    images, fetched = counted()
    assert images == 1
    assert fetched
