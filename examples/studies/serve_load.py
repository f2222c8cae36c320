"""How many pictures a second `s3clip serve` answers, how long each takes, and whether the answers are right.

    python examples/studies/serve_load.py              # some minutes
    python examples/studies/serve_load.py --soak 600   # and 10 minutes at full load, its memory watched

A CLIP of the size of ViT-B/32 with random weights, 100 classes of four texts, JPEGs of 256 x 256, all on
loopback. Beside the service stand

- a plain FastAPI handler with CLIPModel, its processor and cached text features, one request at a time;
- the image tower alone, on preprocessed pixels, at the best of several batch sizes.

The three take turns, so that whatever else the machine does falls on all of them; pictures are counted by the
second and by the second of CPU time of whoever computes them, which says the same where others compute too.
It needs the extra `serve`, and Linux.
"""

import argparse
import http.client
import io
import json
import multiprocessing
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from s3clip import SynonymousSpaceHead

CLASSES, TEXTS = 100, 4
BATCHES = (1, 4, 8, 16, 32, 64)
MARK = "s3clip-load"


def model() -> tuple[CLIPModel, CLIPImageProcessor]:
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig()).eval(), CLIPImageProcessor()


def classes(dim: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(CLASSES, 1, dim, generator=generator)
    return list(centres + 0.3 * torch.randn(CLASSES, TEXTS, dim, generator=generator))


def head() -> SynonymousSpaceHead:
    clip, processor = model()
    names = [f"class {i}" for i in range(CLASSES)]
    fitted = SynonymousSpaceHead(clip, (None, processor)).fit_embeddings(
        classes(clip.config.projection_dim), names
    )
    return fitted.eval()


def jpegs(count: int = 64) -> list[bytes]:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8))
        content = io.BytesIO()
        small.resize((256, 256), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        found.append(content.getvalue())
    return found


def serve(port: int) -> None:
    from s3clip.serve import create_app, run

    run(create_app(head()), port=port)


def serve_plainly(port: int) -> None:
    """What one writes in a quarter of an hour."""
    import uvicorn
    from fastapi import FastAPI, UploadFile

    clip, processor = model()
    texts = torch.nn.functional.normalize(
        torch.stack([own.mean(0) for own in classes(clip.config.projection_dim)]), dim=-1
    )
    one_at_a_time = threading.Lock()
    app = FastAPI()

    @app.post("/predict")
    def predict(images: UploadFile) -> dict[str, Any]:
        with one_at_a_time, torch.inference_mode():
            picture = Image.open(images.file).convert("RGB")
            features = clip.get_image_features(**processor(images=picture, return_tensors="pt"))
            features = getattr(features, "pooler_output", features)
            logits = clip.logit_scale.exp() * torch.nn.functional.normalize(features, dim=-1) @ texts.T
            scores, best = logits.softmax(-1)[0].topk(5)
        return {"scores": scores.tolist(), "classes": best.tolist()}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


@contextmanager
def running(target: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Run a server in a process of its own; give its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=target, args=(port,), daemon=True)
    process.start()
    while True:
        try:
            Client(port).ask("GET", "/healthz", b"")
            break
        except ConnectionError:
            assert process.is_alive()
            time.sleep(0.1)
    try:
        yield port, process.pid or 0
    finally:
        process.terminate()
        process.join()


class Client:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and content of an answer."""
        headers = {"Content-Type": f"multipart/form-data; boundary={MARK}"} if body else {}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def forms(contents: list[bytes]) -> list[bytes]:
    before = f'--{MARK}\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\n\r\n'.encode()
    return [before + each + f"\r\n--{MARK}--\r\n".encode() for each in contents]


class Load(NamedTuple):
    """Of one server: answers a second, and a second of its CPU time; and seconds of each."""

    rate: float
    by_cpu: float
    seconds: list[float]
    statuses: dict[int, int]

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.seconds, n=100) if len(self.seconds) > 1 else [self.seconds[0]] * 99
        rates = f"{self.rate:6.2f} a second, {self.by_cpu:6.2f} a CPU second"
        return f"{rates}, p50 {1000 * cuts[49]:6.0f} ms, p99 {1000 * cuts[98]:6.0f} ms"


def load(
    server: tuple[int, int],
    bodies: list[bytes],
    clients: int,
    seconds: float,
    check: Callable[[int, bytes], None] | None = None,
) -> Load:
    """Ask from so many clients at once, each one thing after the other, for a while."""
    taken: list[float] = []
    ends: list[float] = []
    statuses: dict[int, int] = {}
    lock, started, before = threading.Lock(), time.monotonic(), cpu_seconds(server[1])

    def one(number: int) -> None:
        client, place = Client(server[0]), number
        while time.monotonic() < started + seconds:
            place = (place + clients) % len(bodies)
            begun = time.monotonic()
            status, content = client.ask("POST", "/predict", bodies[place])
            now = time.monotonic()
            if check is not None and status == 200:
                check(place, content)
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200:
                    taken.append(now - begun)
                    ends.append(now)
            if status == 503:
                time.sleep(0.2)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
    # What was asked for in time is waited for; the rate is of all of it.
    used = max(cpu_seconds(server[1]) - before, 1 / os.sysconf("SC_CLK_TCK"))
    return Load(len(taken) / (max(ends) - started), len(taken) / used, taken, statuses)


def tower_rate(clip: CLIPModel, batch: int, seconds: float) -> tuple[float, float]:
    """Return pictures a second, and a second of CPU time, of the image tower alone."""
    pixels = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    count, started, before = 0, time.monotonic(), time.process_time()
    with torch.inference_mode():
        while count == 0 or time.monotonic() < started + seconds:
            clip.get_image_features(pixel_values=pixels)
            count += batch
    return count / (time.monotonic() - started), count / (time.process_time() - before)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as status:
        user, system = status.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Return the MiB that a process has in memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmRSS"))


def soak(
    server: tuple[int, int], bodies: list[bytes], wanted: list[Any], seconds: float, clients: int
) -> None:
    """Ask for a while at full load, and compare every answer with predict's."""
    worst, lock = [0.0], threading.Lock()

    def check(place: int, content: bytes) -> None:
        found = json.loads(content)["results"][0]["predictions"]
        assert [each["label"] for each in found] == [each.label for each in wanted[place]]
        off = max(abs(each["score"] - own.score) for each, own in zip(found, wanted[place], strict=True))
        with lock:
            worst[0] = max(worst[0], off)

    parts = 6
    seen = []
    statuses: dict[int, int] = {}
    for _ in range(parts):
        part = load(server, bodies, clients, seconds / parts, check)
        for status, count in part.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
        seen.append(memory(server[1]))
    print(f"soak: {seconds:.0f} s, {clients} clients, answers by status {statuses}, all equal to predict's")
    print(f"  largest difference of a score {worst[0]:.1e}; MiB in memory after each sixth: {seen}")
    assert set(statuses) <= {200, 503}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--soak", type=float, default=0, help="seconds at full load")
    arguments = parser.parse_args()
    contents = jpegs()
    bodies = forms(contents)
    clip, _ = model()
    rates = {batch: tower_rate(clip, batch, arguments.seconds / 4) for batch in BATCHES}
    best = max(rates, key=lambda batch: rates[batch][1])
    shown = ", ".join(f"{batch}: {rate:.2f} ({by_cpu:.2f})" for batch, (rate, by_cpu) in rates.items())
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")
    print(f"image tower alone, pictures a second (a CPU second) by batch: {shown}", flush=True)
    with running(serve) as ours, running(serve_plainly) as plain:
        for server in (ours, plain):
            load(server, bodies, 2, 2)  # the first requests load what is loaded late
        for clients in arguments.clients:
            ratios = []
            for _ in range(arguments.rounds):
                # Each stands between the two that it is compared with.
                towers = [tower_rate(clip, best, arguments.seconds / 2)]
                one = load(ours, bodies, clients, arguments.seconds)
                towers.append(tower_rate(clip, best, arguments.seconds / 2))
                other = load(plain, bodies, clients, arguments.seconds)
                alone, alone_by_cpu = (statistics.mean(each) for each in zip(*towers, strict=True))
                by_cpu = (one.by_cpu / alone_by_cpu, one.by_cpu / other.by_cpu)
                ratios.append((one.rate / alone, one.rate / other.rate, *by_cpu))
            found = [statistics.median(each) for each in zip(*ratios, strict=True)]
            print(f"{clients} clients, {arguments.rounds} rounds, of which the last was")
            print(f"  serve          {one}; {one.statuses}")
            print(f"  plain handler  {other}; {other.statuses}")
            print(f"  the tower      {alone:6.2f} a second, {alone_by_cpu:6.2f} a CPU second (batch {best})")
            print(f"  serve / tower {found[0]:.2f} by the second, {found[2]:.2f} by the CPU second;")
            print(
                f"  serve / plain {found[1]:.2f} by the second, {found[3]:.2f} by the CPU second", flush=True
            )
        if arguments.soak:
            own = head()
            wanted = own.predict(contents)
            del own
            soak(ours, bodies, wanted, arguments.soak, max(arguments.clients))


if __name__ == "__main__":
    main()
