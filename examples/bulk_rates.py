"""How fast `s3clip label` is, against a plain loop and against reading and decoding alone.

    python examples/bulk_rates.py embeddings --rows 5000000 --dim 512
    python examples/bulk_rates.py pictures --rows 100000 --workers 1

Writes synthetic input into a temporary folder (--at; 5 GB for the embeddings above), labels it in a process
of its own, prints rows per second and the peak memory of that process, for a tenth of the rows and for all of
them, and removes everything. The pictures are tars of 1,000 JPEGs of 256 x 256 pixels, of which --distinct
are different ones; the model is the small one of the demo, so that reading and decoding is what counts.
Memory is the largest resident set of the process and its workers together, sampled ten times a second.
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead
from s3clip.demo import model_folder, synonym_file

JOB = """
import sys
from s3clip.bulk import label
if __name__ == "__main__":
    summary = label(sys.argv[1:-3], sys.argv[-3], sys.argv[-2], workers=int(sys.argv[-1]))
    print(summary.labelled_now, summary.seconds)
"""


def embedding_head(folder: Path, dim: int, classes: int, texts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spaces = [torch.randn(texts, dim, generator=generator) for _ in range(classes)]
    head = SynonymousSpaceHead().fit_embeddings(
        spaces, [f"class {i}" for i in range(classes)], logit_scale=100.0
    )
    head.save_pretrained(folder)


def write_embeddings(folder: Path, rows: int, dim: int) -> list[Path]:
    """Files of 500,000 rows at most, written in blocks."""
    folder.mkdir()
    files, rng = [], np.random.default_rng(0)
    for number, first in enumerate(range(0, rows, 500_000)):
        count = min(500_000, rows - first)
        path = folder / f"{number:04d}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, dim))
        for start in range(0, count, 50_000):
            stop = min(count, start + 50_000)
            array[start:stop] = rng.standard_normal((stop - start, dim), dtype=np.float32)
        array.flush()
        files.append(path)
    return files


def write_pictures(folder: Path, rows: int, distinct: int) -> list[Path]:
    folder.mkdir()
    files, rng, contents = [], np.random.default_rng(0), []
    for _ in range(distinct):
        small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(small).resize((256, 256)).save(sink, "JPEG", quality=90)
        contents.append(sink.getvalue())
    for number, first in enumerate(range(0, rows, 1000)):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for i in range(first, min(rows, first + 1000)):
                member = tarfile.TarInfo(f"{i:09d}.jpg")
                member.size = len(contents[i % distinct])
                tar.addfile(member, io.BytesIO(contents[i % distinct]))
        files.append(path)
    return files


def measured(at: Path, files: list[Path], head: Path, workers: int) -> tuple[int, float, float]:
    """Label files in a new process; return rows, seconds of the labelling, and the peak memory in MiB."""
    script = at / "job.py"
    script.write_text(JOB)
    out = tempfile.mkdtemp(dir=at)
    line = [sys.executable, str(script), *map(str, files), str(head), out, str(workers)]
    job = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(job.pid)
        while job.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
                peak = max(peak, sum(each.memory_info().rss for each in family))
            except psutil.Error:
                pass
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed, _ = job.communicate()
    watcher.join()
    rows, seconds = printed.split()[-2:]
    return int(rows), float(seconds), peak / 2**20


def read_alone(files: list[Path]) -> float:
    started = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    return time.perf_counter() - started


def loop_over_embeddings(files: list[Path], head: SynonymousSpaceHead) -> float:
    """The least that does the job: read a block, `head(...)`, take the best; nothing is written."""
    started = time.perf_counter()
    with torch.inference_mode():
        for path in files:
            array = np.load(path, mmap_mode="r")
            for start in range(0, len(array), 4096):
                block = torch.from_numpy(np.array(array[start : start + 4096], dtype=np.float32))
                head(image_embeds=block).max(dim=1)
    return time.perf_counter() - started


def loop_over_pictures(files: list[Path], head: SynonymousSpaceHead | None) -> float:
    """Decode one after the other in this process and, with a head, classify in batches of 64."""
    started = time.perf_counter()
    held = []
    for path in files:
        with tarfile.open(path) as tar:
            for member in tar:
                held.append(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
                if len(held) == 64:
                    if head is not None:
                        with torch.inference_mode():
                            head(**head.backbone.preprocess(held)).max(dim=1)
                    held = []
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["embeddings", "pictures"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--distinct", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--at", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.at) as folder:
        at = Path(folder)
        if given.what == "embeddings":
            embedding_head(at / "head", given.dim, given.classes, given.texts)
            files = write_embeddings(at / "in", given.rows, given.dim)
        else:
            SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file()).save_pretrained(
                at / "head"
            )
            files = write_pictures(at / "in", given.rows, given.distinct)
        size = sum(file.stat().st_size for file in files)
        head = SynonymousSpaceHead.from_pretrained(at / "head")
        print(f"{given.rows:,} rows, {size / 1e9:.2f} GB in {len(files)} files")
        print(f"reading alone: {size / 1e9 / read_alone(files):.2f} GB/s (the page cache is warm)")
        if given.what == "embeddings":
            print(f"plain loop: {given.rows / loop_over_embeddings(files, head):,.0f} rows/s")
        else:
            few = files[: max(1, len(files) // 10)]
            count = given.rows * len(few) // len(files)
            print(f"decoding alone, one process: {count / loop_over_pictures(few, None):,.0f} rows/s")
            print(f"plain loop, one process: {count / loop_over_pictures(few, head):,.0f} rows/s")
        for part in (files[: max(1, len(files) // 10)], files):
            rows, seconds, peak = measured(at, part, at / "head", given.workers)
            print(f"s3clip label: {rows:,} rows, {rows / seconds:,.0f} rows/s, peak memory {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
