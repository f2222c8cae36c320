"""Read many tiny pictures from tar shards and say how much memory that takes, at the start and at the end.

    OMP_NUM_THREADS=1 python examples/stream_memory.py --images 100000 --workers 2

The tars lie in a temporary folder while it runs: 2 KB a picture.
"""

import argparse
import io
import resource
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from s3clip.shards import TarShard
from s3clip.sources import read

PER_SHARD = 10_000  # as CLIP_benchmark writes them


def write_shards(folder: Path, images: int) -> list[TarShard]:
    """Write tars of pictures that are noise, 16 pixels wide, each with a label."""
    draw = np.random.default_rng(0)
    for first in range(0, images, PER_SHARD):
        with tarfile.open(folder / f"{first // PER_SHARD}.tar", "w") as tar:
            for i in range(first, min(first + PER_SHARD, images)):
                buffer = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "jpeg")
                for suffix, content in (("cls", str(i % 10).encode()), ("jpg", buffer.getvalue())):
                    member = tarfile.TarInfo(f"s{i:07d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return [TarShard(path.name, path) for path in sorted(folder.iterdir(), key=lambda path: int(path.stem))]


def pixels(images: list[Image.Image]) -> torch.Tensor:
    """Return pictures as an image tower of 224 pixels reads them: (batch, 3, 224, 224)."""
    arrays = [np.asarray(image.resize((224, 224)), np.float32) / 255 for image in images]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1)


def peak_mb() -> float:
    """Return the peak memory of this process, or of a worker if one took more, in MB."""
    of = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in of) / 1024  # Linux counts in KiB


def main(images: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder), images)
        seen = 0
        print(f"before: {peak_mb():.0f} MB")
        for batch in read(shards, transform=pixels, workers=workers):
            before, seen = seen, seen + len(batch.value)
            if before // (images / 10) < seen // (images / 10):
                print(f"{seen:>9,} pictures: {peak_mb():.0f} MB")
        print(f"with the workers: {peak_mb():.0f} MB")  # they are counted when they have ended
        if seen != images:
            raise SystemExit(f"read {seen} pictures of {images}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.images, arguments.workers)
