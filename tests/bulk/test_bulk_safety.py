"""What may go wrong under a bulk job: a second run, files that change or vanish, damage. Exit statuses."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead, cli
from s3clip.bulk import TooManyErrorsError, label
from s3clip.bulk import job as bulk_job
from s3clip.bulk import work as bulk_work
from s3clip.bulk.decoding import EMBEDDING_PART
from s3clip.bulk.output import Output
from s3clip.demo import model_folder, synonym_file
from tests.bulk.test_bulk_inputs import picture, rows_of

VECTORS = np.random.default_rng(0).normal(size=(70_000, 24)).astype(np.float16)  # two parts


@pytest.fixture(scope="module")
def space() -> SynonymousSpaceHead:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(count, 24, generator=generator) for count in (3, 1, 4)]
    return SynonymousSpaceHead().fit_embeddings(texts, ["cat", "dog", "sea"], logit_scale=20.0)


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    np.save(tmp_path / "e.npy", VECTORS)
    return tmp_path / "e.npy"


def on_first_part(monkeypatch: pytest.MonkeyPatch, action) -> None:
    """Do something behind the job's back when it has written its first part."""
    real, done = Output.write_part, []

    def write_part(self, *arguments):
        real(self, *arguments)
        if not done:
            done.append(True)
            action()

    monkeypatch.setattr(Output, "write_part", write_part)


def after_first_part(monkeypatch: pytest.MonkeyPatch, action) -> None:
    """Do something to the input when its first part has been read."""
    real, done = bulk_work.listed_batches, []

    def listed_batches(*arguments):
        for batch in real(*arguments):
            yield batch
            if batch.ends_part and not done:
                done.append(True)
                action()

    monkeypatch.setattr(bulk_work, "listed_batches", listed_batches)


# Two runs


def test_a_second_run_is_kept_out(space, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    refused = []

    def second_run():
        with pytest.raises(ValueError, match=r"out: another run is writing to .*out; wait for it") as caught:
            label(embeddings, space, out)
        refused.append(caught.value)

    on_first_part(monkeypatch, second_run)
    assert label(embeddings, space, out).labelled_now == 70_000
    assert len(refused) == 1
    assert label(embeddings, space, out).labelled_now == 0


HOLD = """
import sys, time
from s3clip.bulk.output import Output
output = Output(sys.argv[1])
output.make()
with output.claimed():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_that_was_killed_holds_nothing(space, embeddings: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="another run"):
        label(embeddings, space, out)
    assert {file.relative_to(out).as_posix() for file in out.rglob("*")} == {"_s3clip", "_s3clip/lock"}
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert label(embeddings, space, out).labelled_now == 70_000


def test_a_run_that_came_between(space, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.save(tmp_path / "f.npy", VECTORS[:3])
    out, real = tmp_path / "out", bulk_job._head_for

    def head_for(shards, *given):
        if "f" in next(iter(shards)):  # the run below has read the listing, and has not claimed the folder
            label(embeddings, space, out)
        return real(shards, *given)

    monkeypatch.setattr(bulk_job, "_head_for", head_for)
    with pytest.raises(ValueError, match="another run has just written"):
        label(tmp_path / "f.npy", space, out)
    assert label([tmp_path / "f.npy", embeddings], space, out).labelled_now == 3


# What changes or vanishes while the job runs


def test_a_table_that_changes_while_it_is_read(space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, out = tmp_path / "t.parquet", tmp_path / "out"

    def write(vectors):
        flat = pa.array(vectors.reshape(-1))
        pq.write_table(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, 24)}), path)

    write(VECTORS)
    after_first_part(monkeypatch, lambda: write(-VECTORS))
    summary = label(path, space, out)
    assert list(summary.broken.values()) == [f"{path}: changed while it was read"]
    last = pq.read_table(sorted(out.glob("*-*.parquet"))[-1]).to_pylist()[-1]
    assert last["error"] == f"{path}: changed while it was read"
    with pytest.raises(
        ValueError, match=r"t\.parquet changed since it was labelled.*remove (\S+)-\*"
    ) as caught:
        label(path, space, out)
    for part in out.glob(str(caught.value).split("remove ")[1].split(" ")[0]):
        part.unlink()
    assert label(path, space, out).broken == {}
    label(path, space, tmp_path / "fresh")
    found, expected = (
        ds.dataset(sorted(each.glob("*-*.parquet"))).to_table() for each in (out, tmp_path / "fresh")
    )
    assert found.equals(expected)


def test_an_input_that_is_gone_at_the_end(space, embeddings: Path, tmp_path: Path, monkeypatch):
    after_first_part(monkeypatch, embeddings.unlink)
    summary = label(embeddings, space, tmp_path / "out")
    assert list(summary.broken.values()) == [f"{embeddings}: gone while it was read"]
    # What is labelled stays; the input is asked for by name.
    with pytest.raises(FileNotFoundError, match=r"e\.npy: nothing there"):
        label(embeddings, space, tmp_path / "out")


def test_results_that_vanish(space, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    on_first_part(monkeypatch, lambda: shutil.rmtree(out))
    with pytest.raises(FileNotFoundError, match=r"out: the folder is gone, writing .*parquet"):
        label(embeddings, space, out)
    assert not out.exists()
    assert label(embeddings, space, out).labelled_now == 70_000


# Damage


@pytest.mark.parametrize("name", ["_s3clip/manifest.json", "_s3clip/listing"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00" * 40])
def test_damaged_files_are_named_and_nothing_is_lost(space, embeddings, tmp_path, name: str, content: bytes):
    out = tmp_path / "out"
    label(embeddings, space, out)
    before = {file.name: file.read_bytes() for file in out.glob("*-*.parquet")}
    good = (out / name).read_bytes()
    (out / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged .*; remove it, and a run with the same"):
        label(embeddings, space, out)
    assert (out / name).read_bytes() == content
    (out / name).unlink()  # as it says
    assert label(embeddings, space, out).labelled_now == 0
    assert {file.name: file.read_bytes() for file in out.glob("*-*.parquet")} == before
    if name.endswith("manifest.json"):
        assert json.loads((out / name).read_text()) == json.loads(good)
        (out / name).unlink()
        with pytest.raises(ValueError, match="other settings"):  # the parts say so themselves
            label(embeddings, space, out, top_k=1)


def test_a_damaged_part_is_named(space, embeddings: Path, tmp_path: Path):
    out = tmp_path / "out"
    label(embeddings, space, out)
    part = sorted(out.glob("*-*.parquet"))[1]
    whole = part.read_bytes()
    for content in (b"", whole[:-9], whole[: len(whole) // 2]):
        part.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{part.name} is no part that s3clip wrote .*take it away"):
            label(embeddings, space, out)
    part.unlink()
    assert label(embeddings, space, out).labelled_now == 70_000 - EMBEDDING_PART


def test_files_of_others_are_left_alone(space, embeddings: Path, tmp_path: Path):
    out = tmp_path / "out"
    (out / "_s3clip").mkdir(parents=True)
    for content in ('{"name": "an app"}', "// no JSON", "[]"):
        (out / "_s3clip" / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=r"the _s3clip/manifest\.json in .* is not one of s3clip"):
            label(embeddings, space, out)
        assert (out / "_s3clip" / "manifest.json").read_text() == content
        (out / "_s3clip" / "manifest.json").unlink()
        (out / "manifest.json").write_text(content)  # which is in nobody's way
        label(embeddings, space, out)
        assert (out / "manifest.json").read_text() == content
        shutil.rmtree(out / "_s3clip")
        (out / "_s3clip").mkdir()


def test_a_folder_that_may_not_be_written(space, embeddings: Path, tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o555)
    for out in (tmp_path / "closed", tmp_path / "closed" / "out"):
        with pytest.raises(PermissionError, match=r"out: Permission denied, (opening|making)"):
            label(embeddings, space, out)


# How many errors are too many, and what the command ends with


def command(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["s3clip", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            cli.main()
        except SystemExit as stopped:
            status = stopped.code or 0
    return status, out.getvalue(), err.getvalue()


def vectors_with_errors(path: Path, rows: int, errors: int) -> Path:
    vectors = np.ones((rows, 24), np.float32)
    vectors[:errors] = 0
    np.save(path, vectors)
    return path


def test_errors_are_counted_of_a_thousand_rows_at_least(space, tmp_path: Path):
    for rows, errors, share, stops in [
        (10, 10, 0.01, False),  # 10 of 1,000
        (11, 11, 0.01, True),
        (3000, 30, 0.01, False),
        (3000, 31, 0.01, True),
        (5, 1, 0, True),
        (5, 5, 1, False),
    ]:
        name = f"{rows}-{errors}-{share}"
        path = vectors_with_errors(tmp_path / f"{name}.npy", rows, errors)
        if stops:
            with pytest.raises(TooManyErrorsError, match=f"{errors:,} of {rows:,} rows have an error"):
                label(path, space, tmp_path / name, max_error_share=share)
        else:
            assert label(path, space, tmp_path / name, max_error_share=share).errors == errors


def test_exit_statuses(space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    space.save_pretrained(tmp_path / "space")
    few = vectors_with_errors(tmp_path / "few.npy", 5, 2)
    many = vectors_with_errors(tmp_path / "many.npy", 20, 20)
    run = ("label", "--head", tmp_path / "space", "--out")
    status, said, warned = command(*run, tmp_path / "a", few)
    assert (status, warned) == (0, "warning: 2 of 5 rows could not be read\n")
    assert said.startswith("5 rows, 2 with an error")
    status, said, warned = command(*run, tmp_path / "b", many)
    assert (status, said) == (1, "")
    assert warned.startswith("error: max_error_share: 20 of 20 rows")
    assert command(*run, tmp_path / "b", many, "--max-error-share", 1)[0] == 0
    (tmp_path / "cut.npy").write_bytes(few.read_bytes()[:-1])
    status, said, warned = command(*run, tmp_path / "c", few, tmp_path / "cut.npy")
    assert status == 1
    assert "not finished" in said
    assert warned.endswith("error: inputs that broke off: 1; the next run tries them again\n")
    (tmp_path / "v.lance" / "_versions").mkdir(parents=True)
    (tmp_path / "v.lance" / "_versions" / "1.manifest").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lance", None)
    for arguments in (
        (tmp_path / "d", tmp_path / "gone.npy"),
        (few, many),  # the folder is a file
        (tmp_path / "a", few, "--top-k", 1),
        (tmp_path / "d", few, "--engine", "spark"),
        (tmp_path / "d", "nowhere://x"),
        (tmp_path / "d", tmp_path / "v.lance"),  # without pylance
    ):
        status, said, warned = command(*run, *arguments)
        assert (status, said) == (2, "")
        assert warned.startswith("error: ")
        assert warned.count("\n") == 1


def test_a_new_space_over_old_results_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        (photos / f"{i:02d}.png").write_bytes(picture(12 * i))
    (photos / "07.png").write_text("no picture")
    digits = json.loads(Path(synonym_file()).read_text())
    model = ("--backbone", model_folder())
    assert command("fit", synonym_file(), *model, "--out", tmp_path / "before")[0] == 0
    old, new = tmp_path / "old", tmp_path / "new"
    sizes = ("--batch-size", 8, "--part-size", 16, "--workers", 0)
    status, *_ = command(
        "label", photos, "--head", tmp_path / "before", "--out", old, "--keep-embeddings", *sizes
    )
    assert status == 0
    # The file of synonyms is edited: a class gets another name, and one goes.
    digits["classes"][0]["synonyms"] = [*digits["classes"][0].get("synonyms", []), "the round one"]
    removed = digits["classes"].pop()["name"]
    (tmp_path / "edited.json").write_text(json.dumps(digits))
    assert command("fit", tmp_path / "edited.json", *model, "--out", tmp_path / "after")[0] == 0
    shutil.rmtree(photos)  # they are not needed any more
    relabel = ("label", old, "--head", tmp_path / "after", "--keep-embeddings", *sizes, "--out")
    status, said, _ = command(*relabel, new)
    assert (status, said.splitlines()[0][:27]) == (0, "20 rows, 1 with an error (5")
    head = SynonymousSpaceHead.from_pretrained(tmp_path / "after", backbone=None)
    assert removed not in head.class_names
    by_key = {row["key"]: row for row in rows_of(new)}
    assert list(by_key) == [row["key"] for row in rows_of(old)]
    for row in rows_of(old):
        again = by_key[row["key"]]
        assert again["error"] == row["error"]
        assert again["embedding"] == row["embedding"]
        if row["error"] is None:
            vector = torch.tensor(np.array(row["embedding"], np.float32))[None]
            best = head.predict(image_embeds=vector, top_k=1)[0][0]
            assert (again["label"], again["text"]) == (best.label, best.text)
            assert again["score"] == pytest.approx(best.score, abs=1e-5)
    assert by_key[f"{photos}/07.png"]["error"].startswith(f"{photos}/07.png: not a readable image")
    # And once more, from what the second job kept.
    assert command(*relabel[:1], new, *relabel[2:], tmp_path / "third")[0] == 0
    assert [row["label"] for row in rows_of(tmp_path / "third")] == [row["label"] for row in rows_of(new)]


def test_what_stands_in_tables_and_listings_is_opened_below_their_folders(tmp_path: Path):
    head = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes({"a": [], "b": []})
    (tmp_path / "own").mkdir()
    for name in ("own/in.png", "out.png"):
        Image.new("RGB", (20, 20), "red").save(tmp_path / name)
    os.mkfifo(tmp_path / "own" / "pipe.png")
    names = ["in.png", "../out.png", str(tmp_path / "out.png"), "http://127.0.0.1:9/a.png", "pipe.png"]
    pq.write_table(pa.table({"image": names}), tmp_path / "own" / "t.parquet")

    def errors(out: str, **options) -> list[str | None]:
        label(tmp_path / "own" / "t.parquet", head, tmp_path / out, workers=0, max_error_share=1, **options)
        (part,) = (tmp_path / out).glob("own-t-*.parquet")
        return pq.read_table(part).column("error").to_pylist()

    said = errors("default")
    assert said[0] is None
    assert all("lies outside of the folder" in error for error in said[1:4])
    assert "a pipe or a device" in said[4]
    said = errors("wide", allow_addresses=["file", "http"])
    assert said[:3] == [None] * 3
    assert "private network" in said[3]
    with pytest.raises(ValueError, match=r"other settings \(allow_addresses differ\)"):
        errors("wide")
    # A listing that somebody made names a file that is no input of this call.
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "photos" / "a.png")
    label(tmp_path / "photos", head, tmp_path / "made", workers=0)
    listing = tmp_path / "made" / "_s3clip" / "listing"
    made, made_schema = pq.read_table(listing).to_pylist(), pq.read_schema(listing)
    wicked = pa.Table.from_pylist([{**made[0], "path": str(tmp_path / "out.png")}, *made], made_schema)
    pq.write_table(wicked, listing)
    for part in (tmp_path / "made").glob("photos-*.parquet"):
        part.unlink()
    label(tmp_path / "photos", head, tmp_path / "made", workers=0, max_error_share=1)
    (part,) = (tmp_path / "made").glob("photos-*.parquet")
    first, second = pq.read_table(part).column("error").to_pylist()
    assert "lies outside of the folder" in first
    assert second is None


def test_the_command_opens_more_where_it_is_told(tmp_path: Path):
    head = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes({"a": [], "b": []})
    head.save_pretrained(tmp_path / "space")
    (tmp_path / "own").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "out.png")
    pq.write_table(pa.table({"image": ["../out.png"]}), tmp_path / "own" / "t.parquet")
    for out, options, errors in (("no", (), 1), ("yes", ("--allow-addresses", f"file://{tmp_path}"), 0)):
        given = ["label", tmp_path / "own", "--head", tmp_path / "space", "--out", tmp_path / out, *options]
        status, _, said = command(*given, "--max-error-share", 1, "--workers", 0)
        assert (status, "1 of 1 row could not be read" in said) == (0, errors == 1)
