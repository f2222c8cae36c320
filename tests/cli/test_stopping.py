"""Ctrl-C: real signals to real processes, one line, and the command in that line goes on."""

import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet, cli
from s3clip.bulk import local
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation.runs.store import Store
from tests.chat_server import ChatServer, chat_server
from tests.processes import children, is_there, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are read from /proc")

LINE = re.compile(r"stopped: (?P<kept>.+); (?P<what>to go on|to begin anew): (?P<command>s3clip .+)")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders of their classes, a benchmark of them, and a head."""
    folder = tmp_path_factory.mktemp("stop it")  # a name that has to be quoted
    images, labels = held_out_digits()
    names = SynonymSet.read(synonym_file()).class_names
    for number in range(120):
        own = folder / "digits" / names[int(labels[number])]
        own.mkdir(parents=True, exist_ok=True)
        images[number].save(own / f"{number:03}.png")
    shutil.copy(synonym_file(), folder / "words.json")
    layouts = [{"kind": "folders", "folder": "digits"}]
    own = {"name": "own", "synonyms": "words.json", "conventions": {"own": {"layouts": layouts}}}
    (folder / "own.json").write_text(json.dumps(own))
    head = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(synonym_file())
    head.save_pretrained(folder / "head")
    return folder


def slow(name: str, mark: Path, seconds: float) -> None:
    """Let a method of backbones take some time, and note that it was called."""
    plain = getattr(Backbone, name)

    def slowed(self: Backbone, *args: object, **more: object) -> object:
        mark.touch()
        time.sleep(seconds)
        return plain(self, *args, **more)

    setattr(Backbone, name, slowed)


def child(line: list[str], out: Path, before: Callable[[], None]) -> None:
    """Be the command, in a process group of its own."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(out / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    sys.argv = ["s3clip", *line]
    before()
    cli.main()


def stopped(
    line: list[str],
    out: Path,
    ready: Callable[[], object],
    *,
    before: Callable[[], None] = lambda: None,
    number: int = signal.SIGINT,
    group: bool = True,
) -> tuple[dict[str, str], set[int]]:
    """Send a signal to a command once it is ready; return what its line says, and the workers that it had."""
    out.mkdir()
    command = multiprocessing.get_context("fork").Process(target=child, args=(line, out, before))
    command.start()
    assert command.pid is not None
    wait_for(lambda: ready() or not command.is_alive())
    workers = children(command.pid)
    (os.killpg if group else os.kill)(command.pid, number)
    command.join(60)
    said = (out / "stderr").read_text()
    assert command.exitcode == 130, said
    assert "Traceback" not in said
    assert "Error" not in said
    lines = [each for each in said.splitlines() if each.startswith("stopped")]
    assert len(lines) == 1, said
    found = LINE.fullmatch(lines[0])
    assert found, lines
    assert said.splitlines()[-1] == lines[0]
    wait_for(lambda: not any(map(is_there, workers)))
    assert shlex.split(found["command"]) == ["s3clip", *line]
    return found.groupdict(), workers


def go_on(found: dict[str, str], out: Path) -> None:
    """Run the command of the line."""
    line = shlex.split(found["command"])[1:]
    command = multiprocessing.get_context("fork").Process(target=child, args=(line, out, lambda: None))
    command.start()
    command.join(120)
    assert command.exitcode == 0, (out / "stderr").read_text()


def rows(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("*-*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


@pytest.mark.parametrize(
    ("number", "group", "processes"),
    [
        (signal.SIGINT, True, True),
        (signal.SIGINT, True, False),
        (signal.SIGINT, False, True),
        (signal.SIGTERM, False, True),
    ],
)
def test_label(place: Path, tmp_path: Path, number: int, group: bool, processes: bool):
    out, mark = tmp_path / "la bels", tmp_path / "mark"
    sizes = ["--batch-size", "4", "--part-size", "8", "--workers", "1"]
    line = ["label", str(place / "digits"), "--head", str(place / "head"), "--out", str(out), *sizes]

    def before() -> None:
        slow("encode_images", mark, 0.05)
        local.MOST_THREADS = 0 if processes else 1

    found, workers = stopped(
        line,
        tmp_path / "said",
        lambda: list(out.glob("*-*.parquet")),
        before=before,
        number=number,
        group=group,
    )
    assert bool(workers) == processes
    assert found["kept"] == f"the parts that are done are kept in {out}"
    done = {file.name: file.stat().st_mtime_ns for file in out.glob("*-*.parquet")}
    assert 0 < len(done) < 15
    if number == signal.SIGINT and group:
        go_on(found, tmp_path / "said")
        assert len(rows(out)) == 120
        assert {name: (out / name).stat().st_mtime_ns for name in done} == done
        assert not [file.name for file in out.iterdir() if file.name.endswith(".unfinished")]


def test_eval(place: Path, tmp_path: Path):
    out, mark = tmp_path / "out", tmp_path / "mark"
    line = ["eval", str(place / "own.json"), "--backbone", str(model_folder()), "--out", str(out)]
    line += ["--workers", "1", "--batch-size", "4", "--bootstrap", "20", "--method", "name"]

    def encoded() -> int:
        entries = [each for lines in out.rglob("*.jsonl") for each in Store(lines.parent).new_entries()]
        return sum(len(each.content.get("ids", ())) for each in entries)

    found, workers = stopped(
        line, tmp_path / "said", encoded, before=lambda: slow("encode_images", mark, 0.05)
    )
    assert workers
    assert found["kept"] == f"what was encoded is kept in {out / 'embeddings'}"
    assert not (out / "run.json").exists()
    kept = encoded()
    assert 0 < kept < 120
    go_on(found, tmp_path / "said")
    run = json.loads((out / "run.json").read_text())
    assert run["benchmarks"][0]["counts"]["scored"] == 120
    assert run["measured"]["benchmarks"][0]["images_encoded"] == 120 - kept


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def test_generate_does_not_wait_for_a_silent_server(server: ChatServer, tmp_path: Path):
    names, out, journal = tmp_path / "names.txt", tmp_path / "o.json", tmp_path / "o.json.partial.jsonl"
    names.write_text("\n".join(f"animal {i}" for i in range(6)))
    answered = 0

    def behave(handler: object, classes: list[dict[str, object]], body: object) -> bool:
        nonlocal answered
        answered += 1
        if answered > 2:
            time.sleep(600)
        return True

    server.behave = behave
    server.daemon_threads, server.block_on_close = True, False
    line = ["synonyms", "generate", "--out", str(out), "--model", "m", "--base-url", server.address,
            "--classes-per-request", "1", "--concurrency", "2", str(names)]  # fmt: skip
    began = time.monotonic()
    found, _ = stopped(line, tmp_path / "said", lambda: answered >= 4)
    assert time.monotonic() - began < 60
    assert found["kept"] == f"the answers are kept in {journal}"
    kept = [each for each in journal.read_text().splitlines() if each]
    assert len(kept) == 2
    answered = -(10**6)
    server.asked.clear()
    go_on(found, tmp_path / "said")
    assert len(server.asked) == 4
    assert not journal.exists()
    assert len(json.loads(out.read_text())["classes"]) == 6


@pytest.mark.parametrize("verb", ["fit", "compare", "segment", "predict"])
def test_what_begins_anew_or_finds_texts_in_the_cache(place: Path, tmp_path: Path, verb: str):
    mark, out = tmp_path / "mark", tmp_path / "out"
    model, words = ["--backbone", str(model_folder())], str(place / "words.json")
    digits = str(place / "digits")
    line, method, kept, what = {
        "fit": (["fit", words, *model, "--out", str(out)], "encode_texts", "S3CLIP_CACHE is empty", "go on"),
        "compare": (
            ["compare", str(synonym_file()), *model, "--images", digits, "--out", str(out)],
            "encode_images",
            "S3CLIP_CACHE is empty",
            "begin anew",
        ),
        "segment": (
            ["segment", digits, "--head", str(place / "head"), "--out", str(out)],
            "",
            "pictures that were written",
            "begin anew",
        ),
        "predict": (
            ["predict", digits, "--head", str(place / "head")],
            "encode_images",
            "nothing is kept",
            "begin anew",
        ),
    }[verb]
    found, _ = stopped(
        line,
        tmp_path / "said",
        lambda: mark.exists() or any(out.glob("*.png")),
        before=lambda: slow(method, mark, 0.5) if method else None,
    )
    assert kept in found["kept"]
    assert found["what"] == f"to {what}"
    assert not list(tmp_path.rglob("*.unfinished"))


def test_the_real_command(place: Path, tmp_path: Path):
    """Its program is named as it was typed, and a signal while it imports is answered, too."""
    line = [
        sys.executable,
        "-m",
        "s3clip.cli",
        "predict",
        str(place / "digits"),
        "--head",
        str(place / "head"),
    ]
    running = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: "torch" in Path(f"/proc/{running.pid}/maps").read_text())
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert said == f"stopped: nothing is kept; to begin anew: {shlex.join(line)}\n"


def test_a_worker_that_is_killed_is_one_line(place: Path, tmp_path: Path):
    mark, said = tmp_path / "mark", tmp_path / "said"
    said.mkdir()
    line = [
        "eval",
        str(place / "own.json"),
        "--backbone",
        str(model_folder()),
        "--out",
        str(tmp_path / "out"),
    ]
    line += ["--workers", "1", "--batch-size", "4"]
    command = multiprocessing.get_context("fork").Process(
        target=child, args=(line, said, lambda: slow("encode_images", mark, 0.05))
    )
    command.start()
    wait_for(lambda: children(command.pid or 0) or not command.is_alive())
    for worker in children(command.pid or 0):
        os.kill(worker, signal.SIGKILL)
    command.join(60)
    assert command.exitcode == 1
    *_, last = (said / "stderr").read_text().splitlines()
    assert last.startswith("error: a process that opens images was killed")
    assert "Traceback" not in (said / "stderr").read_text()
