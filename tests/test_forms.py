"""One picture in many forms gets one answer, whatever way it takes: none has a rule of its own.

A form that a way does not take is refused with an error; it never gets another answer.
"""

import base64
import io
import json
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import pipeline

from s3clip import S3ZeroShotImageClassificationPipeline, SynonymousSpaceHead, SynonymSet
from s3clip import bulk as bulk_jobs
from s3clip.app.editor import Editor
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation import compare
from s3clip.evaluation.benchmarks.opening import open_benchmark
from s3clip.evaluation.benchmarks.table import find_benchmark
from s3clip.evaluation.runs.run import evaluate
from tests.serving import serving_folder

# A seven, dark ink on white. On its side, inverted, all black or all white it is something else.
GREY = np.asarray(held_out_digits()[0][7])
LABEL = "seven"
INK = 255 - GREY
ZERO, WIDE = np.zeros_like(GREY), GREY.astype(np.int64) * 257
RGB = np.dstack([GREY] * 3)
BLACK_INK = np.dstack([ZERO, ZERO, ZERO, INK])
"""Ink on clear paper, and black under the paper too."""


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def of(array: np.ndarray, mode: str | None = None) -> Image.Image:
    return Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)


def turned(kind: str, **options) -> bytes:
    """The picture on its side, and an EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(of(np.rot90(RGB).copy()), kind, exif=exif, **options)


def clear_palette() -> Image.Image:
    """Grey levels as palette entries; what is paper is clear, and black like the rest of its palette."""
    image = Image.fromarray(np.where(GREY == 255, 255, GREY), "P")
    image.putpalette([level for i in range(255) for level in (i, i, i)] + [0, 0, 0])
    return image


FILES = {
    "rgb.png": encoded(of(RGB)),
    "grey.png": encoded(of(GREY)),
    "palette.png": encoded(of(GREY).convert("P")),
    "clear_palette.png": encoded(clear_palette(), transparency=255),
    "rgba.png": encoded(of(BLACK_INK)),
    "grey_alpha.png": encoded(Image.merge("LA", [of(ZERO), of(INK)])),
    "16_bits.png": encoded(of(WIDE.astype(np.uint16))),
    "16_bits.tif": encoded(of(WIDE.astype(np.uint16)), "TIFF"),
    "16_bits.pgm": b"P5 32 32 65535\n" + WIDE.astype(">u2").tobytes(),
    "32_bits.tif": encoded(of(WIDE.astype(np.int32)), "TIFF"),
    "float.tif": encoded(of((GREY / 255).astype(np.float32)), "TIFF"),
    "float_255.tiff": encoded(of(GREY.astype(np.float32)), "TIFF"),
    "grey.gif": encoded(of(GREY), "GIF"),
    "clear.webp": encoded(of(BLACK_INK), "WEBP", lossless=True, exact=True),
    "rgb.bmp": encoded(of(RGB), "BMP"),
    "rgb.ppm": encoded(of(RGB), "PPM"),
    "clear.tga": encoded(of(BLACK_INK), "TGA"),
    "turned.png": turned("PNG"),
    "several.tif": encoded(of(GREY), "TIFF", save_all=True, append_images=[of(ZERO)]),
    "upper.PNG": encoded(of(GREY)),
}
"""The same pixels, so that scores are the same too."""

LOSSY = {
    "one_bit.png": encoded(of(GREY > 127)),
    "rgb.jpg": encoded(of(RGB), "JPEG", quality=95),
    "cmyk.jpg": encoded(of(RGB).convert("CMYK"), "JPEG", quality=95),
    "turned.jpeg": turned("JPEG", quality=95),
    "turned.jfif": turned("JPEG", quality=95),
}
EVERY = FILES | LOSSY


class Pictures(Dataset):
    """A data set of torch, which has no __iter__."""

    def __init__(self, content):
        self.content = content

    def __len__(self):
        return len(self.content)

    def __getitem__(self, i):
        return self.content[i]


class Column(tuple):
    """In the place of a column of `datasets`: a sequence that is neither a list nor a data set of torch."""


@pytest.fixture(scope="module")
def head():
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())


@pytest.fixture(scope="module")
def classify(head):
    return pipeline(
        "zero-shot-image-classification",
        pipeline_class=S3ZeroShotImageClassificationPipeline,
        model=head.backbone.model,
        tokenizer=head.backbone.tokenizer,
        image_processor=head.backbone.image_processor,
        head=head,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of files, one class in it."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "photos" / LABEL).mkdir(parents=True)
    for name, content in EVERY.items():
        (folder / "photos" / LABEL / name).write_bytes(content)
    return folder / "photos" / LABEL


@pytest.fixture(scope="module")
def packed(folder):
    """The files in a tar, with their labels, and in a parquet file, as bytes and as records."""
    root = folder.parent.parent
    for place in ("tars/test", "tables"):
        (root / place).mkdir(parents=True)
    (root / "tars" / "test" / "nshards.txt").write_text("1")
    with tarfile.open(root / "tars" / "test" / "0.tar", "w") as tar:
        for i, (name, content) in enumerate(EVERY.items()):
            for member, inside in ((f"{i:02}{Path(name).suffix}", content), (f"{i:02}.cls", LABEL.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(inside)
                tar.addfile(info, io.BytesIO(inside))
    records = [{"bytes": content, "path": name} for name, content in EVERY.items()]
    paths = [{"bytes": None, "path": str(folder / name)} for name in EVERY]
    for i, column in enumerate((list(EVERY.values()), records, paths)):
        table = pa.table({"image": column, "label": [LABEL] * len(EVERY)})
        pq.write_table(table, root / "tables" / f"test-{i:05}-of-00003.parquet")
    return root


@pytest.fixture(scope="module")
def server(folder):
    with serving_folder(folder) as address:
        yield address


@pytest.fixture(scope="module")
def score(head):
    """The score of the plain grey picture."""
    answer = head.predict(of(GREY), top_k=1)[0][0]
    assert answer.label == LABEL
    assert answer.score > 0.9
    return answer.score


def opened(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def forms(folder: Path, server: str) -> dict[str, tuple[object, bool]]:
    """One picture in every form that `predict` documents, and whether its pixels are the same."""
    found = {}
    for name, content in EVERY.items():
        path = folder / name
        carriers = {
            "path": path,
            "text": str(path),
            "bytes": content,
            "record": {"bytes": content, "path": name},
            "PIL": opened(path),
            "URL": f"{server}/{name}",
            "base64": base64.b64encode(content).decode(),
        }
        found |= {f"{name} as {kind}": (carrier, name in FILES) for kind, carrier in carriers.items()}
    png = FILES["rgb.png"]
    alone = {
        "bytearray": bytearray(png),
        "memoryview": memoryview(png),
        "record of a path": {"bytes": None, "path": str(folder / "rgb.png")},
        "data URI": f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "base64 in lines": base64.encodebytes(png).decode(),
        "file://": f"file://{folder}/rgb.png",
        "numpy text": np.str_(folder / "rgb.png"),
        "array (h, w)": GREY,
        "array (h, w, 1)": GREY[..., None],
        "array (h, w, 3)": RGB,
        "array (h, w, 4)": BLACK_INK,
        "array of uint16": WIDE.astype(np.uint16),
        "tensor (1, h, w)": torch.from_numpy(GREY.copy())[None],
        "tensor (3, h, w)": torch.from_numpy(RGB).movedim(-1, 0),
        "tensor (4, h, w)": torch.from_numpy(BLACK_INK).movedim(-1, 0),
    }
    return found | {name: (form, True) for name, form in alone.items()}


def several(folder: Path) -> dict[str, object]:
    """Two pictures in every form in which `predict` takes several."""
    paths = [folder / "rgb.png", folder / "rgba.png"]
    pictures = [of(RGB), of(BLACK_INK)]
    return {
        "list": paths,
        "tuple": tuple(pictures),
        "column": Column(pictures),
        "column of records": Column({"bytes": FILES[name], "path": None} for name in ("rgb.png", "rgba.png")),
        "data set of torch": Pictures(pictures),
        "array of texts": np.array([str(path) for path in paths]),
        "array of paths": np.array(paths),
        "array of four dimensions": np.stack([RGB, RGB]),
        "tensor of four dimensions": torch.from_numpy(np.stack([RGB, RGB])).movedim(-1, 1),
        "generator": (path for path in paths),
        "iterator": map(Path, paths),
    }


def right_by_compare(head, images, count: int) -> bool:
    """Whether `compare` takes all of so many images for what they are."""
    result = compare(
        SynonymSet.read(synonym_file()),
        [LABEL] * count,
        backbone=head.backbone,
        images=images,
        methods=["default"],
        bootstrap=10,
    )
    return [each.top1 for each in result.scores if each.name == "default"] == [1.0]


def test_predict_pipeline_and_compare_answer_every_form_alike(folder, server, head, classify, score):
    every = forms(folder, server)
    assert len(every) > 150
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a form that cannot be read is a warning of `predict`
        by_predict = head.predict([form for form, _ in every.values()], top_k=1)
    for (name, (form, is_same)), (found,) in zip(every.items(), by_predict, strict=True):
        in_pipeline = classify(form, top_k=1, timeout=5)[0]
        for answer in ((found.label, found.score), (in_pipeline["label"], in_pipeline["score"])):
            assert answer[0] == LABEL, name
            assert not is_same or answer[1] == pytest.approx(score, abs=1e-5), name
    assert right_by_compare(head, [form for form, _ in every.values()], len(every))


@pytest.mark.parametrize("kind", several(Path()))
def test_several_pictures_are_told_from_one_everywhere(folder, head, classify, score, kind):
    def given():
        return several(folder)[kind]

    expected = [(LABEL, pytest.approx(score, abs=1e-5))] * 2
    assert [(own[0].label, own[0].score) for own in head.predict(given(), batch_size=1)] == expected
    answers = classify(given(), top_k=1)
    assert isinstance(answers, list) == (kind not in ("generator", "iterator", "data set of torch"))
    assert [(own[0]["label"], own[0]["score"]) for own in answers] == expected
    assert right_by_compare(head, given(), 2)
    sizes = [each.labels.shape for each in head.segment(given(), window=32, short_side=32)]
    assert sizes == [GREY.shape] * 2


def test_a_column_of_datasets(folder, head, classify, score):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    table = datasets.Dataset.from_dict({"image": [str(folder / name) for name in FILES]})
    for features in (None, datasets.Features({"image": datasets.Image()})):
        column = (table if features is None else table.cast(features))["image"]
        for answers in (
            [(own[0].label, own[0].score) for own in head.predict(column, top_k=1)],
            [(own[0]["label"], own[0]["score"]) for own in classify(column, top_k=1)],
        ):
            assert answers == [(LABEL, pytest.approx(score, abs=1e-5))] * len(FILES)
    with pytest.raises(TypeError, match="got dict of 'image'; give its image"):
        head.predict(table)


def labelled(head, inputs, out) -> dict[str, tuple[str | None, float | None, str | None]]:
    anywhere = {"allow_addresses": "file"}  # a table names photos beside its folder
    bulk_jobs.label(inputs, head, out, workers=0, progress=False, max_error_share=1, **anywhere)
    files = sorted(out.glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {row["key"]: (row["label"], row["score"], row["error"]) for row in rows}


@pytest.mark.parametrize(
    "inputs",
    ["photos", "tars/test/0.tar", *(f"tables/test-0000{i}-of-00003.parquet" for i in range(3))],
)
def test_label_answers_every_file_alike_wherever_it_lies(packed, head, score, tmp_path, inputs):
    found = labelled(head, packed / inputs, tmp_path / "out")
    names = sorted(EVERY) if inputs == "photos" else list(EVERY)
    assert len(found) == len(EVERY)
    for name, (label, own_score, error) in zip(names, found.values(), strict=True):
        assert (label, error) == (LABEL, None), name
        assert name in LOSSY or own_score == pytest.approx(score, abs=1e-5), name


def test_label_reads_web_addresses_where_fsspec_does(server, head, score, tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec needs aiohttp for web addresses")
    found = labelled(head, [f"{server}/{name}" for name in FILES], tmp_path / "out")
    assert len(found) == len(FILES)
    assert list(found.values()) == [(LABEL, pytest.approx(score, abs=1e-5), None)] * len(FILES)


@pytest.mark.parametrize("way", ["folders", "tar", "table"])
def test_eval_answers_every_file_alike_wherever_it_lies(packed, head, tmp_path, way):
    layouts = {
        "folders": {"kind": "folders", "folder": "photos"},
        "tar": {"kind": "webdataset", "folder": "tars"},
        "table": {"kind": "parquet", "folder": "tables"},
    }
    row = {
        "name": f"forms_{way}",
        "synonyms": str(synonym_file()),
        "conventions": {"own": {"headline": "top1", "layouts": [layouts[way]]}},
    }
    (packed / f"{way}.json").write_text(json.dumps(row))
    opened_set = open_benchmark(find_benchmark(str(packed / f"{way}.json")), "", allow_addresses="file")
    run = evaluate(
        [opened_set], backbone=head.backbone, cache=tmp_path, methods=["default"], bootstrap=10, workers=0
    )
    (found,) = run.benchmarks
    times = 3 if way == "table" else 1
    assert (found.counts.scored, found.counts.broken) == (times * len(EVERY), 0)
    assert [each.acc1 for each in found.scores if each.name == "default"] == [1.0]


def test_the_app_answers_every_file_alike(folder, head, score):
    editor = Editor(head.backbone)
    photos = editor.encode([str(folder / name) for name in EVERY])
    answers = editor.show(SynonymSet.read(synonym_file()), 0, photos, {}).answers
    best = {photos.names[each.image]: each for each in reversed(answers)}  # the first of three for each file
    assert {name: each.label for name, each in best.items()} == dict.fromkeys(EVERY, LABEL)
    assert {f"{best[name].score:.1%}" for name in FILES} == {f"{score:.1%}"}


REFUSED = {
    "floats": (RGB / 255).astype(np.float32),
    "preprocessed pixels": torch.zeros(3, 32, 32),
    "channels last of a tensor": torch.from_numpy(RGB),
    "numbers": 3,
    "a row of datasets": {"image": of(RGB), "label": 7},
    "a set": {"a.png"},
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_picture_is_refused_and_not_answered(head, classify, form):
    ways = (
        head.predict,
        classify,
        head.segment,
        lambda image: right_by_compare(head, [image], 1),
    )
    for way in ways:
        with pytest.raises(TypeError, match="images: expected"):
            way(REFUSED[form])


@pytest.mark.parametrize(
    "path",
    ["none.png", "photos/2024/holiday", "abcdefghijklmnopqrstuvwxyzABCDEF", "a" * 64],
)
def test_a_path_that_is_not_there_is_said_to_be_one(head, classify, path):
    for way in (head.predict, classify, head.segment):
        with pytest.raises(FileNotFoundError, match=path):
            way(path)


def test_text_that_is_base64_of_no_picture_is_said_to_be_that(head, classify):
    text = base64.b64encode(bytes(6000)).decode()
    with pytest.warns(UserWarning, match=r"the base64 text given: not a readable image .*; no prediction"):
        assert head.predict(text) == [[]]
    with pytest.raises(ValueError, match="the base64 text given: not a readable image"):
        classify(text)


def test_a_shard_is_no_picture_and_a_picture_in_memory_no_file(packed, head, classify, tmp_path):
    for shard in (packed / "tars/test/0.tar", packed / "tables/test-00000-of-00003.parquet"):
        with pytest.warns(UserWarning, match="not a readable image"):
            assert head.predict(shard) == [[]]
        with pytest.raises(ValueError, match="not a readable image"):
            classify(str(shard))
    for form in (
        of(RGB),
        RGB,
        torch.from_numpy(RGB),
        FILES["rgb.png"],
        [of(RGB)],
        {"bytes": b"", "path": ""},
    ):
        with pytest.raises(TypeError, match="inputs: expected paths or addresses, got"):
            bulk_jobs.label(form, head, tmp_path / "out")
