"""How fast `s3clip label` is, beside plain loops, reading alone and decoding alone; and its peak memory.

    python examples/studies/bulk_rates.py embeddings --rows 5000000 --dim 512
    python examples/studies/bulk_rates.py pictures --rows 100000 --workers 1
    python examples/studies/bulk_rates.py pictures --rows 20000 --engine ray --workers 2

Writes synthetic input into a temporary folder (in --at; 5 GB for the first line), labels a tenth of it and
all of it, each in a process of its own, and removes everything, also on Ctrl-C. What is compared with is
timed on the tenth, between the two:

- reading alone: from the disk (the cache of the files is dropped before), and again from the cache;
- decoding alone: pictures in RGB, one after the other, one process;
- the bare loop: a block at a time through `head(...)`, the best class is taken, nothing is written;
- the plain loop: `head.predict` on a block at a time, and what it says written into parquet.

Pictures are JPEGs of 256 x 256 pixels in tars of 1,000, of which --distinct are different ones. The model is
the one of the demo, a small ViT for 16 x 16 pixels, so that reading and decoding is what counts; --pixels 224
takes a random CLIP of one layer for 224 x 224 instead. Memory is the proportional set size (shared pages are
shared out) of the process and of all its workers together, sampled five times a second; what lies in /dev/shm
is decoded batches on their way, in Ray's object store or between the workers of torch. The rate "of the other
nine tenths" leaves out what starts once.
"""

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from s3clip import SynonymousSpaceHead
from s3clip.demo import model_folder, synonym_file

JOB = """
import sys
from s3clip.bulk import label
if __name__ == "__main__":
    head, out, engine, workers, *files = sys.argv[1:]
    summary = label(files, head, out, engine=engine, workers=int(workers))
    print(summary.labelled_now, summary.seconds)
"""
MOST_FILE_ROWS = 500_000
MOST_TAR_ROWS = 1000
EMBEDDINGS_AT_ONCE = 4096
PICTURES_AT_ONCE = 64


class Measured(NamedTuple):
    """A run: its rows, seconds, peak memory, and most that lay in /dev/shm for it; both in MiB."""

    rows: int
    seconds: float
    peak: float
    shared: float


def embedding_head(folder: Path, dim: int, classes: int, texts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spaces = [torch.randn(texts, dim, generator=generator) for _ in range(classes)]
    names = [f"class {i}" for i in range(classes)]
    head = SynonymousSpaceHead().fit_embeddings(
        spaces, names, texts=[[f"{name}, {i}" for i in range(texts)] for name in names], logit_scale=100.0
    )
    head.save_pretrained(folder)


def picture_head(folder: Path, model: Path, pixels: int | None) -> str:
    """Save a head for pictures, and its model where it is made here; return what it is."""
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    if pixels is None:
        head.save_pretrained(folder)
        return "the demo's ViT, 16 x 16 pixels"
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": pixels, "patch_size": 32}
    dim = head.space.raw.shape[1]
    made = CLIPModel(CLIPConfig(text_config=tower, vision_config=vision, projection_dim=dim))
    made.save_pretrained(model)
    size = {"height": pixels, "width": pixels}
    CLIPImageProcessor(size={"shortest_edge": pixels}, crop_size=size).save_pretrained(model)
    for file in Path(model_folder()).glob("*token*"):
        shutil.copy(file, model)
    random = SynonymousSpaceHead.from_backbone(model)
    spaces = [head.space.raw[head.space.owners == i] for i in range(len(head.classes))]
    random.fit_embeddings(spaces, head.class_names, texts=[each.texts for each in head.classes])
    random.save_pretrained(folder)
    return f"a random ViT-B/32 of one layer of width 64, {pixels} x {pixels} pixels"


def write_embeddings(folder: Path, rows: int, dim: int) -> list[Path]:
    """Float16 in files of 500,000 rows at most, written in blocks."""
    folder.mkdir()
    files, rng = [], np.random.default_rng(0)
    length = min(MOST_FILE_ROWS, -(-rows // 10))
    for number, first in enumerate(range(0, rows, length)):
        count = min(length, rows - first)
        with (folder / f"{number:04d}.npy").open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (count, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, count, 50_000):
                block = rng.standard_normal((min(50_000, count - start), dim), dtype=np.float32)
                file.write(block.astype(np.float16).tobytes())
            os.fsync(file.fileno())
        files.append(Path(file.name))
    return files


def write_pictures(folder: Path, rows: int, distinct: int) -> list[Path]:
    folder.mkdir()
    files, rng, contents = [], np.random.default_rng(0), []
    for _ in range(distinct):
        small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(small).resize((256, 256)).save(sink, "JPEG", quality=90)
        contents.append(sink.getvalue())
    length = min(MOST_TAR_ROWS, -(-rows // 10))
    for number, first in enumerate(range(0, rows, length)):
        path = folder / f"{number:05d}.tar"
        with path.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for i in range(first, min(rows, first + length)):
                    member = tarfile.TarInfo(f"{i:09d}.jpg")
                    member.size = len(contents[i % distinct])
                    tar.addfile(member, io.BytesIO(contents[i % distinct]))
            os.fsync(file.fileno())
        files.append(path)
    return files


def measured(at: Path, files: list[Path], head: Path, engine: str, workers: int) -> Measured:
    """Label files in a new process."""
    script = at / "job.py"
    script.write_text(JOB)
    out = tempfile.mkdtemp(dir=at)
    line = [sys.executable, str(script), str(head), out, engine, str(workers), *map(str, files)]
    job = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    peak = shared = 0.0
    shared_before = shutil.disk_usage("/dev/shm").used

    def watch() -> None:
        nonlocal peak, shared
        process = psutil.Process(job.pid)
        while job.poll() is None:
            total = 0.0
            for each in family(process):
                with suppress(psutil.Error):
                    total += each.memory_full_info().pss
            peak = max(peak, total)
            shared = max(shared, shutil.disk_usage("/dev/shm").used - shared_before)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        printed, _ = job.communicate()
    finally:
        job.kill()
        watcher.join()
    if job.returncode:
        raise SystemExit(f"the job failed with status {job.returncode}")
    rows, seconds = printed.split()[-2:]
    shutil.rmtree(out)
    return Measured(int(rows), float(seconds), peak / 2**20, shared / 2**20)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def read_alone(files: list[Path], *, cold: bool) -> float:
    """GB a second."""
    size = 0
    started = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while content := file.read(1 << 24):
                size += len(content)
    return size / 1e9 / (time.perf_counter() - started)


def blocks_of_embeddings(files: list[Path]) -> Iterator[torch.Tensor]:
    for path in files:
        array = np.load(path, mmap_mode="r")
        for start in range(0, len(array), EMBEDDINGS_AT_ONCE):
            yield torch.from_numpy(np.array(array[start : start + EMBEDDINGS_AT_ONCE], dtype=np.float32))


def blocks_of_pictures(files: list[Path]) -> Iterator[list[Image.Image]]:
    held = []
    for path in files:
        with tarfile.open(path) as tar:
            for member in tar:
                held.append(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
                if len(held) == PICTURES_AT_ONCE:
                    yield held
                    held = []
    if held:
        yield held


def decode_alone(files: list[Path]) -> int:
    return sum(len(block) for block in blocks_of_pictures(files))


def bare_loop(files: list[Path], head: SynonymousSpaceHead, what: str) -> int:
    """The least that does the job; nothing is written."""
    rows = 0
    with torch.inference_mode():
        if what == "embeddings":
            for block in blocks_of_embeddings(files):
                head(image_embeds=block).max(dim=1)
                rows += len(block)
        else:
            for block in blocks_of_pictures(files):
                head(**head.backbone.preprocess(block)).max(dim=1)
                rows += len(block)
    return rows


def plain_loop(files: list[Path], head: SynonymousSpaceHead, what: str, out: Path) -> int:
    """What `predict` says, in parquet: nearly the rows of `s3clip label` (no keys, logits and margins)."""
    rows = 0
    if what == "embeddings":
        found = (
            head.predict(image_embeds=each, batch_size=len(each)) for each in blocks_of_embeddings(files)
        )
    else:
        found = (head.predict(each, batch_size=len(each)) for each in blocks_of_pictures(files))
    names = ("label", "score", "class_index", "class_id", "text", "accepted")
    writer = None
    for block in found:
        columns = {name: [getattr(own[0], name) for own in block] for name in names}
        columns["top_class_index"] = [[each.class_index for each in own] for own in block]
        columns["top_score"] = [[each.score for each in own] for own in block]
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
        writer.write_table(table)
        rows += len(block)
    if writer is not None:
        writer.close()
    return rows


def rate(work: Callable[..., int], *arguments: object) -> float:
    """Rows a second of a function that returns how many rows it has done."""
    started = time.perf_counter()
    rows = work(*arguments)
    return rows / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["embeddings", "pictures"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512, help="of the embeddings")
    parser.add_argument(
        "--classes", type=int, default=100, help="for embeddings; pictures have the demo's ten"
    )
    parser.add_argument("--texts", type=int, default=4, help="of a class, for embeddings")
    parser.add_argument("--distinct", type=int, default=300, help="pictures that differ")
    parser.add_argument(
        "--pixels", type=int, default=None, help="a random model of this size, not the demo's"
    )
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--at", type=Path, default=None, help="where the temporary folder is made")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the folder, as Ctrl-C does
    with tempfile.TemporaryDirectory(dir=given.at) as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, at: Path) -> None:
    row_bytes = 2 * given.dim if given.what == "embeddings" else 40_000
    needed, free = given.rows * (row_bytes + 200), shutil.disk_usage(at).free
    if needed > 0.9 * free:
        raise SystemExit(
            f"--rows: they need about {needed / 1e9:.1f} GB, and {at} has {free / 1e9:.1f} GB; give --at"
        )
    if given.what == "embeddings":
        embedding_head(at / "head", given.dim, given.classes, given.texts)
        model = f"none, {given.dim} dimensions"
        files = write_embeddings(at / "in", given.rows, given.dim)
    else:
        model = picture_head(at / "head", at / "model", given.pixels)
        files = write_pictures(at / "in", given.rows, given.distinct)
    size = sum(file.stat().st_size for file in files)
    tenth = files[: max(1, len(files) // 10)]
    head = SynonymousSpaceHead.from_pretrained(at / "head")
    texts = sum(each.rows for each in head.classes)
    print(f"model: {model}; {len(head.classes)} classes, {texts} texts, {head.config.metric}", flush=True)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{given.rows:,} rows, {size / 1e9:.2f} GB in {len(files)} files of float16 or JPEGs", flush=True)
    cold = read_alone(files, cold=True)
    print(
        f"reading alone: {cold:.2f} GB/s from the disk = {cold * 1e9 / size * given.rows:,.0f} rows/s",
        end="; ",
    )
    print(f"{read_alone(tenth, cold=False):.2f} GB/s from the cache", flush=True)
    first = measured(at, tenth, at / "head", given.engine, given.workers)
    said(given, first)
    compared = {}
    if given.what == "pictures":
        compared["decoding alone"] = rate(decode_alone, tenth)
    compared["the bare loop"] = rate(bare_loop, tenth, head, given.what)
    compared["the plain loop"] = rate(plain_loop, tenth, head, given.what, at / "plain.parquet")
    for name, value in compared.items():
        print(f"{name}: {value:,.0f} rows/s", flush=True)
    last = measured(at, files, at / "head", given.engine, given.workers)
    said(given, last)
    if last.rows > first.rows:
        compared = {"reading from the disk": cold * 1e9 / size * given.rows, **compared}
        steady = (last.rows - first.rows) / (last.seconds - first.seconds)
        print(f"of the other nine tenths: {steady:,.0f} rows/s", end="")
        print("".join(f"; {steady / value:.2f} x {name}" for name, value in compared.items()))
        print(f"peak memory: {last.peak / first.peak:.2f} x that of the tenth")


def said(given: argparse.Namespace, run: Measured) -> None:
    print(
        f"s3clip label --engine {given.engine} --workers {given.workers}: {run.rows:,} rows in "
        f"{run.seconds:.1f} s, "
        f"{run.rows / run.seconds:,.0f} rows/s, peak memory {run.peak:,.0f} MiB"
        f", in /dev/shm {run.shared:,.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
