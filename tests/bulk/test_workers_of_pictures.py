"""Who opens which picture changes nothing: the same batches, rows and files for every split of the work."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.backbone.image_transform import ImageTransform
from s3clip.bulk import label, local
from s3clip.bulk.decoding import DecodedBatch, ListedBatch, RowsPer, joined
from s3clip.bulk.labelling import Labeller
from s3clip.bulk.work import Task
from s3clip.demo import model_folder, synonym_file
from s3clip.images.sources import FileShard, Listed
from s3clip.images.table_shards import TableShard
from s3clip.images.tars import TarShard
from s3clip.images.workers import in_threads, in_workers
from tests.bulk.test_bulk import write_tar
from tests.local_sets import digit_jpegs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def head() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())


@pytest.fixture(scope="module")
def transform(head: SynonymousSpaceHead) -> ImageTransform:
    assert head.backbone is not None
    return head.backbone.image_transform()


@pytest.fixture(scope="module")
def contents() -> list[bytes]:
    found = digit_jpegs(range(37))
    found[3] = found[17] = b"no picture"
    return found


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> list[Task]:
    """Of pictures in files, tars and tables: with broken ones, parts that are done, shards that break off."""
    root = tmp_path_factory.mktemp("in")
    for i, content in enumerate(contents):
        (root / f"{i:03d}.jpg").write_bytes(content)
    paths = [str(path) for path in sorted(root.iterdir())]
    write_tar(root / "whole.tar", contents[:24])
    write_tar(root / "cut.tar", contents)
    (root / "cut.tar").write_bytes((root / "cut.tar").read_bytes()[:20_000])
    pq.write_table(pa.table({"image": contents}), root / "table.parquet")
    one_gone = [*paths[:9], str(root / "gone.jpg"), *paths[9:20]]
    unreachable = [*paths[:18], "http://127.0.0.1:9/x.jpg", *paths[18:30]]
    shards = {
        "files": FileShard("files", None, tuple(Listed(path, None) for path in paths)),
        "gone": FileShard("gone", None, tuple(Listed(path, None) for path in one_gone)),
        "unreachable": FileShard("unreachable", None, tuple(Listed(path, None) for path in unreachable)),
        "whole": TarShard("whole", root / "whole.tar", grouped=False),
        "cut": TarShard("cut", root / "cut.tar", grouped=False),
        "no tar": TarShard("no tar", root / "000.jpg", grouped=False),
        "table": TableShard("table", root / "table.parquet", label_column=None),
        "none": FileShard("none", None, ()),
    }
    every = [Task(name, own, (), RowsPer(4, 8), frozenset(), "") for name, own in shards.items()]
    some = [replace(task, name=f"{task.name}, some", done=frozenset({0, 16})) for task in every]
    return [*every, *some]


def facts(batch: DecodedBatch) -> tuple[object, ...]:
    inputs = {name: own.tolist() for name, own in (batch.inputs or {}).items()}
    about = (batch.first, list(batch.keys), batch.errors, batch.notes, batch.broken)
    return (*about, batch.ends_part, batch.ends_shard, inputs)


def opened(tasks: list[Task], transform: ImageTransform, workers: int) -> dict[str, list[tuple[object, ...]]]:
    found: dict[str, list[tuple[object, ...]]] = {task.name: [] for task in tasks}
    for position, batch in local._pictures(tasks, transform, workers, CPU):
        found[tasks[position].name].append(facts(batch))
    return found


@pytest.mark.parametrize("count", [None, 3])  # all, or those of files alone, of which it is known how many
@pytest.mark.parametrize(("workers", "few"), [(0, 16), (1, 0), (1, 99), (3, 0), (3, 99)])
def test_batches_are_those_of_a_plain_loop(
    tasks: list[Task], transform: ImageTransform, monkeypatch, workers: int, few: int, count: int | None
):
    monkeypatch.setattr(local, "FEW", few)
    expected = {task.name: [facts(batch) for batch in task.batches(transform)] for task in tasks[:count]}
    assert opened(tasks[:count], transform, workers) == expected
    broken = {name for name, own in expected.items() if own and own[-1][4] is not None}
    assert {name.split(",")[0] for name in broken} == (
        {"unreachable", "cut", "no tar"} if not count else {"unreachable"}
    )


def test_processes_give_the_same(tasks: list[Task], transform: ImageTransform, monkeypatch):
    monkeypatch.setattr(local, "MOST_THREADS", 0)
    files = tasks[:3]
    expected = {task.name: [facts(batch) for batch in task.batches(transform)] for task in files}
    assert opened(files, transform, 2) == expected


@pytest.mark.parametrize("size", range(1, 9))
def test_pieces_make_the_batch_again(tasks: list[Task], transform: ImageTransform, size: int):
    for batch in tasks[0].listed():
        assert isinstance(batch, ListedBatch)
        pieces = batch.pieces(size)
        assert max(piece.rows for piece in pieces) <= size
        again = joined([piece.opened(transform) for piece in pieces])
        assert facts(again) == facts(batch.opened(transform))


def test_parts_are_the_same_files(head: SynonymousSpaceHead, tasks: list[Task], tmp_path: Path):
    files = [each.path for each in tasks[0].shard.files]  # type: ignore[union-attr]
    for name, workers in (("alone", 0), ("with", 3)):
        label(files, head, tmp_path / name, workers=workers, batch_size=4, part_size=8, max_error_share=1)
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").glob("*.parquet")}
    assert len(alone) == 5
    assert {path.name: path.read_bytes() for path in (tmp_path / "with").glob("*.parquet")} == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_share_the_threads_but_for_the_last(
    head: SynonymousSpaceHead, tasks: list[Task], tmp_path: Path, monkeypatch, workers: int
):
    had: dict[tuple[str, int], int] = {}
    real = Labeller.rows

    def rows(self: Labeller, shard: str, batch: DecodedBatch) -> pa.Table:
        had[shard, batch.first] = torch.get_num_threads()
        return real(self, shard, batch)

    monkeypatch.setattr(Labeller, "rows", rows)
    files = [each.path for each in tasks[0].shard.files]  # type: ignore[union-attr]
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        label(files, head, tmp_path, workers=workers, batch_size=4, part_size=8, max_error_share=1)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert sorted(had.values()) == [2] * 9 + [4]
    assert had[max(had)] == 4


def test_threads_are_no_further_ahead_than_they_are_told():
    asked = []

    def things():
        for number in range(100):
            asked.append(number)
            yield number

    def make(number: int) -> int:
        return number * number

    own = in_threads(make, things(), workers=2, ahead=3)
    for number in range(50):
        assert next(own) == number * number
        assert len(asked) <= number + 2 * 3 + 1
    own.close()
    assert list(in_threads(make, things(), workers=3, ahead=1)) == [n * n for n in range(100)]
    assert list(in_workers(make, things(), workers=0, ahead=1)) == [n * n for n in range(100)]


def test_an_error_of_a_thread_is_raised_behind_what_came_before():
    given = in_threads(lambda number: 6 // number, [3, 2, 0, 1], workers=2, ahead=2)
    assert [next(given), next(given)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(given)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness of their own")
def test_threads_let_others_go_first():
    def niceness(_: object = None) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert set(in_threads(niceness, range(9), workers=2, ahead=2)) == {min(19, before + 10)}
    assert niceness() == before
