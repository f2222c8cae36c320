"""What is timed of a space of very many classes: fitted, saved, loaded, calibrated and looked at."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3clip.bench.timing import (
    Row,
    as_much,
    can_measure_memory,
    faster,
    forget_peak,
    memory_rows,
    peak_memory,
)
from s3clip.bench.workload import Workload
from s3clip.head import SynonymousSpaceHead
from s3clip.inspection.page import write_page
from s3clip.inspection.reports import inspect_head
from s3clip.space.edges import CHUNK_NUMBERS
from s3clip.space.rips import CACHED_NUMBERS
from s3clip.space.synonymous_space import LEAST_COMPARED

_PART = "many-classes"


def clustered(classes: int, texts: int, dim: int) -> Tensor:
    """Return (classes, texts, dim) texts around a centre each; one in eight is around that of another.

    All have something in common, as what a text tower makes of texts has.
    """
    generator = torch.Generator().manual_seed(0)
    common = 1.2 * torch.randn(dim, generator=generator)
    made = torch.empty(classes, texts, dim)
    for part in made.split(256):
        part.normal_(generator=generator).mul_(0.9).add_(common)
        centres = torch.randn(len(part), 1, dim, generator=generator)
        part += centres
        part[:, 3::8] += centres.roll(1, 0) - centres
    return made


def products(texts: Tensor) -> float:
    """Return the seconds of the products in float64 that a space of (classes, texts, dim) cannot do without.

    Those of each class with itself, and of all texts with the centres of all classes. Of the latter a
    twentieth is taken, since each text does the same, and its time is scaled up.
    """
    classes, count, dim = texts.shape
    start = time.perf_counter()
    for part in texts.split(max(1, CACHED_NUMBERS // (count * dim))):
        wide = part.double()
        _ = wide @ wide.mT
    own = time.perf_counter() - start
    centres, share = texts.mean(1).double(), max(1, classes // 20)
    start = time.perf_counter()
    for part in texts[:share].flatten(0, 1).split(max(LEAST_COMPARED, CHUNK_NUMBERS // max(classes, dim))):
        _ = part.double() @ centres.T
    return own + (time.perf_counter() - start) * classes / share


def time_many_classes(work: Workload) -> list[Row]:
    """Time a space of very many classes on the CPU, each step once, and the peak of its memory.

    The steps after the fit are compared with the fit: each needs it, or takes its place.
    """
    (classes, count), dim = work.many, work.dim
    texts = clustered(classes, count, dim)
    names = [f"class {i}" for i in range(classes)]
    labels = [[f"text {j} of class {i}" for j in range(count)] for i in range(classes)]
    truth = torch.arange(work.calibrated) % classes
    # Far enough from the names that some are taken for another class.
    images = texts[truth, 0] + 6 * torch.randn(len(truth), dim, generator=torch.Generator().manual_seed(1))
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}

    def measured(what: str, call: Callable[[], Any]) -> Any:
        before = forget_peak() if can_measure_memory() else 0.0
        start = time.perf_counter()
        made = call()
        seconds[what] = time.perf_counter() - start
        if can_measure_memory():
            peaks[what] = peak_memory() - before
        return made

    floor = products(texts)
    head = measured(
        "fit",
        lambda: SynonymousSpaceHead().fit_embeddings(list(texts), names, texts=labels, logit_scale=100.0),
    )
    floor = (floor + products(texts)) / 2
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        measured("save", lambda: head.save_pretrained(folder / "space"))
        saved = sum(path.stat().st_size for path in (folder / "space").iterdir())
        del head
        head = measured("load", lambda: SynonymousSpaceHead.from_pretrained(folder / "space"))
        measured("calibrate", lambda: head.calibrate(image_embeds=images, labels=truth))
        measured("inspect, all classes", lambda: inspect_head(head))
        measured("inspect --page", lambda: write_page(head, folder / "page.html"))
        page = (folder / "page.html").stat().st_size
    settings: dict[str, Any] = {"classes": classes, "texts": count, "dim": dim}
    raw = texts.numel() * texts.element_size() / 2**20
    sizes: dict[str, dict[str, Any]] = {
        "save": {"MiB": saved // 2**20},
        "calibrate": {"images": work.calibrated},
        "inspect --page": {"MiB": page // 2**20},
    }
    fit = seconds.pop("fit")
    rows = [as_much(_PART, "fit", "its products in float64", [fit], [floor], **settings)]
    rows += [
        faster(_PART, what, "the fit", [took], [fit], **settings, **sizes.get(what, {}))
        for what, took in seconds.items()
    ]
    for what, peak in peaks.items():
        rows += memory_rows(_PART, f"peak memory of {what}", "the raw embeddings", peak, raw, settings)
    return rows
