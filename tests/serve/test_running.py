"""`s3clip serve` as a process: SIGTERM, kill -9 and a new start under load, and what it says."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 's3clip[serve]'")
pytest.importorskip(
    "prometheus_client", reason="prometheus_client is not installed: pip install 's3clip[serve]'"
)

from s3clip import SynonymousSpaceHead
from s3clip.serve.running import listening_at
from tests.bulk.test_bulk_safety import command
from tests.processes import wait_for
from tests.serve.client import ask
from tests.serve.test_serve import assert_same, expected, head, pictures  # noqa: F401

GONE = (ConnectionError, urllib.error.URLError, http.client.HTTPException)
"""What clients of a server that is killed see, beside answers."""


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    line = [sys.executable, "-m", "s3clip", "serve", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env)
    try:
        said = process.stdout.readline()
        assert said.startswith("Serving "), said
        yield process, said.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def saved(head: SynonymousSpaceHead, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return head.save_pretrained(tmp_path_factory.mktemp("serve") / "head")


def test_sigterm_finishes_what_is_in_flight(saved: Path, head, pictures):  # noqa: F811
    files = [("x", pictures[0])]
    with (
        served(saved, "--port", 0, "--longest-wait", 1500, S3CLIP_SERVE_TOKEN="secret") as (process, address),
        ThreadPoolExecutor(1) as pool,
    ):
        assert address.startswith("http://127.0.0.1:")
        assert ask(address, "/predict", files=files).status == 401
        bearing = {"Authorization": "Bearer secret"}
        asking = pool.submit(ask, address, "/predict", files=files, headers=bearing)
        wait_for(lambda: b"s3clip_waiting 1.0" in ask(address, "/metrics", headers=bearing).content)
        process.send_signal(signal.SIGTERM)
        answer = asking.result()
        assert_same(answer.json["results"], expected(head, pictures[:1]))
        assert process.wait(30) == 0
        with pytest.raises(GONE):
            ask(address, "/healthz")


def test_killed_and_started_again_under_load(saved: Path, head, pictures):  # noqa: F811
    wanted = expected(head, pictures)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answered, refused, stop = [0], [0], threading.Event()

    def keep_asking(number: int) -> None:
        while not stop.is_set():
            try:
                answer = ask(f"http://127.0.0.1:{port}", "/predict", files=[("x", pictures[number])])
            except GONE:
                refused[0] += 1
                stop.wait(0.05)
            else:
                assert answer.status == 200
                assert_same(answer.json["results"], wanted[number : number + 1])
                answered[0] += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(4)]
        try:
            for _ in range(2):
                with served(saved, "--port", port) as (process, _):
                    before = answered[0]
                    wait_for(lambda before=before: answered[0] > before + 20)
                    process.kill()
                    process.wait()
        finally:
            stop.set()
        for each in asking:
            each.result()
    assert refused[0]


def test_what_cannot_be_served_is_said_in_a_line(saved: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, said in (
            ((tmp_path / "none",), "none"),
            ((saved, "--port", taken.getsockname()[1]), "cannot listen there"),
            ((saved, "--waiting", 3), "waiting: expected 64"),
            ((saved, "--allow-addresses", "no scheme"), "--allow-addresses"),
            ((saved, "--dtype", "auto"), "--dtype auto: tries the types of this machine with some images"),
            ((saved, "--images", tmp_path), "--images: are tried with --dtype auto alone"),
        ):
            status, _, warned = command("serve", *arguments)
            assert status == 2
            assert said in warned
            assert warned.count("error: ") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_send_at_once(host):
    """Without, the second piece of an answer waits 40 ms for the first one's receipt."""
    try:
        listening = listening_at(host, 0)
    except OSError:
        if host == "::1":
            pytest.skip("no IPv6 here")
        raise

    async def delayed() -> int:
        found = []

        class Seen(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:
                own = transport.get_extra_info("socket")
                found.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        async with await asyncio.get_running_loop().create_server(Seen, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            await reader.read()
            writer.close()
        return found[0]

    assert asyncio.run(delayed())
