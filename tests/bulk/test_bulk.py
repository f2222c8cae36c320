"""Bulk labelling: the same rows whoever computes them, each input once, and what broken input does."""

import copy
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead, cli
from s3clip.bench.timing import can_measure_memory, peak_growth
from s3clip.bulk import TooManyErrorsError, label
from s3clip.bulk import job as bulk_job
from s3clip.bulk.embedding_shards import ArrayShard, EmbeddingTable
from s3clip.bulk.inputs import state_now
from s3clip.demo import model_folder, synonym_file
from tests.local_sets import digit_jpegs

SIZES = {"batch_size": 8, "part_size": 16}


@pytest.fixture(scope="module")
def head() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())


@pytest.fixture(scope="module")
def digits() -> list[bytes]:
    return digit_jpegs(range(60))


@pytest.fixture
def pictures(tmp_path: Path, digits: list[bytes]) -> Path:
    """Files, a tar and a parquet file, 20 pictures each; not a whole number of parts."""
    root = tmp_path / "in"
    (root / "files").mkdir(parents=True)
    for i, content in enumerate(digits[:20]):
        (root / "files" / f"{i:03d}.jpg").write_bytes(content)
    write_tar(root / "shard.tar", digits[20:40])
    pq.write_table(pa.table({"image": digits[40:60]}), root / "table.parquet")
    return root


def write_tar(path: Path, contents: list[bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for i, content in enumerate(contents):
            for name, data in ((f"{i:04d}.jpg", content), (f"{i:04d}.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def rows_of(out: Path) -> list[dict]:
    rows = ds.dataset(out, format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["shard"], row["position"]))


def test_rows_are_what_predict_says(
    head: SynonymousSpaceHead, pictures: Path, digits: list[bytes], tmp_path: Path
):
    summary = label(pictures, head, tmp_path / "out", workers=0, top_k=3, **SIZES)
    rows = rows_of(tmp_path / "out")
    assert summary.rows == summary.labelled_now == len(rows) == 60
    assert len({(row["shard"], row["position"]) for row in rows}) == len({row["key"] for row in rows}) == 60
    images = [Image.open(io.BytesIO(content)) for content in digits]
    for row, expected in zip(rows, head.predict(images, top_k=3), strict=True):
        best = expected[0]
        assert (row["label"], row["class_index"], row["class_id"]) == (
            best.label,
            best.class_index,
            best.class_id,
        )
        assert (row["text"], row["accepted"], row["error"]) == (best.text, best.accepted, None)
        assert row["score"] == pytest.approx(best.score, abs=1e-4)
        assert row["top_class_index"] == [each.class_index for each in expected]
        assert row["top_score"] == pytest.approx([each.score for each in expected], abs=1e-4)
    logits = (
        head(**head.backbone.preprocess([image.convert("RGB") for image in images])).topk(2, dim=1).values
    )
    torch.testing.assert_close(torch.tensor([row["logit"] for row in rows]), logits[:, 0], atol=1e-3, rtol=0)
    margins = torch.tensor([row["margin"] for row in rows])
    torch.testing.assert_close(margins, logits[:, 0] - logits[:, 1], atol=1e-3, rtol=0)
    by_class = np.bincount([row["class_index"] for row in rows], minlength=10)
    assert summary.class_rows == by_class.tolist()
    assert sum(summary.score_histogram) == 60


def test_worker_processes_change_nothing(head: SynonymousSpaceHead, pictures: Path, tmp_path: Path):
    label(pictures, head, tmp_path / "one", workers=0, **SIZES)
    label(pictures, head, tmp_path / "two", workers=2, **SIZES)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")


def test_a_second_run_does_the_rest_alone(
    head: SynonymousSpaceHead, pictures: Path, digits: list[bytes], tmp_path: Path
):
    out = tmp_path / "out"
    label(pictures, head, out, workers=0, **SIZES)
    rows = rows_of(out)
    assert label(pictures, head, out, workers=0, **SIZES).labelled_now == 0
    # Any of the parts may be missing, also one in the middle or the first.
    for seed in range(4):
        files = sorted(file for file in out.glob("*-*.parquet"))
        gone = random.Random(seed).sample(files, 3)
        lost = sum(pq.read_metadata(file).num_rows for file in gone)
        times = {file: file.stat().st_mtime_ns for file in files if file not in gone}
        for file in gone:
            file.unlink()
        assert label(pictures, head, out, workers=0, **SIZES).labelled_now == lost
        assert rows_of(out) == rows
        assert all(file.stat().st_mtime_ns == then for file, then in times.items())
    # New files do not move those that were there.
    (pictures / "files" / "0005b.jpg").write_bytes(digits[0])
    assert label(pictures, head, out, workers=0, **SIZES).labelled_now == 1
    assert [row for row in rows_of(out) if not row["key"].endswith("0005b.jpg")] == rows


SCRIPT = """
import sys
import torch
from s3clip import SynonymousSpaceHead
from s3clip.bulk import label

if __name__ == "__main__":
    torch.set_num_threads(1)
    label(sys.argv[1], sys.argv[2], sys.argv[3], workers=int(sys.argv[4]), batch_size=8, part_size=16)
"""


def test_killed_and_started_again(
    head: SynonymousSpaceHead, pictures: Path, digits: list[bytes], tmp_path: Path
):
    write_tar(pictures / "long.tar", digits * 5)
    head.save_pretrained(tmp_path / "head")
    label(pictures, head, tmp_path / "whole", workers=0, **SIZES)
    (tmp_path / "job.py").write_text(SCRIPT)
    out = tmp_path / "out"
    line = [sys.executable, str(tmp_path / "job.py"), str(pictures), str(tmp_path / "head"), str(out), "0"]
    job = subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("*-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    there = {file.name: file.stat().st_mtime_ns for file in out.glob("*-*.parquet")}
    assert there
    subprocess.run(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    assert rows_of(out) == rows_of(tmp_path / "whole")
    assert all((out / name).stat().st_mtime_ns == then for name, then in there.items())


# ---- embeddings ----


@pytest.fixture(scope="module")
def space() -> SynonymousSpaceHead:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(count, 24, generator=generator) for count in (3, 1, 4)]
    names = ["cat", "dog", "sea"]
    return SynonymousSpaceHead().fit_embeddings(
        texts, names, texts=[[f"{n} {i}" for i in range(len(t))] for n, t in zip(names, texts, strict=True)],
        logit_scale=20.0,
    )  # fmt: skip


def test_every_form_of_embeddings_gives_the_same_rows(space: SynonymousSpaceHead, tmp_path: Path):
    vectors = np.random.default_rng(0).normal(size=(9000, 24)).astype(np.float16)
    np.save(tmp_path / "e.npy", vectors)
    flat = pa.array(vectors.reshape(-1))
    fixed = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, 24)})
    pq.write_table(fixed, tmp_path / "e.parquet", row_group_size=700)
    lists = pa.table({"embedding": pa.array(vectors.astype(np.float32).tolist(), pa.list_(pa.float32()))})
    with pa.ipc.new_stream(tmp_path / "stream.arrow", lists.schema) as writer:
        writer.write_table(lists, max_chunksize=1000)
    with pa.ipc.new_file(tmp_path / "file.arrow", fixed.schema) as writer:
        writer.write_table(fixed, max_chunksize=123)
    expected = space.predict(image_embeds=torch.from_numpy(vectors).float(), top_k=3, batch_size=4096)
    for name in ("e.npy", "e.parquet", "stream.arrow", "file.arrow"):
        label(tmp_path / name, space, tmp_path / f"out-{name}")
        rows = rows_of(tmp_path / f"out-{name}")
        assert [row["key"] for row in rows] == [f"{tmp_path / name}/{i}" for i in range(9000)]
        assert [row["top_class_index"] for row in rows] == [[p.class_index for p in own] for own in expected]
        assert [row["text"] for row in rows] == [own[0].text for own in expected]
        np.testing.assert_allclose(
            [row["score"] for row in rows], [own[0].score for own in expected], atol=1e-6
        )


def test_a_new_space_over_kept_embeddings(head: SynonymousSpaceHead, pictures: Path, tmp_path: Path):
    (pictures / "files" / "003.jpg").write_text("no picture")
    label(pictures, head, tmp_path / "old", workers=0, keep_embeddings=True, **SIZES)
    old = rows_of(tmp_path / "old")
    plain = SynonymousSpaceHead(head.backbone).fit_classes({"zero": [], "one": []})
    plain.save_pretrained(tmp_path / "plain")
    for other, name in ((head, "same"), (tmp_path / "plain", "other")):
        label(tmp_path / "old", other, tmp_path / name)
        rows = {row["key"]: row for row in rows_of(tmp_path / name)}
        assert rows.keys() == {row["key"] for row in old}
        for row in old:
            new = rows[row["key"]]
            assert new["error"] == row["error"]
            if row["error"] is not None:
                assert new["label"] is None
                continue
            if name == "same":
                assert (new["label"], new["text"]) == (row["label"], row["text"])
                assert new["logit"] == pytest.approx(row["logit"], abs=1e-4)
            else:
                vector = torch.tensor(np.array(row["embedding"], dtype=np.float32))[None]
                best = plain.predict(image_embeds=vector, top_k=1)[0][0]
                assert new["label"] == best.label


def test_kept_embeddings_of_another_backbone_are_refused(head, space, pictures: Path, tmp_path: Path):
    label(pictures, head, tmp_path / "old", workers=0, keep_embeddings=True, **SIZES)
    changed = json.loads((tmp_path / "old" / "_s3clip" / "manifest.json").read_text())
    changed["fingerprint"] = np.roll(changed["fingerprint"], 1).tolist()
    (tmp_path / "old" / "_s3clip" / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="another backbone"):
        label(tmp_path / "old", head, tmp_path / "new")
    label(pictures, head, tmp_path / "bare", workers=0, **SIZES)
    with pytest.raises(ValueError, match="without embeddings"):
        label(tmp_path / "bare", head, tmp_path / "new")


def test_embeddings_without_direction_are_errors(space: SynonymousSpaceHead, tmp_path: Path):
    vectors = np.ones((5, 24), np.float32)
    vectors[1], vectors[3, 4] = 0, np.nan
    np.save(tmp_path / "e.npy", vectors)
    summary = label(tmp_path / "e.npy", space, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["error"] is not None for row in rows] == [False, True, False, True, False]
    assert summary.errors == 2
    assert [row["label"] is None for row in rows] == [False, True, False, True, False]


def test_addresses_of_fsspec(space: SynonymousSpaceHead, tmp_path: Path):
    vectors = np.random.default_rng(1).normal(size=(70_000, 24)).astype(np.float16)
    np.save(tmp_path / "e.npy", vectors)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/in/e.npy", (tmp_path / "e.npy").read_bytes())
    assert label("memory://in/e.npy", space, "memory://out").labelled_now == 70_000
    assert label("memory://in/e.npy", space, "memory://out").labelled_now == 0
    label(tmp_path / "e.npy", space, tmp_path / "out")
    found = []
    for name in memory.glob("/out/*-*.parquet"):
        found += pq.read_table(io.BytesIO(memory.cat_file(name))).to_pylist()
    assert [row["logit"] for row in found] == [row["logit"] for row in rows_of(tmp_path / "out")]


# ---- broken input ----


def test_broken_pictures_are_rows(head: SynonymousSpaceHead, tmp_path: Path, digits: list[bytes]):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.jpg").write_bytes(digits[0])
    (root / "b.jpg").write_bytes(digits[1][: len(digits[1]) // 2])
    (root / "c.jpg").write_text("this is a text")
    (root / "d.jpg").write_bytes(b"")
    Image.new("L", (30_000, 30_000)).save(root / "e.png")
    (root / "f.jpg").write_bytes(digits[2])
    summary = label(root, head, tmp_path / "out", workers=0, **SIZES)
    rows = rows_of(tmp_path / "out")
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, True]
    assert "decompression bomb" in rows[4]["error"]
    assert (summary.rows, summary.errors, summary.broken) == (6, 4, {})


@pytest.mark.skipif(not can_measure_memory(), reason="memory is read from /proc")
def test_a_decompression_bomb_is_not_decoded(head: SynonymousSpaceHead, tmp_path: Path):
    root = tmp_path / "in"
    root.mkdir()
    Image.new("L", (30_000, 30_000)).save(root / "bomb.png")
    grown = peak_growth(lambda: label(root, head, tmp_path / "out", workers=0, **SIZES))
    assert grown < 400  # MiB; its pixels alone are 900 MB


def test_too_many_errors_stop_the_job(head: SynonymousSpaceHead, pictures: Path, tmp_path: Path):
    for i in range(12):
        (pictures / "files" / f"x{i}.jpg").write_text("no picture")
    with pytest.raises(TooManyErrorsError, match=r"12 of .* rows.*x0\.jpg"):
        label(pictures, head, tmp_path / "out", workers=0, max_error_share=0.005, **SIZES)
    assert label(pictures, head, tmp_path / "out", workers=0, max_error_share=0.5, **SIZES).errors == 12


def test_a_shard_that_breaks_off_is_tried_again(
    head: SynonymousSpaceHead, digits: list[bytes], tmp_path: Path
):
    tar, out = tmp_path / "in.tar", tmp_path / "out"
    write_tar(tar, digits)
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    summary = label(tar, head, out, workers=0, **SIZES)
    (why,) = summary.broken.values()
    assert "in.tar" in why
    rows = rows_of(out)
    assert rows[-1]["key"] == str(tar)
    assert rows[-1]["error"] == why
    assert 20 < len(rows) < 40
    assert [row["position"] for row in rows] == list(range(len(rows)))
    again = label(tar, head, out, workers=0, **SIZES)
    assert again.broken == summary.broken
    assert rows_of(out) == rows


@pytest.mark.parametrize(
    "name", ["zero.tar", "zero.npy", "zero.parquet", "zero.arrow", "text.tar", "text.npy"]
)
def test_files_that_are_none(head: SynonymousSpaceHead, tmp_path: Path, name: str, digits: list[bytes]):
    (tmp_path / name).write_bytes(b"" if name.startswith("zero") else b"a text " * 200)
    (tmp_path / "ok.jpg").write_bytes(digits[0])
    summary = label([tmp_path / name, tmp_path / "ok.jpg"], head, tmp_path / "out", workers=0, **SIZES)
    assert [name in why for why in summary.broken.values()] == [True]
    assert [row["error"] is None for row in sorted(rows_of(tmp_path / "out"), key=lambda r: r["key"])].count(
        True
    ) == 1
    (tmp_path / name).unlink()
    if name == "zero.tar":  # mended, it is read
        write_tar(tmp_path / name, digits[:3])
        assert (
            label([tmp_path / name, tmp_path / "ok.jpg"], head, tmp_path / "out", workers=0, **SIZES).broken
            == {}
        )
        assert len(rows_of(tmp_path / "out")) == 4


def test_a_missing_column_is_named(head: SynonymousSpaceHead, tmp_path: Path):
    pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "t.parquet")
    (why,) = label(tmp_path / "t.parquet", head, tmp_path / "out", workers=0, **SIZES).broken.values()
    assert "no column 'image'; it has: picture" in why


def test_an_input_that_changes(
    head: SynonymousSpaceHead, pictures: Path, digits: list[bytes], tmp_path: Path
):
    # While it is read: the file grows after it was listed.
    real = bulk_job.list_files

    def listed_then_changed(inputs, output):
        found = real(inputs, output)
        write_tar(pictures / "shard.tar", digits[:30])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_job, "list_files", listed_then_changed)
        summary = label(pictures, head, tmp_path / "out", workers=0, **SIZES)
    assert [f"{pictures / 'shard.tar'}: changed while it was read"] == list(summary.broken.values())
    assert label(pictures, head, tmp_path / "out", workers=0, **SIZES).broken == {}
    # Between runs.
    os.utime(pictures / "files" / "004.jpg", ns=(1, 1))
    before = rows_of(tmp_path / "out")
    with pytest.raises(ValueError, match=r"004\.jpg changed since it was labelled.*remove files-files"):
        label(pictures, head, tmp_path / "out", workers=0, **SIZES)
    assert rows_of(tmp_path / "out") == before


def test_other_settings_or_another_head_are_refused(head, space, pictures: Path, tmp_path: Path):
    out = tmp_path / "out"
    label(pictures, head, out, workers=0, **SIZES)
    before = rows_of(out)
    for change in ({"top_k": 2}, {"keep_embeddings": True}, {"batch_size": 16}):
        with pytest.raises(ValueError, match="other settings"):
            label(pictures, head, out, workers=0, **{**SIZES, **change})
    other = SynonymousSpaceHead(head.backbone).fit_classes({"cat": []})
    with pytest.raises(ValueError, match="other settings \\(head differ\\)"):
        label(pictures, other, out, workers=0, **SIZES)
    assert rows_of(out) == before


def one_weight(head: SynonymousSpaceHead) -> None:
    weight = next(p for name, p in head.backbone.model.named_parameters() if "vision" in name and p.ndim == 2)
    with torch.no_grad():
        weight[0, 0] += 1e-3


def processor_mean(head: SynonymousSpaceHead) -> None:
    head.backbone.image_processor.image_mean = [0.4, 0.5, 0.5]


def whole_tower(head: SynonymousSpaceHead) -> None:
    with torch.no_grad():
        for name, parameter in head.backbone.model.named_parameters():
            if "vision" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.02)


def text_tower(head: SynonymousSpaceHead) -> None:
    head.backbone.drop_text_tower()


@pytest.mark.parametrize("change", [one_weight, processor_mean, whole_tower, text_tower, None])
def test_a_job_goes_on_with_the_image_tower_that_began_it(head, pictures: Path, tmp_path: Path, change):
    out = tmp_path / "out"
    label(pictures / "files", head, out, workers=0, **SIZES)
    before = rows_of(out)
    other = copy.deepcopy(head)
    if change is not None:
        change(other)
    if change in (text_tower, None):
        assert label(pictures, other, out, workers=0, **SIZES).labelled_now == 40
        return
    with pytest.raises(ValueError, match="another image tower or image processor; give another folder"):
        label(pictures, other, out, workers=0, **SIZES)
    assert rows_of(out) == before
    # Of a folder that an older run began, the fingerprint is known alone.
    manifest = json.loads((out / "_s3clip" / "manifest.json").read_text())
    manifest.pop("image_key")
    (out / "_s3clip" / "manifest.json").write_text(json.dumps(manifest))
    if change is whole_tower:
        with pytest.raises(ValueError, match=r"out: .*: made with another backbone"):
            label(pictures, other, out, workers=0, **SIZES)
    assert label(pictures, head, out, workers=0, **SIZES).labelled_now == 40
    assert (
        json.loads((out / "_s3clip" / "manifest.json").read_text())["image_key"] == head.backbone.image_key()
    )


def test_output_that_cannot_be_written(head: SynonymousSpaceHead, pictures: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="is a file"):
        label(pictures, head, tmp_path / "file", workers=0, **SIZES)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "mine.parquet")
    with pytest.raises(ValueError, match=r"other holds mine.parquet and no results of s3clip"):
        label(pictures, head, tmp_path / "other", workers=0, **SIZES)
    label(pictures, head, tmp_path / "ours", workers=0, **SIZES)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "ours" / "mine.parquet")
    with pytest.raises(ValueError, match="no part that s3clip wrote"):
        label(pictures, head, tmp_path / "ours", workers=0, **SIZES)


def test_a_full_disk(space: SynonymousSpaceHead, tmp_path: Path):
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(70_000, 24)).astype(np.float16))
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # writing more fails, as on a full disk
    try:
        with pytest.raises(OSError, match="parquet"):
            label(tmp_path / "e.npy", space, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(out.glob("*-*.parquet"))
    assert not [file for file in out.rglob("*") if file.name.startswith(".")]
    assert label(tmp_path / "e.npy", space, out).rows == 70_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "spark"}, "engine: expected 'local' or 'ray'"),
        ({"top_k": 0}, "top_k: expected a whole number"),
        ({"part_size": 12}, "part_size: expected a multiple of batch_size"),
        ({"max_error_share": 2}, "max_error_share: expected a share"),
        ({"workers": -1}, "workers: expected a whole number"),
    ],
)
def test_arguments_out_of_range(head, pictures: Path, tmp_path: Path, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        label(pictures, head, tmp_path / "out", **{**SIZES, **arguments})
    assert not (tmp_path / "out").exists()


def test_numbers_and_paths_of_numpy_are_those_of_python(head, pictures: Path, tmp_path: Path):
    label(pictures / "files", head, tmp_path / "out", workers=0, top_k=3, **SIZES)
    numbers = {"top_k": np.int64(3), "workers": np.int32(0), "max_error_share": np.float32(0.5)}
    sizes = {name: np.int16(size) for name, size in SIZES.items()}
    paths = np.array([str(pictures / "files")])
    assert label(paths, head, tmp_path / "out", **numbers, **sizes).labelled_now == 0


def test_inputs_that_are_not_there(space: SynonymousSpaceHead, pictures: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "none.jpg", tmp_path / "empty", tmp_path / "*.npy"):
        with pytest.raises(FileNotFoundError, match="nothing there that can be labelled"):
            label(missing, space, tmp_path / "out")
    with pytest.raises(ValueError, match="no image tower"):
        label(pictures, space, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_blocks_begin_where_they_are_told(tmp_path: Path):
    vectors = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.save(tmp_path / "e.npy", vectors)
    pq.write_table(pa.table({"embedding": vectors.tolist()}), tmp_path / "e.parquet", row_group_size=3)
    for shard in (ArrayShard(str(tmp_path / "e.npy")), EmbeddingTable(str(tmp_path / "e.parquet"))):
        for start in (0, 8, 16, 24):
            blocks = list(shard.blocks(8, start))
            rows = np.concatenate([block[1] for block in blocks] or [vectors[:0]])
            np.testing.assert_array_equal(rows, vectors[start:])


def test_the_command(pictures: Path, head: SynonymousSpaceHead, tmp_path: Path, monkeypatch, capsys):
    head.save_pretrained(tmp_path / "head")
    line = [
        "s3clip",
        "label",
        str(pictures),
        "--head",
        str(tmp_path / "head"),
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", [*line, "--workers", "0"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert "60 rows" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "_s3clip" / "summary.json").read_text())["rows"] == 60
    assert 'class="bar"' in (tmp_path / "out" / "_s3clip" / "summary.html").read_text()
    (pictures / "zero.tar").write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "not finished" in capsys.readouterr().out


def test_a_change_that_keeps_size_and_time_is_seen(space, tmp_path: Path):
    file, out = tmp_path / "v.npy", tmp_path / "out"
    rows = np.random.default_rng(0).normal(size=(40, space.space.raw.shape[1])).astype(np.float32)
    np.save(file, rows)
    os.utime(file, ns=(5, 5))
    (listed,) = bulk_job.list_files([file])
    assert state_now(listed) == listed.state
    label(file, space, out)
    np.save(file, -rows)
    os.utime(file, ns=(5, 5))
    assert not listed.state.agrees(state_now(listed))
    with pytest.raises(ValueError, match=r"v\.npy changed since it was labelled"):
        label(file, space, out)
    # A listing of an older run has no digests: what it has is compared, and it goes on.
    listing = pq.read_table(out / "_s3clip" / "listing")
    pq.write_table(listing.drop_columns("ends"), out / "_s3clip" / "listing")
    assert label(file, space, out).labelled_now == 0
    assert pq.read_table(out / "_s3clip" / "listing").column("ends").to_pylist() == [state_now(listed).ends]
