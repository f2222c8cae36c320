"""Labels of pictures decoded near their size, by towers in other types; what a folder has recorded stays."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s3clip import SynonymousSpaceHead
from s3clip.backbone import precision
from s3clip.bulk import label
from s3clip.bulk.decoding import RowsPer, listed_batches
from s3clip.bulk.embedding_shards import ArrayShard, EmbeddingTable
from s3clip.bulk.local import read_ahead
from s3clip.bulk.output import Output
from s3clip.demo import held_out_digits, model_folder, synonym_file
from tests.bulk.test_bulk import rows_of

GIVEN = {"batch_size": 8, "part_size": 16, "workers": 0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    return head.save_pretrained(tmp_path_factory.mktemp("head"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in 40 times the size that the model needs, upright and turned by their tag."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, image in enumerate(held_out_digits()[0][:40]):
        large, exif = image.convert("RGB").resize((640, 640), Image.Resampling.BICUBIC), Image.Exif()
        if i % 2:
            large = large.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6
        sink = io.BytesIO()
        large.save(sink, "JPEG", quality=90, exif=exif)
        (folder / f"{i:03d}.jpg").write_bytes(sink.getvalue())
    return folder


def test_near_size_labels_are_those_of_whole_pictures(saved: Path, photographs: Path, tmp_path: Path):
    label(photographs, saved, tmp_path / "whole", **GIVEN)
    label(photographs, saved, tmp_path / "near", near_size=True, **GIVEN)
    whole, near = rows_of(tmp_path / "whole"), rows_of(tmp_path / "near")
    assert [row["key"] for row in near] == [row["key"] for row in whole]
    scores = [(a["score"], b["score"]) for a, b in zip(whole, near, strict=True)]
    assert np.abs(np.diff(scores)).max() < 0.05
    assert [row["label"] for row in near] == [row["label"] for row in whole]
    assert all(row["note"] is None for row in near)
    manifest = Output(tmp_path / "near").manifest()
    assert manifest is not None
    assert manifest.settings["near_size"] is True


@pytest.mark.parametrize("first", [{}, {"near_size": True}, {"dtype": "bfloat16"}, {"dtype": "float16"}])
@pytest.mark.parametrize("then", [{}, {"near_size": True}, {"dtype": "bfloat16"}, {"dtype": "float32"}])
def test_a_folder_takes_the_same_settings_alone(saved: Path, photographs: Path, tmp_path: Path, first, then):
    label(photographs, saved, tmp_path, **first, **GIVEN)
    exact = {"dtype": "float32"}
    if {**exact, **first} == {**exact, **then}:
        assert label(photographs, saved, tmp_path, **then, **GIVEN).labelled_now == 0
        return
    with pytest.raises(ValueError, match="results of other settings"):
        label(photographs, saved, tmp_path, **then, **GIVEN)


def test_what_auto_took_is_kept_by_the_next_run_whatever_the_machine_says_then(
    saved: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(precision, "_FASTER", 0.0)
    monkeypatch.setattr(precision, "_candidates", lambda device: ["bfloat16"])
    first = label(photographs, saved, tmp_path, dtype="auto", **GIVEN)
    assert first.precision is not None
    assert first.precision.startswith("auto takes bfloat16: ")
    parts = sorted(tmp_path.glob("*-0*.parquet"))
    before = rows_of(tmp_path)
    parts[-1].unlink()
    monkeypatch.setattr(precision, "_candidates", lambda device: [])
    again = label(photographs, saved, tmp_path, dtype="auto", **GIVEN)
    assert again.precision == "auto keeps bfloat16, which the results that are there were made with"
    assert again.labelled_now > 0
    assert rows_of(tmp_path) == before
    alone = label(photographs, saved, tmp_path / "other", dtype="auto", **GIVEN)
    assert alone.precision == "auto stays with float32: cpu has no faster one"


def test_a_head_that_is_given_is_not_changed(saved: Path, photographs: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="dtype, compiled, backbone: are for a head that is loaded here"):
        label(
            photographs, SynonymousSpaceHead.from_pretrained(saved), tmp_path / "out", dtype="auto", **GIVEN
        )
    with pytest.raises(ValueError, match="dtype: expected one of auto"):
        label(photographs, saved, tmp_path / "out", dtype="int8", **GIVEN)
    assert not (tmp_path / "out").exists()


@given(count=st.integers(0, 9), ahead=st.integers(1, 4), breaks=st.integers(0, 9), taken=st.integers(0, 9))
def test_what_is_read_ahead_is_what_is_read(count: int, ahead: int, breaks: int, taken: int):
    closed = []

    def things():
        try:
            for number in range(count):
                if number == breaks:
                    raise OSError("broken")
                yield number
        finally:
            closed.append(True)

    found, reader = [], read_ahead(things(), ahead)
    try:
        for thing in reader:
            found.append(thing)
            if len(found) == taken:
                break
    except OSError:
        assert breaks < count
    reader.close()
    until = min(count, breaks)
    assert found == list(range(min(until, taken) if taken else until))


@pytest.mark.parametrize("kind", ["npy", "parquet", "arrow", "lance"])
def test_embeddings_read_ahead_are_the_same_rows_in_the_same_order(kind: str, tmp_path: Path):
    rows = np.random.default_rng(0).standard_normal((1_000, 6)).astype(np.float16)
    path = tmp_path / f"rows.{kind}"
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 6)})
    if kind == "npy":
        np.save(path, rows)
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=130)
    elif kind == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=90)
    else:
        pytest.importorskip("lance").write_dataset(table, str(path))
    shard = ArrayShard(str(path)) if kind == "npy" else EmbeddingTable(str(path))
    batches = list(read_ahead(listed_batches(shard, RowsPer(64, 256)), 2))
    assert [key for batch in batches for key in pa.array(batch.keys).to_pylist()] == [
        f"{path}/{i}" for i in range(1_000)
    ]
    found = np.concatenate([batch.inputs["image_embeds"].numpy() for batch in batches])
    assert np.array_equal(found, rows.astype(np.float32))
    assert [batch.first for batch in batches] == list(range(0, 1_000, 64))
