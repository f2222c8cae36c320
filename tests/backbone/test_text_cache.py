"""The cache of text embeddings: fewer texts encoded, the same answers, and never an error."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.backbone.text_cache import TextCache
from tests.tiny_models import DIM, build

PETS = {"cat": ["feline", "kitty"], "dog": ["hound"]}
ENCODER = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S3CLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that reached the text tower, without those of the fingerprint."""
    from s3clip.backbone.backbone import Backbone
    from s3clip.backbone.identity import FINGERPRINT_TEXTS

    seen: list[str] = []
    whole = Backbone.encode_texts

    def spy(self, texts, **kwargs):
        if texts is not FINGERPRINT_TEXTS:
            seen.extend(texts)
        return whole(self, texts, **kwargs)

    monkeypatch.setattr(Backbone, "encode_texts", spy)
    return seen


def test_one_more_synonym_encodes_one_text(head: SynonymousSpaceHead, folder: Path, encoded: list[str]):
    head.fit_classes(PETS)
    assert len(encoded) == 5
    encoded.clear()
    other = SynonymousSpaceHead(*build("clip"))
    other.fit_classes({"cat": ["feline", "kitty", "moggy"], "dog": ["hound"]})
    assert encoded == ["a photo of a moggy."]
    fresh = SynonymousSpaceHead(*build("clip"))
    fresh.fit_classes({"cat": ["feline", "kitty", "moggy"], "dog": ["hound"]}, cache=False)
    torch.testing.assert_close(other.text_embeddings, fresh.text_embeddings, atol=1e-6, rtol=0)
    assert fresh.text_embeddings is not None
    assert [c.texts for c in other.classes] == [c.texts for c in fresh.classes]


def test_all_known_encodes_nothing_and_gives_the_same_bits(
    head: SynonymousSpaceHead, folder: Path, encoded: list[str]
):
    first = head.fit_classes(PETS, templates=["a {}", "the {}"]).text_embeddings
    encoded.clear()
    again = head.fit_classes(dict(reversed(PETS.items())), templates=["a {}", "the {}"]).text_embeddings
    assert not encoded
    assert first is not None
    assert again is not None
    torch.testing.assert_close(again, first[[3, 4, 0, 1, 2]], atol=0, rtol=0)


def test_added_classes_are_cached_and_cache_false_is_not(
    head: SynonymousSpaceHead, folder: Path, encoded: list[str]
):
    head.fit_classes({"cat": []}, cache=False)
    assert not folder.exists()
    head.add_classes({"dog": []})
    encoded.clear()
    head.fit_classes({"dog": []})
    assert not encoded


def test_another_model_dtype_or_tokenizer_has_other_texts(folder: Path, encoded: list[str]):
    model, processor = build("clip")
    keys = {SynonymousSpaceHead(model, processor).backbone.text_key()}
    half = SynonymousSpaceHead(build("clip")[0].bfloat16(), processor)
    keys.add(half.backbone.text_key())
    with torch.no_grad():
        changed = build("clip")[0]
        changed.text_projection.weight.add_(1e-3)
    keys.add(SynonymousSpaceHead(changed, processor).backbone.text_key())
    shorter = build("clip")[1]
    shorter.tokenizer.model_max_length = 20
    keys.add(SynonymousSpaceHead(model, shorter).backbone.text_key())
    assert len(keys) == 4
    assert SynonymousSpaceHead(*build("clip")).backbone.text_key() in keys


def test_truncated_texts_are_said_again(head: SynonymousSpaceHead, folder: Path):
    long = {"cat": ["very " * 40 + "long"], "dog": []}
    for _ in range(2):
        with pytest.warns(UserWarning, match="truncated"):
            head.fit_classes(long)


@pytest.mark.parametrize("content", [b"", b"not a database at all, for sure" * 50])
def test_a_broken_file_is_a_warning(head: SynonymousSpaceHead, folder: Path, content: bytes):
    folder.mkdir()
    (folder / "texts.sqlite").write_bytes(content)
    if content:
        with pytest.warns(UserWarning, match="delete that file"):
            head.fit_classes(PETS)
    else:
        head.fit_classes(PETS)
    assert head.class_names == ["cat", "dog"]


def test_a_folder_that_is_a_file_is_a_warning(head: SynonymousSpaceHead, folder: Path):
    folder.write_text("")
    with pytest.warns(UserWarning, match="S3CLIP_CACHE"):
        head.fit_classes(PETS)


def test_a_user_without_a_home_has_no_cache(head: SynonymousSpaceHead, monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("S3CLIP_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    assert head.fit_classes(PETS).class_names == ["cat", "dog"]


def test_vectors_of_another_width_are_not_taken(tmp_path: Path):
    cache = TextCache(tmp_path / "t.sqlite", ENCODER)
    cache.write(["a"], np.ones((1, 4), dtype=np.float32))
    assert cache.read(["a"], 5) == {}
    assert cache.read(["a"], 4)["a"].tolist() == [1, 1, 1, 1]


def test_the_file_stays_below_its_limit_and_the_used_stay(tmp_path: Path):
    limit = 400_000
    cache = TextCache(tmp_path / "t.sqlite", ENCODER, limit=limit)
    rng = np.random.default_rng(0)
    kept = rng.standard_normal((1, DIM)).astype(np.float32)
    cache.write(["kept"], kept)
    for block in range(40):
        names = [f"{block} {i}" for i in range(400)]
        cache.write(names, rng.standard_normal((400, DIM)).astype(np.float32))
        np.testing.assert_array_equal(cache.read(["kept"], DIM)["kept"], kept[0])
    assert cache.read([f"0 {i}" for i in range(400)], DIM) == {}
    assert len(cache.read([f"39 {i}" for i in range(400)], DIM)) == 400
    # What is held when a write begins, and one write more.
    assert (tmp_path / "t.sqlite").stat().st_size < limit * 1.5


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path):
    code = """
import sys, numpy as np
from pathlib import Path
from s3clip.backbone.text_cache import TextCache
cache = TextCache(Path(sys.argv[1]), bytes(range(32)))
me = int(sys.argv[2])
for i in range(60):
    cache.write([f"{me} {i}", f"both {i}"], np.full((2, 4), [[me], [7]], dtype=np.float32))
    cache.read([f"{1 - me} {j}" for j in range(i)], 4)
"""
    path = tmp_path / "t.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", code, path, str(me)]) for me in (0, 1)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    cache = TextCache(path, ENCODER)
    names = [f"{me} {i}" for me in ("0", "1", "both") for i in range(60)]
    found = cache.read(names, 4)
    assert len(found) == 180
    assert all(found[f"{me} {i}"].tolist() == [me] * 4 for me in (0, 1) for i in range(60))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_damaged_row_is_encoded_again(head: SynonymousSpaceHead, folder: Path, encoded: list[str]):
    whole = head.fit_classes(PETS).text_embeddings
    rows = []
    with sqlite3.connect(folder / "texts.sqlite") as connection:
        for number, (key, vector) in enumerate(connection.execute("SELECT key, vector FROM embeddings")):
            damaged = bytearray(vector)
            damaged[number] ^= 1 << (number % 8)
            rows.append([(bytes(damaged), "text", None, b"", 3)[number % 5] or b"\0" * len(vector), key])
        connection.executemany("UPDATE embeddings SET vector = ? WHERE key = ?", rows)
    encoded.clear()
    again = head.fit_classes(PETS).text_embeddings
    assert len(encoded) == 5
    torch.testing.assert_close(again, whole, atol=0, rtol=0)
    encoded.clear()
    head.fit_classes(PETS)
    assert not encoded


def test_a_row_under_the_key_of_another_is_not_taken(tmp_path: Path):
    cache = TextCache(tmp_path / "t.sqlite", ENCODER)
    cache.write(["a", "b"], np.ones((2, 4), dtype=np.float32) * [[1], [2]])
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("UPDATE embeddings SET vector = (SELECT vector FROM embeddings LIMIT 1)")
    assert len(cache.read(["a", "b"], 4)) == 1


@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_locked_file_is_waited_for_two_seconds_once(
    head: SynonymousSpaceHead, folder: Path, lock: str, monkeypatch: pytest.MonkeyPatch
):
    expected = head.fit_classes(PETS).text_embeddings
    monkeypatch.setattr("s3clip.backbone.encoding.PROMPT_BLOCK", 1)  # so that it is asked again and again
    with closing(sqlite3.connect(folder / "texts.sqlite")) as other:
        other.execute(f"BEGIN {lock}")
        start = time.perf_counter()
        with pytest.warns(UserWarning, match="locked") as caught:
            head.fit_classes({**PETS, "ox": ["cow", "bull"]})
        assert time.perf_counter() - start < 20, (
            "seconds, however busy the machine; 30 for each of several asks before"
        )
        assert sum("locked" in str(each.message) for each in caught) == 1
    torch.testing.assert_close(head.text_embeddings[:5], expected)


def test_a_file_that_may_only_be_read_is_read(
    head: SynonymousSpaceHead,
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
):
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:  # the folders of pytest are closed to other users
        monkeypatch.setenv("S3CLIP_CACHE", name)
        head.fit_classes(PETS)
        encoded.clear()
        Path(name, "texts.sqlite").chmod(0o444)
        Path(name).chmod(0o555)
        try:
            if root:
                os.seteuid(65534)  # nobody: root may write everywhere
            head.fit_classes({**PETS, "ox": []})
        finally:
            if root:
                os.seteuid(0)
            Path(name).chmod(0o755)
    assert encoded == ["a photo of a ox."]
    assert not recwarn.list
