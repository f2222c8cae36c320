"""Bulk labelling on Ray: the rows of one process, whatever is killed, in bounded memory, on loopback alone.

Tests of this file run one after the other even where pytest has several processes: they share a lock, and
those of one process a cluster. Whatever hangs is stopped by an alarm.
"""

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.bulk import TooManyErrorsError, label
from s3clip.bulk.on_ray import start_ray
from s3clip.demo import model_folder, synonym_file
from tests import ROOT
from tests.bulk.test_bulk import SIZES, rows_of, write_tar
from tests.local_sets import digit_jpegs

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 's3clip[ray]'")
psutil = pytest.importorskip("psutil", reason="psutil comes with Ray")

PATIENCE = 240
"""Seconds after which a test is taken to hang."""

STORE = 100 << 20
"""Bytes of the clusters' object stores."""

WHATEVER_IS_LEFT = {"RAY_local_fs_capacity_threshold": "1", "RAY_memory_monitor_refresh_ms": "0"}
"""Ray puts nothing on a disk that is 95 % full, and stops workers where 95 % of the memory is taken, also by
others; these clusters need little of either, and are tested the same on every machine."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody else runs a test of this file now, and what others leave of the machine decides nothing."""
    with (
        (tmp_path_factory.getbasetemp().parent / "ray.lock").open("w") as lock,
        pytest.MonkeyPatch.context() as patch,
    ):
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "another process holds the lock of the Ray tests"
                time.sleep(0.5)
        for name, value in WHATEVER_IS_LEFT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(alone: None) -> Iterator[None]:
    others = family()  # such as the resource tracker of Python's own processes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        start_ray(2, STORE)
        started = [each for each in family() if each not in others]
        yield
        ray.shutdown()
    assert_gone(started)


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise TimeoutError(f"the test has not ended in {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in tars, some of them broken; a head; and the rows of one process."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("ray")
    (root / "in").mkdir()
    contents = digit_jpegs(range(100))
    contents[5], contents[44] = b"no picture", contents[44][:300]
    for number in range(5):
        write_tar(root / "in" / f"{number}.tar", contents[20 * number : 20 * number + 20] * (2 + number))
    (root / "in" / "zero.tar").write_bytes(b"")
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.save_pretrained(root / "head")
    label(root / "in", root / "head", root / "whole", workers=0, keep_embeddings=True, **SIZES)
    return root


def label_on_ray(place: Path, out: Path, **options: object):
    return label(place / "in", place / "head", out, engine="ray", keep_embeddings=True, **SIZES, **options)


def test_ray_data_reads_results_as_one_table(cluster: None, place: Path):
    found = ray.data.read_parquet(str(place / "whole")).to_pandas()
    expected = ds.dataset(place / "whole", format="parquet").to_table()
    assert sorted(found.columns) == sorted(expected.column_names)
    order = ["shard", "position"]
    for name in (*order, "key", "label", "error"):
        rows = found.sort_values(order)[name].astype(object)
        assert (
            rows.where(rows.notna(), None).tolist()
            == expected.sort_by([(each, "ascending") for each in order])[name].to_pylist()
        )


def test_one_actor(cluster: None, place: Path, tmp_path: Path):
    assert list(label_on_ray(place, tmp_path / "out", workers=1).broken) == ["in-zero"]
    assert len(rows_of(tmp_path / "out")) == 401
    assert rows_of(tmp_path / "out") == rows_of(place / "whole")


def test_two_actors_after_a_job_that_stopped(cluster: None, place: Path, tmp_path: Path):
    with pytest.raises(TooManyErrorsError) as caught:
        label_on_ray(place, tmp_path / "out", workers=2, max_error_share=0.001)
    assert caught  # its traceback holds what the job has not let go of
    label_on_ray(place, tmp_path / "out", workers=2)
    assert rows_of(tmp_path / "out") == rows_of(place / "whole")


def test_it_listens_on_loopback_alone(cluster: None):
    listening = [address for process in family() for address in addresses(process)]
    assert len(listening) > 3
    assert {*listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_workers_are_killed(cluster: None, place: Path, tmp_path: Path):
    out, draw, killed = tmp_path / "out", random.Random(), []

    def kill(whom: str, most: float) -> None:
        while whom not in killed:
            victims = wait_for(lambda: [each for each in family() if whom in command(each)])
            time.sleep(draw.uniform(0, most))
            with suppress(psutil.NoSuchProcess):  # it had ended meanwhile: another one, then
                victims[0].kill()
                killed.append(whom)

    def kill_both() -> None:
        kill("MapBatches(_Decode)", 0.1)
        wait_for(lambda: out.glob("*-*.parquet"))
        kill("MapWorker(MapBatches(_Label))", 0.1)

    killer = threading.Thread(target=kill_both)
    killer.start()
    label_on_ray(place, out, workers=1)
    killer.join()
    assert len(killed) == 2
    assert rows_of(out) == rows_of(place / "whole")


def test_the_driver_is_killed(place: Path, tmp_path: Path, request: pytest.FixtureRequest):
    out = tmp_path / "out"
    line = [sys.executable, str(ROOT / "tests" / "ray_job.py"), str(place / "in"), str(place / "head")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([*line, str(out), str(STORE)], env=environment)
    try:
        wait_for(lambda: job.poll() is not None or list(out.glob("*-*.parquet")))
        time.sleep(random.uniform(0, 0.1))
        started = family(job.pid)
        assert len(started) > 3
        assert job.poll() is None
    finally:
        job.kill()
        job.wait()
    # What serves the cluster's own pages looks for the rest of it for a minute longer.
    agents = [each for each in started if "Agent" in command(each)]
    assert_gone([each for each in started if each not in agents])
    for each in agents:
        each.kill()
    there = {file.name: file.stat().st_mtime_ns for file in out.glob("*-*.parquet")}
    request.getfixturevalue("cluster")
    label_on_ray(place, out, workers=1)
    assert rows_of(out) == rows_of(place / "whole")
    there.pop("in-zero-000000000000.parquet", None)  # which is tried again
    assert there
    assert all((out / name).stat().st_mtime_ns == then for name, then in there.items())


def test_batches_wait_for_a_slow_actor(cluster: None, tmp_path: Path):
    # More than the store holds, read many times faster than it is labelled: without back-pressure Ray would
    # move objects to the disk.
    vectors = np.random.default_rng(0).normal(size=(20_000, 512)).astype(np.float16)
    inputs = [tmp_path / f"{number}.npy" for number in range(4)]
    for number, file in enumerate(inputs):
        np.save(file, vectors[number:])
    assert 4 * vectors.size * 4 > 1.5 * STORE
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(8, 512, generator=generator) for _ in range(100)]
    head = SynonymousSpaceHead().fit_embeddings(texts, [str(i) for i in range(100)], logit_scale=20.0)
    assert label(inputs, head, tmp_path / "out", engine="ray", workers=1).rows == 79_994
    log = Path(ray._private.worker._global_node.get_session_dir_path(), "logs", "raylet.out")
    assert "Spilled" not in log.read_text()
    kept = [ray.put(np.zeros(STORE // 32)) for _ in range(8)]  # as it does here
    assert wait_for(lambda: "Spilled" in log.read_text(), seconds=60)
    del kept
    label(inputs, head, tmp_path / "local")
    remote, local = (
        ds.dataset(sorted((tmp_path / name).glob("*-*.parquet"))).to_table(
            ["position", "key", "label", "logit"]
        )
        for name in ("out", "local")
    )
    assert remote.equals(local)


def test_what_a_cluster_cannot_do(cluster: None, place: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"workers: 3 actors, with 0.5 CPUs each.*give 2 at most"):
        label_on_ray(place, tmp_path / "out", workers=3)
    # A folder in the memory of this process is one that the workers do not see.
    with pytest.raises(
        ValueError, match=r"out: memory://nowhere is not to be seen from machine 127\.0\.0\.1"
    ):
        label_on_ray(place, "memory://nowhere", workers=1)


def test_without_ray(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 's3clip\[ray\]'"):
        label_on_ray(place, tmp_path / "out")


def wait_for(found: Callable[[], object], seconds: float = PATIENCE) -> list:
    """Wait until there is something to be had, and return it, or nothing."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if there := found():
            there = list(there) if not isinstance(there, bool) else [there]
            if there:
                return there
        time.sleep(0.01)
    return []


def family(pid: int | None = None) -> list["psutil.Process"]:
    """The process and all that it started, and they."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def command(process: "psutil.Process") -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def addresses(process: "psutil.Process") -> list[str]:
    """Where a process listens; nowhere if it has ended."""
    try:
        found = process.net_connections(kind="inet")
    except psutil.NoSuchProcess:
        return []
    return [each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN]


def assert_gone(processes: list["psutil.Process"]) -> None:
    """Check that the processes have ended."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
