"""What `s3clip label` reads: every form of embeddings and pictures, and folders as people have them."""

import io
import json
import os
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from s3clip import SynonymousSpaceHead
from s3clip.bulk import label
from s3clip.bulk.arrays import open_array
from s3clip.bulk.decoding import EMBEDDING_BATCH
from s3clip.bulk.inputs import InputFile, into_shards, list_files, state_now
from s3clip.demo import model_folder, synonym_file
from s3clip.files.state import FileState

SIZES = {"batch_size": 8, "part_size": 16, "workers": 0}
VECTORS = np.random.default_rng(0).normal(size=(5000, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def head() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())


@pytest.fixture(scope="module")
def space() -> SynonymousSpaceHead:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(count, 24, generator=generator) for count in (3, 1, 4)]
    return SynonymousSpaceHead().fit_embeddings(texts, ["cat", "dog", "sea"], logit_scale=20.0)


def rows_of(out: Path) -> list[dict]:
    rows = ds.dataset(out, format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["shard"], row["position"]))


def picture(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def blocks(path: Path, start: int = 0, name: str | None = None, size: int = 8) -> np.ndarray:
    with open_array(str(path), name) as array:
        found = list(array.blocks(size, start))
        assert all(len(block) == size for block in found[:-1])
        return np.concatenate(found or [np.empty((0, array.dim))])


# Arrays


def test_arrays_of_every_form(tmp_path: Path):
    short, half = VECTORS[:43], torch.from_numpy(VECTORS[:43]).bfloat16()
    np.save(tmp_path / "a.npy", short)
    np.savez(tmp_path / "plain.npz", other=np.arange(3), vectors=short)
    np.savez_compressed(tmp_path / "packed.npz", other=np.arange(3), vectors=short)
    save_file({"other": np.arange(3.0), "vectors": short}, tmp_path / "a.safetensors", {"made": "by a test"})
    save_tensors({"x": half, "y": torch.zeros(3, 3)}, tmp_path / "half.safetensors")
    memory = fsspec.filesystem("memory")
    for start in (0, 8, 40, 48):
        for name in ("a.npy", "plain.npz", "packed.npz", "a.safetensors"):
            np.testing.assert_array_equal(blocks(tmp_path / name, start), short[start:])
            memory.pipe_file(f"/arrays/{name}", (tmp_path / name).read_bytes())
            with open_array(f"memory://arrays/{name}") as array:
                rows = [block.copy() for block in array.blocks(8, start)]
            np.testing.assert_array_equal(np.concatenate(rows or [short[:0]]), short[start:])
        np.testing.assert_array_equal(
            blocks(tmp_path / "half.safetensors", start, "x"), half.float().numpy()[start:]
        )
    for name, dtype in (("f2", np.float16), ("f8", np.float64)):
        save_file({"x": short.astype(dtype)}, tmp_path / f"{name}.safetensors")
        np.testing.assert_array_equal(blocks(tmp_path / f"{name}.safetensors"), short.astype(dtype))


def test_a_compressed_array_is_not_held_as_a_whole(tmp_path: Path):
    import tracemalloc

    np.savez_compressed(tmp_path / "zeros.npz", np.zeros((200_000, 64), np.float32))  # 51 MB
    tracemalloc.start()
    with open_array(str(tmp_path / "zeros.npz")) as array:
        assert sum(len(block) for block in array.blocks(1000)) == 200_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("i.npy", np.ones((3, 24), np.int64), "expected floats.*got int64 of shape"),
        ("1.npy", np.ones(24), r"of shape \(24,\)"),
        ("3.npy", np.ones((2, 3, 24)), r"of shape \(2, 3, 24\)"),
        ("f.npy", np.asfortranarray(np.ones((3, 24))), "Fortran order"),
        ("o.npy", np.array([[object()] * 24] * 3), "got object"),
        ("c.npy", np.ones((3, 24), np.complex64), "got complex64"),
    ],
)
def test_arrays_that_hold_no_embeddings(space, tmp_path: Path, name: str, array: np.ndarray, why: str):
    np.save(tmp_path / name, array, allow_pickle=True)
    np.savez(tmp_path / "z.npz", array)
    with pytest.raises(ValueError, match=why):
        blocks(tmp_path / name)
    with pytest.raises(ValueError, match="expected"):
        blocks(tmp_path / "z.npz")
    summary = label(tmp_path / name, space, tmp_path / "out")
    assert list(summary.broken) == [f"{tmp_path.name}-{name[0]}"]


def npy_of(header: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    return b"\x93NUMPY" + bytes(version) + len(header).to_bytes(2, "little") + header + bytes(96)


def safetensors_of(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + bytes(96)


def entry(**changed: object) -> str:
    return json.dumps({"a": {"dtype": "F32", "shape": [1, 24], "data_offsets": [0, 96], **changed}})


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
HOSTILE = [
    ("a.npy", npy_of(b"-" * 9000)),
    ("a.npy", npy_of(b"(" * 9000)),
    ("a.npy", npy_of((HEADER % "(1, 24)").encode(), (9, 0))),
    ("a.npy", npy_of((HEADER % "(-1, 24)").encode())),
    ("a.npy", npy_of((HEADER % f"(1, {2**62})").encode())),
    ("a.npy", npy_of((HEADER % f"({2**200}, 24)").encode())),
    ("a.npy", npy_of((HEADER % "(1e3, 24)").encode())),
    ("a.safetensors", safetensors_of("[" * 100_000)),
    ("a.safetensors", safetensors_of("[]")),
    ("a.safetensors", safetensors_of(entry(data_offsets=[-64, 32]))),
    ("a.safetensors", safetensors_of(entry(data_offsets=[0.0, 96.0]))),
    ("a.safetensors", safetensors_of(entry(data_offsets=[0, 96, 3]))),
    ("a.safetensors", safetensors_of(entry(shape=[-1, -24]))),
    ("a.safetensors", safetensors_of(entry(shape="many"))),
    ("a.safetensors", safetensors_of(entry(shape=[float("inf"), 24]))),
    ("a.safetensors", safetensors_of(entry(shape=[2**62, 2**62]))),
    ("a.safetensors", safetensors_of(entry(shape=[1, 2**70], data_offsets=[0, 2**72]))),
    ("a.safetensors", safetensors_of('{"a": {}, "a": {}}')),
    ("a.npz", b"PK\x05\x06" + bytes(18)),
]


@pytest.mark.parametrize(("name", "content"), HOSTILE)
def test_hostile_headers_break_their_own_shard_alone(space, tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "good.npy", np.ones((3, space.space.raw.shape[1]), np.float32))
    summary = label(tmp_path, space, tmp_path.with_name(f"{tmp_path.name}-out"), max_error_share=1.0)
    assert (summary.rows, summary.errors) == (4, 1)
    assert list(summary.broken) == [f"{tmp_path.name}-a"]


def test_a_pickle_is_never_loaded(space, tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    np.save(tmp_path / "o.npy", np.array([[Evil()]]), allow_pickle=True)
    np.savez(tmp_path / "o.npz", np.array([[Evil()]]))
    assert len(label([tmp_path / "o.npy", tmp_path / "o.npz"], space, tmp_path / "out").broken) == 2
    assert not (tmp_path / "owned").exists()


def test_which_array_is_read(space, tmp_path: Path):
    np.savez(tmp_path / "two.npz", a=VECTORS[:5], b=VECTORS[5:8])
    save_file({"a": VECTORS[:5], "b": VECTORS[5:8]}, tmp_path / "two.safetensors")
    for name in ("two.npz", "two.safetensors"):
        with pytest.raises(ValueError, match=r"one array of two dimensions, or its name .*a \(5, 24\), b"):
            blocks(tmp_path / name)
        with pytest.raises(ValueError, match="no array 'c'; it has: a, b"):
            blocks(tmp_path / name, name="c")
    summary = label([tmp_path / "two.npz", tmp_path / "two.safetensors"], space, tmp_path / "out", column="b")
    assert (summary.rows, summary.errors) == (6, 0)
    (why,) = set(label(tmp_path / "two.npz", space, tmp_path / "no", column="c").broken.values())
    assert "no array 'c'" in why


@pytest.mark.parametrize("name", ["a.npy", "plain.npz", "packed.npz", "a.safetensors"])
def test_an_array_that_is_cut_off(space, tmp_path: Path, name: str):
    np.save(tmp_path / "a.npy", VECTORS)
    np.savez(tmp_path / "plain.npz", VECTORS)
    np.savez_compressed(tmp_path / "packed.npz", VECTORS)
    save_file({"a": VECTORS}, tmp_path / "a.safetensors")
    whole = (tmp_path / name).read_bytes()
    for size in (0, 1, 7, 60, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:size])
        summary = label(tmp_path / name, space, tmp_path / f"out{size}")
        assert len(summary.broken) == summary.errors == 1
        done = summary.rows - 1
        assert [row["position"] for row in rows_of(tmp_path / f"out{size}")] == list(range(done + 1))
        assert done % EMBEDDING_BATCH == 0
        assert done == 0 or name in ("a.npy", "a.safetensors")  # the end of a zip says what is in it


def test_damaged_bytes_of_an_archive_are_noticed(space, tmp_path: Path):
    np.savez(tmp_path / "a.npz", VECTORS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    (why,) = label(tmp_path / "a.npz", space, tmp_path / "out").broken.values()
    assert "CRC" in why
    header = json.dumps({"a": {"dtype": "F32", "shape": [5, 24], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(480))
    (why,) = label(tmp_path / "a.safetensors", space, tmp_path / "out2").broken.values()
    assert "8 bytes" in why
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    (why,) = label(tmp_path / "text.npz", space, tmp_path / "out3").broken.values()
    assert "got: none" in why


# Lance


def test_lance_datasets(space, head, tmp_path: Path):
    lance = pytest.importorskip("lance", reason="Lance is not installed: pip install 's3clip[lance]'")
    root = tmp_path / "db"
    root.mkdir()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 24)
    table = pa.table({"embedding": vectors, "key": [f"k{i}" for i in range(len(VECTORS))]})
    lance.write_dataset(table, root / "vectors.lance", max_rows_per_file=700)
    np.save(tmp_path / "e.npy", VECTORS)
    label(root / "vectors.lance", space, tmp_path / "out")
    label(tmp_path / "e.npy", space, tmp_path / "expected")
    rows, expected = rows_of(tmp_path / "out"), rows_of(tmp_path / "expected")
    assert [row["key"] for row in rows] == [f"k{i}" for i in range(len(VECTORS))]
    assert [row["logit"] for row in rows] == [row["logit"] for row in expected]
    # In a folder, and by a glob, it is one input; so is a second one, of pictures.
    images = pa.table({"image": [picture(i) for i in range(20)]})
    lance.write_dataset(images, root / "pictures.lance")
    names = [str(root / "pictures.lance"), str(root / "vectors.lance")]
    for given in (root, root / "*.lance", f"file://{root}"):
        assert [file.path for file in list_files([given])] == names
    summary = label(root / "pictures.lance", head, tmp_path / "labels", **SIZES)
    assert (summary.rows, summary.errors) == (20, 0)
    # Its version tells a change.
    (listed,) = list_files([root / "vectors.lance"])
    assert listed.state == state_now(listed) == FileState(5000, "1")
    lance.write_dataset(table, root / "vectors.lance", mode="append")
    assert state_now(listed) == FileState(10_000, "2")
    with pytest.raises(ValueError, match=r"vectors\.lance changed since it was labelled"):
        label(root / "vectors.lance", space, tmp_path / "out")
    # What is named so and is none; one that is damaged is named, and the rest is read.
    (root / "stray.lance").write_bytes(b"a file")
    (root / "bad.lance" / "_versions").mkdir(parents=True)
    (root / "bad.lance" / "_versions" / "1.manifest").write_bytes(b"no manifest")
    with pytest.warns(UserWarning, match=r"passed over: 1 \.lance$"):
        summary = label(root, head, tmp_path / "some", max_error_share=1, column="image", **SIZES)
    assert summary.rows == 22
    assert sorted(summary.broken) == ["db-bad", "db-vectors"]
    # A file of it that is cut off.
    part = next((root / "pictures.lance" / "data").iterdir())
    part.write_bytes(part.read_bytes()[:-40])
    (why,) = label(root / "pictures.lance", head, tmp_path / "broken", **SIZES).broken.values()
    assert "pictures.lance: not a readable table" in why


def test_without_lance_its_extra_is_named(space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "v.lance" / "_versions").mkdir(parents=True)
    (tmp_path / "v.lance" / "_versions" / "1.manifest").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    with pytest.raises(ImportError, match=r"s3clip\[lance\]"):
        label(tmp_path / "v.lance", space, tmp_path / "out")


# Stores


def test_the_hub(head, tmp_path: Path, hub, monkeypatch: pytest.MonkeyPatch):
    from tests.hub_server import Repository
    from tests.images.test_sources import write_tar

    members = [(f"{i}.png", picture(20 * i)) for i in range(9)]
    tar = write_tar(tmp_path / "0.tar", members).read_bytes()
    hub.repositories["user/photos"] = repository = Repository()
    repository.add({"0.tar": tar, "photos/a.png": picture(7), "photos/b.png": b"no picture"})
    place = "hf://datasets/user/photos"
    assert all(state_now(file) == file.state != FileState(0) for file in list_files([place]))
    summary = label(place, head, tmp_path / "out", **SIZES)
    assert (summary.rows, summary.errors, summary.broken) == (11, 1, {})
    keys = [f"{place}/0.tar/{i}.png" for i in range(9)] + [f"{place}/photos/{name}.png" for name in "ab"]
    assert sorted(row["key"] for row in rows_of(tmp_path / "out")) == keys
    label(tmp_path / "0.tar", head, tmp_path / "here", **SIZES)
    there = {row["key"].rpartition("/")[2]: row["logit"] for row in rows_of(tmp_path / "out")}
    assert all(there[row["key"].rpartition("/")[2]] == row["logit"] for row in rows_of(tmp_path / "here"))
    # A store that fails makes no rows with an error that stay: the shard is tried again.
    hub.cut.update({"0.tar", "photos/a.png"})
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    summary = label(place, head, tmp_path / "again", **SIZES)
    assert len(summary.broken) == 2
    assert all("cannot be reached" in why for why in summary.broken.values())
    hub.cut.clear()
    assert label(place, head, tmp_path / "again", **SIZES).broken == {}
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "out")


# Folders as people have them


def test_mixed_inputs_in_one_job(head: SynonymousSpaceHead, tmp_path: Path):
    for folder in ("photos/a", "photos/b", "tables", "vectors"):
        (tmp_path / folder).mkdir(parents=True)
    for i, name in enumerate(("a/1.png", "a/2.PNG", "b/1.png", "b/readme.md", "b/.hidden.png")):
        (tmp_path / "photos" / name).write_bytes(picture(40 * i))
    pq.write_table(pa.table({"image": [picture(9)], "key": ["of the table"]}), tmp_path / "tables/t.parquet")
    dim = head.space.raw.shape[1]
    lists = pa.array(np.ones((2, dim)).tolist(), pa.list_(pa.float64()))
    pq.write_table(pa.table({"image_embeds": lists}), tmp_path / "vectors/t.parquet")
    np.save(tmp_path / "vectors" / "e.npy", np.ones((3, dim), np.float32))
    inputs = [
        tmp_path / "photos" / "*" / "1.png",
        tmp_path / "photos",
        tmp_path / "tables",
        tmp_path / "vectors",
    ]
    with pytest.warns(UserWarning, match=r"photos: passed over: 1 \.md, 1 hidden \.png$"):
        summary = label([*inputs, tmp_path / "photos"], head, tmp_path / "out", **SIZES)
    assert (summary.rows, summary.errors, summary.broken) == (9, 0, {})
    rows = rows_of(tmp_path / "out")
    keys = [f"{tmp_path}/photos/{name}" for name in ("a/1.png", "b/1.png", "a/2.PNG")]  # in the order given
    assert [row["key"] for row in rows if "photos" in row["key"]] == keys
    assert {"of the table", f"{tmp_path}/vectors/t.parquet/1", f"{tmp_path}/vectors/e.npy/2"} <= {
        row["key"] for row in rows
    }
    assert len({row["shard"] for row in rows}) == 4


def test_the_same_file_by_several_names_is_read_once(space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "e.npy", VECTORS[:3] if folder == "a" else VECTORS[3:7])
    names = [
        "a/e.npy",
        "./b/../a/e.npy",
        tmp_path / "a" / "e.npy",
        f"file://{tmp_path}/a/e.npy",
        "a",
        "*/e.npy",
    ]
    summary = label(names, space, "out")
    assert summary.rows == 7  # also of b/e.npy, whose name is the same
    assert {row["shard"] for row in rows_of(tmp_path / "out")} == {"a-e", "b-e"}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a").mkdir()
    np.save(tmp_path / "c" / "a" / "e.npy", VECTORS[:2])
    assert label(["a", "c"], space, "out2").rows == 5
    assert {row["shard"] for row in rows_of(tmp_path / "out2")} == {"a-e", "a-e-0001"}


def test_links(space, head, tmp_path: Path):
    real, folder = tmp_path / "real", tmp_path / "in"
    real.mkdir()
    folder.mkdir()
    np.save(real / "e.npy", VECTORS[:3])
    (real / "1.png").write_bytes(picture(1))
    os.utime(real / "e.npy", ns=(5, 5))
    (folder / "e.npy").symlink_to(real / "e.npy")
    (folder / "loop").symlink_to(folder)
    (folder / "other").symlink_to(real)
    found = [f"{folder}/{name}" for name in ("e.npy", "other/1.png", "other/e.npy")]
    assert [file.path for file in list_files([folder])] == found
    (folder / "other").unlink()
    summary = label(folder, space, tmp_path / "out")
    assert (summary.rows, summary.broken) == (3, {})
    np.save(real / "e.npy", VECTORS[:4])
    with pytest.raises(ValueError, match=r"e\.npy changed"):
        label(folder, space, tmp_path / "out")
    # A link to nothing is a picture that is not there; a pipe is no picture, and nobody waits for it.
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(folder / "pipe.png")
    with pytest.warns(UserWarning, match=r"passed over: 1 \.png$"):
        summary = label(folder / "*.png", head, tmp_path / "pictures", **SIZES)
    assert (summary.rows, summary.errors, summary.broken) == (1, 1, {})
    assert "gone.png: not a readable image (a link to nothing)" in rows_of(tmp_path / "pictures")[0]["error"]


def test_names_that_are_no_utf8(head, space, tmp_path: Path):
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for name, content in ((b"caf\xe9.png", picture(3)), (b"br\xfcche.png", b"no picture")):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    with open(os.path.join(folder, b"\xff.npy"), "wb") as file:
        np.save(file, np.ones((2, head.space.raw.shape[1]), np.float32))
    with open(os.path.join(folder, b"\xfe.tar"), "wb"):
        pass
    for _ in range(2):
        summary = label(tmp_path / "in", head, tmp_path / "out", max_error_share=1, **SIZES)
        assert (summary.rows, summary.errors, len(summary.broken)) == (5, 2, 1)
    rows = {row["key"].rpartition("in/")[2]: row for row in rows_of(tmp_path / "out")}
    assert set(rows) == {r"caf\xe9.png", r"br\xfcche.png", r"\xff.npy/0", r"\xff.npy/1", r"\xfe.tar"}
    assert rows[r"caf\xe9.png"]["label"] is not None
    assert r"br\xfcche.png: not a readable image" in rows[r"br\xfcche.png"]["error"]


def test_tables_without_rows(space, head, tmp_path: Path):
    embeddings = pa.schema([("embedding", pa.list_(pa.float32(), 24))])
    pq.write_table(embeddings.empty_table(), tmp_path / "e.parquet")
    np.save(tmp_path / "e.npy", VECTORS[:0])
    for name in ("e.parquet", "e.npy"):
        for labelled in (0, 0):
            summary = label(tmp_path / name, space, tmp_path / f"out-{name}")
            assert (summary.rows, summary.labelled_now, summary.broken) == (0, labelled, {})
    pq.write_table(pa.schema([("image", pa.binary())]).empty_table(), tmp_path / "p.parquet")
    assert label(tmp_path / "p.parquet", head, tmp_path / "out-p", **SIZES).rows == 0


def test_rows_of_nan_in_a_table(space, tmp_path: Path):
    vectors = VECTORS[:4].copy()
    vectors[1] = np.nan
    lists = [None if i == 2 else row.tolist() for i, row in enumerate(vectors)]
    pq.write_table(pa.table({"embedding": pa.array(lists, pa.list_(pa.float32()))}), tmp_path / "e.parquet")
    label(tmp_path / "e.parquet", space, tmp_path / "out")
    errors = [row["error"] for row in rows_of(tmp_path / "out")]
    assert errors == [None, "its embedding is zero, NaN or Inf", "no embedding in this row", None]


def test_embeddings_of_another_size_are_named_and_stop_nothing(space, tmp_path: Path):
    np.save(tmp_path / "good.npy", VECTORS[:3])
    np.save(tmp_path / "none.npy", np.ones((4, 0), np.float32))
    np.save(tmp_path / "other.npy", np.ones((4, 10), np.float32))
    lists = pa.array([[1.0] * 25], pa.list_(pa.float32()))
    pq.write_table(pa.table({"embedding": lists}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"embedding": [[1] * 24]}), tmp_path / "whole.parquet")
    pq.write_table(pa.table({"embedding": [[1.0] * 24, [1.0] * 23]}), tmp_path / "ragged.parquet")
    summary = label(tmp_path, space, tmp_path / "out")
    assert (summary.rows, summary.errors, len(summary.broken)) == (8, 5, 5)
    said = " ".join(summary.broken.values())
    for got in (0, 10, 25):
        assert f"expected rows of 24 numbers, as the head has, got {got} " in said
    assert said.count("expected lists of floats of one length") == 2


@pytest.mark.parametrize(("inputs", "why"), [([], "none were given"), ("", "got an empty text")])
def test_no_input_is_not_the_folder_one_is_in(space, tmp_path: Path, inputs, why: str):
    with pytest.raises(ValueError, match=why):
        label(inputs, space, tmp_path / "out")
    with pytest.raises(ValueError, match="got an empty text"):
        label(tmp_path, space, "")


# Results among the inputs


def test_results_are_no_inputs_but_where_they_are_asked_for(head, tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        (photos / f"{i}.png").write_bytes(picture(50 * i))
    (photos / "manifest.json").write_text("// of somebody else's")
    out = photos / "labels"
    for _ in range(2):  # the results lie in the input
        with pytest.warns(UserWarning, match=r"photos: passed over: 1 \.json$"):
            assert label(photos, head, out, keep_embeddings=True, **SIZES).rows == 3
    (photos / "manifest.json").unlink()
    (out / "_s3clip" / "picture.png").write_bytes(picture(1))
    assert label(photos, head, out, keep_embeddings=True, **SIZES).rows == 3
    assert label(photos, head, tmp_path / "elsewhere", **SIZES).rows == 3
    assert {row["key"] for row in rows_of(tmp_path / "elsewhere")} == {f"{photos}/{i}.png" for i in range(3)}
    # Asked for, its embeddings are labelled, and no picture.
    other = SynonymousSpaceHead().fit_embeddings(
        [torch.ones(1, head.space.raw.shape[1])], ["all"], logit_scale=1.0
    )
    assert label(out, other, tmp_path / "again").rows == 3
    label(out / "*", other, tmp_path / "by a glob")
    assert rows_of(tmp_path / "by a glob") == rows_of(tmp_path / "again")
    memory = fsspec.filesystem("memory")
    for file in (each for each in out.rglob("*") if each.is_file()):
        memory.pipe_file(f"/results/{file.relative_to(out).as_posix()}", file.read_bytes())
    assert label("memory://results", other, "memory://more").rows == 3
    with pytest.raises(ValueError, match=r"lies in out"):
        label("memory://results/_s3clip/manifest.json", other, "memory://results")
    for given in (out, out / "*.parquet", next(out.glob("*-*.parquet"))):
        with pytest.raises(ValueError, match=r"lies in out"):
            label(given, head, out, **SIZES)
    with pytest.raises(ValueError, match=r"photos holds 0.png, .* and no results of s3clip label"):
        label(photos, head, photos, **SIZES)
    (tmp_path / "link").symlink_to(photos)
    assert label(tmp_path / "link", head, tmp_path / "link" / "labels2", **SIZES).rows == 3
    assert label(tmp_path / "link", head, photos / "labels2", **SIZES).rows == 3


def test_a_folder_that_may_not_be_read_is_named(space, tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "in" / "closed").mkdir(parents=True)
    np.save(tmp_path / "in" / "e.npy", VECTORS[:3])
    (tmp_path / "in" / "closed").chmod(0)
    try:
        with pytest.raises(PermissionError, match="closed"):
            label(tmp_path / "in", space, tmp_path / "out")
    finally:
        (tmp_path / "in" / "closed").chmod(0o755)


def test_tens_of_thousands_of_runs_of_pictures_are_numbered_on():
    """Twenty thousand shards, as of ten million pictures: a search of all names for each takes too long."""
    files = [InputFile(f"/p/{i}.jpg", FileState(1)) for i in range(20_000)]
    first = into_shards(files[:7], [], 1)
    shards = into_shards(files, first, 1)
    assert [file.path for file in shards] == [file.path for file in files]
    assert [file.shard for file in shards] == [f"p-files-{i:04d}" for i in range(20_000)]
    others = [InputFile(f"/{folder}/p.files.tar", FileState(1)) for folder in ("p", "p_", "a/p", "_p")]
    own = [file.shard for file in into_shards(others, shards, 1)[20_000:]]
    assert own == ["p-p", "p_-p", "p-p-0001", "p-p-0002"]
