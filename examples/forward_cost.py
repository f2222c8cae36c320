"""Time and peak extra memory of the head's forward against the one matrix product that it cannot do without.

    python examples/forward_cost.py                     # 64 images, 1,000 classes x 32 texts x 512, float32
    python examples/forward_cost.py --classes 21000 --texts 30

Medians of interleaved repeats, so that a machine whose speed drifts slows all alike. Extra memory is the
growth of the process (Linux) during a call, after free memory was given back.
"""

import argparse
import ctypes
import statistics
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import HeadConfig, SynonymousSpaceHead


def gather_rows(images: Tensor, texts: Tensor) -> Tensor:
    """The default metric by gathering the embeddings of the nearest texts of each class."""
    count = -(-texts.shape[1] * 2 // 5)
    scores = []
    for own in texts:
        mean = own[(images @ own.T).topk(count, dim=1).indices].mean(1)
        scores.append(0.75 * (images * mean).sum(1) + 0.25 * images @ own[0])
    return torch.stack(scores, dim=1)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def peak_extra_bytes(call: Callable[[], object], repeats: int = 5) -> int:
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(repeats):
        call()
    done.set()
    watcher.join()
    return peak - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"images": 64, "classes": 1000, "texts": 32, "dim": 512, "repeats": 15, "threads": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    texts = normalize(torch.randn(given.classes, given.texts, given.dim), dim=-1)
    images = normalize(torch.randn(given.images, given.dim), dim=-1)
    # Random texts share no meaning for a scale rule to find: keep them all, which is the most work.
    head = SynonymousSpaceHead(config=HeadConfig(scale_rule=None))
    head.fit_embeddings(list(texts), [str(i) for i in range(given.classes)], logit_scale=1.0)
    center = SynonymousSpaceHead(config=HeadConfig(metric="center", scale_rule=None))
    center.fit_embeddings(list(texts), head.class_names, logit_scale=1.0)
    flat = texts.flatten(0, 1)

    calls = {
        "product images @ texts.T": lambda: images @ flat.T,
        "default (local_center)": lambda: head(image_embeds=images),
        "center": lambda: center(image_embeds=images),
        "gathering rows": lambda: gather_rows(images, texts),
    }
    with torch.inference_mode():
        difference = (calls["default (local_center)"]() - calls["gathering rows"]()).abs().max().item()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for repeat in range(given.repeats):
            for name, call in calls.items():
                if name == "gathering rows" and repeat > 2:
                    continue  # seconds each
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
        extra = peak_extra_bytes(calls["default (local_center)"])
    print(", ".join(f"{getattr(given, name)} {name}" for name in sizes), "float32, torch", torch.__version__)
    floor = statistics.median(taken["product images @ texts.T"])
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:<26} {median * 1e3:9.1f} ms  {median / floor:7.2f} x the product")
    matrix = given.images * given.classes * given.texts * 4
    print(f"peak extra memory of forward: {extra / 2**20:.1f} MiB, one matrix: {matrix / 2**20:.1f} MiB")
    print(f"largest difference from gathering rows: {difference:.1e}")


if __name__ == "__main__":
    main()
