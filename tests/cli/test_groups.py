"""Groups, subsets and languages outside of Python: the command line, bulk jobs, the pipeline, ONNX."""

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from s3clip import S3ZeroShotImageClassificationPipeline, SynonymousSpaceHead, export_onnx
from s3clip.demo import held_out_digits, model_folder
from s3clip.files.writing import write_atomically
from tests.cli.test_cli import run

NAMES = "zero one two three four five six seven eight nine".split()
GERMAN = "Null Eins Zwei Drei Vier Fünf Sechs Sieben Acht Neun".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of every digit, and a head of the digits in groups."""
    where = tmp_path_factory.mktemp("groups")
    images, labels = held_out_digits()
    (where / "photos").mkdir()
    for number in range(10):
        image = images[list(labels).index(number)]
        image.convert("RGB").resize((64, 64)).save(where / "photos" / f"{number}.png")
    records = [
        {
            "name": name,
            "groups": {"kind": "digit", "parity": "odd" if number % 2 else "even"},
            "names": {"de": GERMAN[number]} if number != 3 else {},
        }
        for number, name in enumerate(NAMES)
    ]
    write_atomically(where / "digits.json", json.dumps(records).encode())
    assert (
        run("fit", where / "digits.json", "--backbone", model_folder(), "--out", where / "space").exit_code
        == 0
    )
    return where


@pytest.fixture(scope="module")
def head(folder: Path) -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_pretrained(folder / "space")


def predicted(folder: Path, *options: object):
    result = run("predict", folder / "photos", "--head", folder / "space", "--format", "json", *options)
    assert result.exit_code == 0, result.output
    return [row["predictions"] for row in json.loads(result.stdout)]


def test_predict(folder: Path, head: SynonymousSpaceHead):
    photos = sorted((folder / "photos").iterdir())
    for options, arguments in (
        (("--level", "parity"), {"level": "parity"}),
        (("--among", "parity=odd", "--among", "two"), {"among": [{"parity": "odd"}, "two"]}),
        (("--among", "even", "--level", "kind"), {"among": ["even"], "level": "kind"}),
    ):
        expected = head.predict(photos, top_k=3, **arguments)
        found = predicted(folder, "--top-k", 3, *options)
        assert [[(p["label"], p["groups"]) for p in own] for own in found] == [
            [(p.label, p.groups) for p in own] for own in expected
        ]
        assert [[p["score"] for p in own] for own in found] == [
            [pytest.approx(p.score, abs=1e-5) for p in own] for own in expected
        ]
    assert [own[0]["label"] for own in predicted(folder, "--level", "parity")] == ["even", "odd"] * 5
    with pytest.warns(UserWarning, match="1 of 10 classes have no name in 'de'"):
        labels = [own[0]["label"] for own in predicted(folder, "--language", "de")]
    assert labels == [*GERMAN[:3], "three", *GERMAN[4:]]
    result = run("predict", folder / "photos", "--head", folder / "space", "--sets", "--level", "parity")
    assert "leave --level and --among out" in str(result.exception)
    result = run("predict", folder / "photos", "--head", folder / "space", "--level", "shape")
    assert "there are 'kind', 'parity'" in str(result.exception)


@pytest.mark.filterwarnings("ignore:.*passed over")
def test_label(folder: Path, head: SynonymousSpaceHead, tmp_path: Path):
    result = run(
        *("label", folder / "photos", "--head", folder / "space", "--out", tmp_path / "out"),
        *("--level", "parity", "--among", "odd", "--among", "two", "--workers", 0),
    )
    assert result.exit_code == 0, result.output
    parts = [str(file) for file in (tmp_path / "out").glob("*.parquet") if file.name != "listing.parquet"]
    rows = sorted(ds.dataset(parts).to_table().to_pylist(), key=lambda row: row["key"])
    photos = sorted((folder / "photos").iterdir())
    classes = head.predict(photos, top_k=5, among=["odd", "two"])
    groups = head.predict(photos, top_k=1, among=["odd", "two"], level="parity")
    for row, own, (group,) in zip(rows, classes, groups, strict=True):
        assert row["top_class_index"] == [p.class_index for p in own]
        assert row["top_score"] == pytest.approx([p.score for p in own], abs=1e-4)
        assert (row["group"], row["group_score"]) == (group.label, pytest.approx(group.score, abs=1e-4))
    again = run(
        *("label", folder / "photos", "--head", folder / "space", "--out", tmp_path / "out"),
        *("--level", "kind", "--among", "odd", "--among", "two", "--workers", 0),
    )
    assert "(level differ)" in str(again.exception)


def test_pipeline(folder: Path, head: SynonymousSpaceHead):
    classify = S3ZeroShotImageClassificationPipeline(head=head)
    photos = [str(file) for file in sorted((folder / "photos").iterdir())]
    for asked in ({"level": "parity"}, {"among": ["odd"]}, {"among": ["odd", 2], "level": "parity"}):
        expected = head.predict(photos, top_k=99, **asked)
        found = classify(photos, batch_size=3, **asked)
        assert [[answer["label"] for answer in own] for own in found] == [
            [p.label for p in own] for own in expected
        ]
        assert [[answer["score"] for answer in own] for own in found] == [
            [pytest.approx(p.score, abs=1e-5) for p in own] for own in expected
        ]
    with pytest.warns(UserWarning, match="have no name in 'de'"):
        assert classify(photos[1], language="de", top_k=1)[0]["label"] == "Eins"
    with pytest.raises(ValueError, match="no class has a group at 'shape'"):
        classify(photos[1], level="shape")


def test_onnx(head: SynonymousSpaceHead, folder: Path, tmp_path: Path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = ort.InferenceSession(str(export_onnx(head, tmp_path / "a.onnx")))
    told = session.get_modelmeta().custom_metadata_map
    groups = json.loads(told["groups"])
    pixels = head.backbone.preprocess([held_out_digits()[0][i].convert("RGB") for i in range(4)])[
        "pixel_values"
    ]
    logits = session.run(["logits"], {"pixel_values": pixels.numpy()})[0]
    weights = np.exp((logits - logits.max(1, keepdims=True)) / float(told["temperature"]))
    probabilities = weights / weights.sum(1, keepdims=True)
    assert list(groups) == ["kind", "parity"]
    for level, of_level in groups.items():
        matrix = np.eye(len(of_level["names"]))[of_level["owners"]]  # (classes, groups)
        assert of_level["names"] == head.group_names(level)
        expected = head.group_probabilities(head(pixels), level).detach().numpy()
        np.testing.assert_allclose(probabilities @ matrix, expected, atol=1e-5)
