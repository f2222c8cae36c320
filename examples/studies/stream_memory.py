"""What `s3clip eval` holds in memory, and whether its loader keeps up with an encoder.

    OMP_NUM_THREADS=1 python examples/studies/stream_memory.py memory --images 10000 100000 --workers 2
    python examples/studies/stream_memory.py rates --images 4096 --workers 1 2

"memory" evaluates a tiny model with embeddings of 512 numbers on so many pictures, streamed from tars (2 KB a
picture, in a temporary folder), each time in a process of its own, and prints its peak.
"rates" reads photos of 500 x 375 pixels from a tar, runs a ViT-B/32 with random weights, and does both at the
same time as `s3clip eval` does; it says how long the encoder had nothing to do. It runs on a GPU if it can.
"""

import argparse
import io
import json
import multiprocessing
import resource
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from s3clip import Backbone
from s3clip.demo import model_folder, synonym_file
from s3clip.evaluation.benchmarks.opening import open_benchmark
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.benchmarks.table import find_benchmark
from s3clip.evaluation.runs.cache import Cache
from s3clip.evaluation.runs.embeddings import ImageJob
from s3clip.evaluation.runs.encoding import encode
from s3clip.evaluation.runs.run import evaluate
from s3clip.images.sources import read

PER_SHARD = 10_000  # as CLIP_benchmark writes them
DIM = 512
BATCH = 64


def write_set(folder: Path, images: int, pictures: Iterator[bytes]) -> ClassificationSet:
    """Write pictures into tars, labelled with the classes of the demo, and open them as one's own set."""
    shards = folder / "tars" / "test"
    shards.mkdir(parents=True)
    for first in range(0, images, PER_SHARD):
        with tarfile.open(shards / f"{first // PER_SHARD}.tar", "w") as tar:
            for i, picture in enumerate(islice(pictures, min(PER_SHARD, images - first)), first):
                for suffix, content in (("cls", str(i % 10).encode()), ("jpg", picture)):
                    member = tarfile.TarInfo(f"s{i:07d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    layout = {"kind": "webdataset", "folder": "tars"}
    row = {
        "name": "synthetic",
        "synonyms": str(synonym_file()),
        "conventions": {"own": {"layouts": [layout]}},
    }
    (folder / "row.json").write_text(json.dumps(row))
    return open_benchmark(find_benchmark(folder / "row.json"), folder)


def jpegs(width: int, height: int) -> Iterator[bytes]:
    """Give pictures of smooth noise, 200 of them again and again: as slow to read as photos of that size."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(200):
        small = draw.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((width, height)).save(buffer, "jpeg")
        made.append(buffer.getvalue())
    return cycle(made)


# Memory


def tiny_clip() -> Backbone:
    """The model of the demo with random weights and embeddings of 512 numbers."""
    demo = Backbone.from_pretrained(model_folder())
    towers = {"text_config": demo.model.config.text_config, "vision_config": demo.model.config.vision_config}
    config = transformers.CLIPConfig(
        **{name: {**tower.to_dict(), "projection_dim": DIM} for name, tower in towers.items()},
        projection_dim=DIM,
    )
    torch.manual_seed(0)
    return Backbone(transformers.CLIPModel(config).eval(), (demo.tokenizer, demo.image_processor))


def evaluate_synthetic(images: int, workers: int, methods: list[str] | None) -> None:
    """Evaluate in this process, and print its peak."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = write_set(folder, images, jpegs(16, 16))
        backbone = tiny_clip()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
        run = evaluate(
            [opened],
            backbone=backbone,
            cache=folder / "embeddings",
            methods=methods,
            workers=workers,
        )
        (benchmark,) = run.benchmarks
        (timing,) = run.measured.benchmarks
        if benchmark.counts.scored != images:
            raise SystemExit(f"scored {benchmark.counts.scored:,} pictures of {images:,}")
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"{images:>9,} pictures: peak {run.measured.peak_memory_mib[0]:,.0f} MiB "
            f"({before:,.0f} before), largest worker {worker:,.0f} MiB; "
            f"the embeddings are {images * DIM * 4 / 2**20:,.1f} MiB; "
            f"{len(benchmark.scores)} methods, encoding {timing.encoding_seconds:.0f} s, "
            f"scoring {timing.scoring_seconds:.0f} s",
            flush=True,
        )


def memory(images: list[int], workers: int, methods: list[str] | None) -> None:
    for count in images:
        job = multiprocessing.get_context("spawn").Process(
            target=evaluate_synthetic, args=(count, workers, methods)
        )
        job.start()
        job.join()
        if job.exitcode:
            raise SystemExit(f"failed on {count:,} pictures")


# Rates


def vit_b32(device: str) -> Backbone:
    """A CLIP with the image tower of ViT-B/32 and random weights; texts are not encoded."""
    config = transformers.CLIPConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 100}, projection_dim=DIM
    )
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 224})
    return Backbone(transformers.CLIPModel(config).eval().to(device), (None, processor))


class Busy:
    """How long `encode_images` of a backbone computes, on the clock of its own device."""

    def __init__(self, backbone: Backbone) -> None:
        self.encode, self.on_gpu = backbone.encode_images, backbone.device.type == "cuda"
        self.spans: list[tuple] = []
        backbone.encode_images = self

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Encode, and note when it began and ended."""
        begin = self._mark()
        embeds = self.encode(**inputs)
        self.spans.append((begin, self._mark()))
        return embeds

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """Return the time since the last call of this."""
        spans, self.spans = self.spans, []
        if not self.on_gpu:
            return sum(end - begin for begin, end in spans)
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in spans) / 1000


def rates(images: int, workers: list[int], device: str) -> None:
    backbone = vit_b32(device)
    busy = Busy(backbone)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = write_set(folder, images, jpegs(500, 375))
        transform = backbone.image_transform()
        first = next(iter(read(opened.shards, transform=transform, batch_size=BATCH)))
        inputs = {key: value.to(device) for key, value in first.value.items()}
        with torch.inference_mode():
            backbone.encode_images(**inputs)  # warms up
            busy.seconds()
            repeats = max(3, images // BATCH)
            for _ in range(repeats):
                backbone.encode_images(**inputs)
        encoder = repeats * len(first.records) / busy.seconds()
        print(f"{images:,} photos of 500 x 375, ViT-B/32 on {device}, {torch.get_num_threads()} threads")
        print(f"encoder alone: {encoder:,.0f} images/s")
        for count in workers:
            started = time.perf_counter()
            for _ in read(opened.shards, transform=transform, batch_size=BATCH, workers=count):
                pass
            loader = images / (time.perf_counter() - started)
            started = time.perf_counter()
            cache = Cache(folder / f"{count}")
            encode(ImageJob(opened, backbone), cache, batch_size=BATCH, workers=count)
            both = time.perf_counter() - started
            print(
                f"{count} workers: loader alone {loader:,.0f} images/s, {loader / encoder:.2f} x encoder; "
                f"both {images / both:,.0f} images/s, the encoder idle {1 - busy.seconds() / both:.0%} of it",
                flush=True,
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("memory")
    one.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    one.add_argument("--workers", type=int, default=0)
    one.add_argument("--method", action="append", help="this one and the control alone; all by default")
    other = parts.add_parser("rates")
    other.add_argument("--images", type=int, default=4096)
    other.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    other.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    if given.part == "memory":
        memory(given.images, given.workers, given.method)
    else:
        rates(given.images, given.workers, given.device)


if __name__ == "__main__":
    main()
