"""Bulk labelling on Ray: the rows of one process, whatever is killed."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.bulk import label
from s3clip.bulk.on_ray import start_ray
from s3clip.demo import held_out_digits, model_folder, synonym_file
from tests.test_bulk import SIZES, rows_of, write_tar

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 's3clip[ray]'")
psutil = pytest.importorskip("psutil", reason="psutil comes with Ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["OMP_NUM_THREADS"] = "1"
    start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in tars, some of them broken; a head; and the rows of one process."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("ray")
    (root / "in").mkdir()
    contents = []
    for image in held_out_digits()[0][:100]:
        sink = io.BytesIO()
        image.convert("RGB").save(sink, "JPEG", quality=95)
        contents.append(sink.getvalue())
    contents[5], contents[44] = b"no picture", contents[44][:300]
    for number in range(5):
        write_tar(root / "in" / f"{number}.tar", contents[20 * number : 20 * number + 20] * (1 + number))
    (root / "in" / "zero.tar").write_bytes(b"")
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.save_pretrained(root / "head")
    label(root / "in", root / "head", root / "whole", workers=0, keep_embeddings=True, **SIZES)
    return root


def test_one_actor_and_two(cluster: None, place: Path, tmp_path: Path):
    expected = rows_of(place / "whole")
    for actors in (1, 2):
        out = tmp_path / f"out{actors}"
        summary = label(
            place / "in", place / "head", out, engine="ray", workers=actors, keep_embeddings=True, **SIZES
        )
        assert len(summary.broken) == 1
        assert rows_of(out) == expected


def test_a_worker_is_killed(place: Path, tmp_path: Path):
    code = Path(__file__).parent / "ray_job.py"
    out = tmp_path / "out"
    job = start(code, place, out)
    wait_for_parts(out, job)
    actors = [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if "MapWorker" in " ".join(safely(process))
    ]
    assert actors
    actors[0].kill()
    assert job.wait(timeout=240) == 0
    assert rows_of(out) == rows_of(place / "whole")


def test_the_driver_is_killed(place: Path, tmp_path: Path):
    code = Path(__file__).parent / "ray_job.py"
    out = tmp_path / "out"
    job = start(code, place, out)
    wait_for_parts(out, job)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert start(code, place, out).wait(timeout=240) == 0
    assert rows_of(out) == rows_of(place / "whole")


def start(code: Path, place: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, str(code), str(place / "in"), str(place / "head"), str(out)]
    return subprocess.Popen(line, env=environment)


def wait_for_parts(out: Path, job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while not list(out.glob("*-*.parquet")):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def safely(process: "psutil.Process") -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
