"""kill -9 at random moments: `python -m tests.fuzz.kill TARGET... [--count N] [--seed S] [--first I]`.

A job runs in a process that was forked from one with the imports. After a random time it is killed, alone or
with all its workers, or one of its workers is. Then the job runs again. Its result has to be that of a job
that nobody killed, what was written before has to be used, and nothing may be left: no file that a whole job
does not leave, no lock, no process. (A killed save leaves a file that goes once it is an hour old; it is made
so old.)
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import _utils as utils

from s3clip import SynonymousSpaceHead
from s3clip.artifact.folder import load_artifact
from s3clip.backbone.text_cache import TextCache
from s3clip.bulk import label, local
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation.runs.store import Store
from s3clip.images import workers
from s3clip.texts.generation import generate_synonyms
from tests import local_sets
from tests.bulk.test_bulk import rows_of, write_tar
from tests.chat_server import ChatServer
from tests.processes import children, is_there

PATIENCE = 120
"""Seconds after which something is taken to hang."""

_LINGERING = "Agent"
"""Of Ray's processes: what serves its pages looks for the rest of it for a minute after a kill."""

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Job:
    """What is killed.

    Attributes:
        prepare: (base) writes what the job reads; in a process of its own.
        work: (base, out, number) the job of process `number`, into the folder `out`.
        check: (base, out) raises AssertionError where the result is not that of a job that nobody killed, or
            what was written was not used.
        before_again: (out) what is to be noted between the kill and the second run.
        processes: that do the work at once; the first of them is killed, the others go on to their end.
        beside: (base) what another process does meanwhile, which nobody kills.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path, Path, int], None]
    check: Callable[[Path, Path], None]
    before_again: Callable[[Path], None] = lambda out: None
    processes: int = 1
    beside: Callable[[Path], None] | None = None


def run(name: str, count: int, seed: int = 0, first: int = 0) -> tuple[int, list[str]]:
    """Kill a job so many times.

    Returns:
        How many of the kills came before the end of the job, and what is wrong with each that failed.
    """
    job, failures, in_time = JOBS[name], [], 0
    _import_all()
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    beside = None
    try:
        if job.beside is not None:
            beside = _started(lambda: job.beside(base))
            time.sleep(0.5)
        _ended(_started(lambda: job.prepare(base)))
        began = time.monotonic()
        (base / "whole").mkdir()
        for each in [_started(_work(job, base, "whole", number)) for number in range(job.processes)]:
            _ended(each)
        duration = time.monotonic() - began
        for number in range(first, first + count):
            shutil.rmtree(base / "case", ignore_errors=True)
            (base / "case").mkdir()
            try:
                in_time += _killed(job, base, duration, random.Random(f"{seed}:{number}"), number)
            except Exception:
                said = (base / "said").read_text(errors="replace")[-3000:]
                failures.append(f"{name} --seed {seed} --first {number}: {traceback.format_exc()}\n{said}")
    finally:
        if beside is not None:
            beside.kill()
        shutil.rmtree(base, ignore_errors=True)
    return in_time, failures


def _import_all() -> None:
    """Import what is imported late, and let workers of torch look twice a second for their parent."""
    torch.set_num_threads(1)
    utils.MP_STATUS_CHECK_INTERVAL = 0.5
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(
        {"zero": ["nought"], "one": []}, cache=False
    )
    head.predict(held_out_digits()[0][:2])


def _killed(job: Job, base: Path, duration: float, draw: random.Random, number: int) -> bool:
    """Kill the job, run it again and check; return whether it was still at work."""
    out = base / "case"
    running = [_started(_work(job, base, "case", which, number)) for which in range(job.processes)]
    time.sleep(draw.uniform(0, duration))
    victim = running[0]
    below = children(victim.pid)
    whom = draw.choice(["alone", "all", "worker"])
    was_at_work = victim.is_alive()
    if whom == "worker" and below:
        _kill(draw.choice(sorted(below)))
        victim.join(PATIENCE)  # with an error, or without
    else:
        for each in [victim.pid, *(below if whom == "all" else ())]:
            _kill(each)
    victim.join(PATIENCE)
    assert not victim.is_alive(), "the job hangs"
    for each in running[1:]:
        _ended(each)
    _gone(below, victim.pid)
    job.before_again(out)
    for path in out.rglob("*.unfinished"):
        os.utime(path, (time.time() - 7200,) * 2)
    again = _started(_work(job, base, "case", 0, number))
    _ended(again)
    _gone(set(), again.pid)
    job.check(base, out)
    left = _files(out) - _files(base / "whole")
    assert not left, f"left: {left}"
    return was_at_work


def _work(job: Job, base: Path, folder: str, which: int, number: int = 1) -> Callable[[], None]:
    def work() -> None:
        if number % 2:
            local.MOST_THREADS = 0  # processes open pictures, as where there are more of them
        if number % 10:
            # Workers that import everything take longer than the job.
            plain = workers.DataLoader
            workers.DataLoader = lambda *args, **more: plain(  # type: ignore[misc]
                *args, **{**more, "multiprocessing_context": "fork"}
            )
        job.work(base, base / folder, which)

    return lambda: _silent(base, work)


def _silent(base: Path, work: Callable[[], None]) -> None:
    with (base / "said").open("ab") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    work()


def _started(work: Callable[[], None]) -> Any:
    """Fork a process, in a session of its own."""

    def main() -> None:
        os.setsid()
        os.environ["S3CLIP_CACHE"] = ""
        torch.set_num_threads(1)
        work()

    process = FORK.Process(target=main)
    process.start()
    return process


def _ended(process: Any) -> None:
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, f"a process ended with {process.exitcode}"


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _gone(below: set[int], session: int) -> None:
    """Wait until processes have ended, and all of a session."""
    deadline = time.monotonic() + 5 * PATIENCE  # workers that import notice it afterwards
    while left := {pid for pid in below | _of_session(session) if is_there(pid)}:
        if time.monotonic() > deadline:
            names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}
            for pid in left:
                _kill(pid)
            orphans = [name for name in names.values() if _LINGERING.encode() not in name]
            assert not orphans, f"orphans: {orphans}"
        time.sleep(0.01)


def _of_session(session: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.add(int(folder.name))
    return found


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {
        ".log",
        ".noted",
        ".log-of-the-first",
    }


# ---- two save into one folder ---------------------------------------------------------------------------

SAVES = 30


def _head(number: int, save: int) -> SynonymousSpaceHead:
    names = [f"from {number}", f"save {save}", *map(str, range(number))]
    generator = torch.Generator().manual_seed(number)
    texts = [torch.randn(40, 64, generator=generator) for _ in names]
    return SynonymousSpaceHead().fit_embeddings(texts, names, logit_scale=1.0 + number)


def _save(base: Path, out: Path, which: int) -> None:
    folder = out / "space"
    heads = [_head(which, save) for save in range(2)]
    for save in range(SAVES):
        heads[save % 2].save_pretrained(folder)
        head = SynonymousSpaceHead.from_pretrained(folder)  # while the others save
        assert float(head.logit_scale) == 1.0 + int(head.class_names[0].split()[1])
    _head(0, 0).save_pretrained(folder)


def _check_save(base: Path, out: Path) -> None:
    found, expected = load_artifact(out / "space"), _head(0, 0).class_space
    assert found.digest() == expected.digest()


def _whole_save(out: Path) -> None:
    if (out / "space").exists():
        load_artifact(out / "space")


# ---- two write one cache of texts -----------------------------------------------------------------------

BATCHES, TEXTS, DIM = 40, 25, 64


def _vectors(texts: list[str]) -> np.ndarray:
    return np.array([np.random.default_rng(_number(each)).normal(size=DIM) for each in texts], "f4")


def _number(text: str) -> int:
    return int.from_bytes(text.encode()[:16].ljust(16, b"\0"), "little")


def _cache(out: Path) -> TextCache:
    return TextCache(out / "texts.sqlite", b"an encoder")


def _write_texts(base: Path, out: Path, which: int) -> None:
    cache = _cache(out)
    for batch in range(BATCHES):
        texts = [f"{(which + batch) % 3} {batch} {i}" for i in range(TEXTS)]
        known = cache.read(texts, DIM)
        for text, vector in known.items():
            assert np.array_equal(vector, _vectors([text])[0]), text
        cache.write(texts, _vectors(texts))
        with (out / ".log").open("a") as log:
            log.write("".join(f"{each}\n" for each in texts))
    assert not cache.failed


def _check_texts(base: Path, out: Path) -> None:
    lines = (out / ".log").read_text().split("\n")[:-1]
    texts = sorted(set(lines))
    known = _cache(out).read(texts, DIM)
    assert set(known) == set(texts), "what was written is not there"
    for text, vector in known.items():
        assert np.array_equal(vector, _vectors([text])[0]), text
    with sqlite3.connect(out / "texts.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# ---- eval ------------------------------------------------------------------------------------------------


def _evaluate(base: Path, out: Path, which: int) -> None:
    local_sets.encoding.add_images = local_sets.logged(out / ".log")
    methods = ["name", "default"]
    local_sets.evaluate_one(local_sets.open_digits(base / "digits"), out, methods=methods, workers=2)


def _before_eval(out: Path) -> None:
    with suppress(FileNotFoundError):
        (out / ".log").rename(out / ".log-of-the-first")


def _check_eval(base: Path, out: Path) -> None:
    assert local_sets.results(out) == local_sets.results(base / "whole")
    first, second = (
        (out / name).read_text().split() if (out / name).exists() else []
        for name in (".log-of-the-first", ".log")
    )
    assert not set(first) & set(second), "an image that was written was encoded again"
    (store,) = {path.parent for path in out.rglob("*.jsonl")}
    ids = [each for entry in Store(store).new_entries() for each in entry.content.get("ids", [])]
    assert len(ids) == len(set(ids)) == local_sets.IMAGES
    assert set(first) | set(second) <= set(ids)


# ---- label -----------------------------------------------------------------------------------------------


def _digits(base: Path) -> None:
    local_sets.write_digits(base / "digits")


def _pictures(base: Path) -> None:
    contents = local_sets.digit_jpegs(range(100))
    contents[5] = b"no picture"
    (base / "in").mkdir()
    for number in range(4):
        write_tar(base / "in" / f"{number}.tar", contents[25 * number : 25 * number + 25] * 3)
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.save_pretrained(base / "head")


def _label(base: Path, out: Path, which: int, **options: Any) -> None:
    sizes: dict[str, Any] = {"batch_size": 8, "part_size": 16, "workers": 2, "max_error_share": 1.0}
    label(base / "in", base / "head", out, keep_embeddings=True, **{**sizes, **options})


def _label_on_ray(base: Path, out: Path, which: int) -> None:
    from s3clip.bulk.on_ray import start_ray

    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    start_ray(2, 100 << 20)
    _label(base, out, which, engine="ray", workers=1)


def _before_label(out: Path) -> None:
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("*-*.parquet")}
    (out / ".noted").write_text(json.dumps(times))


def _check_label(base: Path, out: Path) -> None:
    assert rows_of(out) == rows_of(base / "whole")
    for name, then in json.loads((out / ".noted").read_text()).items():
        assert (out / name).stat().st_mtime_ns == then, f"{name} was written again"


# ---- generate --------------------------------------------------------------------------------------------

CLASSES = 60


def _serve(base: Path) -> None:
    """Be a chat model that notes what it is asked."""

    def behave(handler: Any, classes: list[dict[str, Any]], body: Any) -> bool:
        with (base / "asked").open("a") as file:
            file.write("".join(f"{each['number']}\n" for each in classes))
        return True

    server = ChatServer()
    server.delay, server.behave = 0.01, behave
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that are gone
    (base / "address").write_text(server.address)
    server.serve_forever(0.01)


def _ask(base: Path, out: Path, which: int) -> None:
    path = out / "own.json"
    if path.exists() and not list(out.glob("*.jsonl")):  # it was done, and would be refused
        return
    address = (base / "address").read_text()
    generate_synonyms(
        [f"class {i}" for i in range(CLASSES)], model="m", base_url=address, out=path, classes_per_request=2
    )


def _before_asking(out: Path) -> None:
    answered = []
    for line in b"".join(path.read_bytes() for path in out.glob("*.jsonl")).split(b"\n"):
        with suppress(ValueError):
            answered.append(json.loads(line)["position"])
    (out / ".noted").write_text(json.dumps(answered))
    (out.parent / "asked").unlink(missing_ok=True)


def _check_answers(base: Path, out: Path) -> None:
    assert (out / "own.json").read_bytes() == (base / "whole" / "own.json").read_bytes()
    asked = (base / "asked").read_text().split() if (base / "asked").exists() else []
    again = set(json.loads((out / ".noted").read_text())) & set(map(int, asked))
    assert not again, f"asked again: {again}"


# ---- fit -------------------------------------------------------------------------------------------------


def _fit(base: Path, out: Path, which: int) -> None:
    os.environ["S3CLIP_CACHE"] = str(out / "cache")
    head = SynonymousSpaceHead.from_backbone(model_folder())
    head.fit_classes(synonym_file(), batch_size=16)
    head.save_pretrained(out / "space")


def _check_fit(base: Path, out: Path) -> None:
    for path in (base / "whole" / "space").iterdir():
        assert (out / "space" / path.name).read_bytes() == path.read_bytes(), path.name
    with sqlite3.connect(out / "cache" / "texts.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _nothing(base: Path) -> None:
    pass


JOBS = {
    "save": Job(_nothing, _save, _check_save, _whole_save, processes=2),
    "texts": Job(_nothing, _write_texts, _check_texts, processes=2),
    "eval": Job(_digits, _evaluate, _check_eval, _before_eval),
    "label": Job(_pictures, _label, _check_label, _before_label),
    "ray": Job(_pictures, _label_on_ray, _check_label, _before_label),
    "generate": Job(_nothing, _ask, _check_answers, _before_asking, beside=_serve),
    "fit": Job(_nothing, _fit, _check_fit),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kill")
    parser.add_argument("target", nargs="+", choices=[*JOBS, "all"])
    parser.add_argument("--count", type=int, default=100, help="of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    failed = 0
    for name in JOBS if "all" in asked.target else asked.target:
        began = time.monotonic()
        in_time, failures = run(name, asked.count, asked.seed, asked.first)
        failed += len(failures)
        print("\n".join(failures), end="\n" if failures else "")
        print(
            f"{name}: {asked.count} kills from {asked.first} of seed {asked.seed} in "
            f"{time.monotonic() - began:,.0f} s, {in_time} of a job at work, {len(failures)} failures",
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
