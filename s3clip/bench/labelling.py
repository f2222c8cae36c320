"""What is timed of `s3clip label`: photographs, small pictures and embeddings, beside a plain loop over them.

It needs the extra `bulk`. The files are made here. Processes start once, however long a job is: what is timed
is a whole job less one over a fifth of its files, beside as much of the plain loop.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.families import joint_embedding
from s3clip.backbone.precision import cast_images
from s3clip.bench.models import TimedModel
from s3clip.bench.timing import Row, as_much, faster
from s3clip.bench.workload import Workload
from s3clip.head import SynonymousSpaceHead
from s3clip.images.opening import open_image
from s3clip.images.workers import cores

_FIFTH = 5
_AT_ONCE = 32  # pictures of the plain loop
_ROWS_AT_ONCE = 4096  # embeddings of the bare loop
_CLASSES, _TEXTS = 100, 4


class Timed:
    """Seconds of the clock, and of all processors, that calls take."""

    def __init__(self) -> None:
        self.clock: dict[str, list[float]] = {}
        self.processors: dict[str, list[float]] = {}

    def call(self, name: str, call: Callable[[], Any], *, less: Callable[[], Any] | None = None) -> None:
        """Take the time of a call, less that of another."""
        clock, processors = _took(call)
        if less is not None:
            without = _took(less)
            clock, processors = clock - without[0], processors - without[1]
        self.clock.setdefault(name, []).append(max(clock, 1e-9))
        self.processors.setdefault(name, []).append(max(processors, 1e-9))

    def settings(self, one: str, other: str) -> dict[str, Any]:
        """Return how many times the processors' seconds of another a call takes: for busy machines."""
        ratio = min(self.processors[one]) / min(self.processors[other])
        return {"processors' seconds": f"{ratio:.2f} x"}


def _took(call: Callable[[], Any]) -> tuple[float, float]:
    clock, processors = time.perf_counter(), sum(os.times()[:4])
    call()
    return time.perf_counter() - clock, sum(os.times()[:4]) - processors


def time_photographs(timed: TimedModel, work: Workload) -> list[Row]:
    """Time `label` on photographs, decoded near the size that is needed, against the usual loop.

    The loop opens a picture with Pillow, lets the processor of transformers prepare it, and encodes in the
    model's own type; it scores them by the cosines to as many texts.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        side = work.photograph_side
        files = write_photographs(folder / "in", work.photographs, (side, side * 3 // 4), work.distinct)
        own, narrow = _head(timed, None), _head(timed, "bfloat16")
        texts = own.space.raw
        ways = {"near size, bfloat16": narrow, "near size": own}
        taken = Timed()
        for turn in range(work.label_repeats):
            for way, head in ways.items():
                _time_label(taken, way, files, head, folder / f"{way} {turn}", work, near_size=True)
            some = files[len(files) // _FIFTH :]
            taken.call("plain", lambda some=some: plain_loop(some, timed, texts))  # type: ignore[misc]
    settings: dict[str, Any] = {"photographs": len(files), "workers": work.workers}
    settings["megapixels"] = side * (side * 3 // 4) / 1e6
    against, rows = "Pillow, the processor of transformers, the model's own type", []
    for way in ways:
        more = {**settings, **taken.settings(way, "plain")}
        rows.append(
            faster("pictures", f"label, {way}", against, taken.clock[way], taken.clock["plain"], **more)
        )
    return rows


def time_small_pictures(timed: TimedModel, work: Workload) -> list[Row]:
    """Time `label` in bfloat16 on pictures of the model's own size, against the slower of its two parts.

    These are decoding and preparing alone, divided by the number of cores, and the image tower alone with all
    threads, on prepared pixels.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_photographs(folder / "in", work.pictures, (224, 224), work.distinct)
        head = _head(timed, "bfloat16")
        backbone = head.backbone
        assert backbone is not None
        transform = backbone.image_transform()
        left = files[len(files) // _FIFTH :]
        batches = [left[start : start + 64] for start in range(0, len(left), 64)]
        pixels = backbone.placed(transform(open_image(file) for file in batches[0]))

        def tower() -> None:
            with torch.inference_mode():
                for some in batches:
                    backbone.encode_images(**{key: value[: len(some)] for key, value in pixels.items()})

        def decoding() -> None:
            for some in batches:
                transform(open_image(file) for file in some)

        taken = Timed()
        for turn in range(work.label_repeats):
            _time_label(taken, "label", files, head, folder / str(turn), work)
            taken.call("the image tower alone", tower)
            taken.call("decoding alone", decoding)
    taken.clock["decoding alone"] = [each / cores() for each in taken.clock["decoding alone"]]
    slower = max(("the image tower alone", "decoding alone"), key=lambda name: min(taken.clock[name]))
    more: dict[str, Any] = {"pictures": len(files), "pixels": 224, "dtype": "bfloat16"}
    more |= {"workers": work.workers, **taken.settings("label", slower)}
    what = "label, pictures of 224 pixels"
    return [as_much("pictures", what, slower, taken.clock["label"], taken.clock[slower], **more)]


def time_embeddings(work: Workload, device: str) -> list[Row]:
    """Time `label` on embeddings in float16 against a loop that takes the best class and writes nothing."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_embeddings(folder / "in", work.rows, work.dim)
        head = SynonymousSpaceHead().fit_embeddings(
            list(_texts(work.dim)), _names(), texts=_own_texts(), logit_scale=100.0
        )
        head = head.to(device)
        some = files[len(files) // _FIFTH :]
        taken = Timed()
        for turn in range(work.label_repeats):
            _time_label(taken, "label", files, head, folder / str(turn), work)
            taken.call("bare", lambda: bare_loop(some, head))
    more: dict[str, Any] = {"rows": work.rows, "dim": work.dim, "classes": _CLASSES, "texts": _TEXTS}
    more |= taken.settings("label", "bare")
    what, against = "label, embeddings", "a bare loop over head(...)"
    return [as_much("embeddings", what, against, taken.clock["label"], taken.clock["bare"], **more)]


def write_photographs(folder: Path, count: int, size: tuple[int, int], distinct: int) -> list[Path]:
    """Write JPEGs of colors that run into each other under noise, as of a camera; some are the same file."""
    folder.mkdir(parents=True)
    rng, width, height = np.random.default_rng(0), *size
    files: list[Path] = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < distinct:
            rough = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))
            noise = rng.integers(-10, 11, (height, width, 1), dtype=np.int16)
            content = io.BytesIO()
            Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
            path.write_bytes(content.getvalue())
        else:
            os.link(files[number % distinct], path)
        files.append(path)
    return files


def write_embeddings(folder: Path, rows: int, dim: int) -> list[Path]:
    """Write random rows in float16 into `_FIFTH` files .npy, block by block."""
    folder.mkdir(parents=True)
    rng, files, length = np.random.default_rng(0), [], -(-rows // _FIFTH)
    for number in range(_FIFTH):
        path = folder / f"{number}.npy"
        array = np.lib.format.open_memmap(path, "w+", np.float16, (length, dim))
        for start in range(0, length, 50_000):
            block = array[start : start + 50_000]
            block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        array.flush()
        del array
        files.append(path)
    return files


def plain_loop(files: Sequence[Path], timed: TimedModel, texts: torch.Tensor) -> list[int]:
    """Return the nearest text of every picture, in the way that most scripts go."""
    best = []
    with torch.inference_mode():
        for start in range(0, len(files), _AT_ONCE):
            pictures = [Image.open(file).convert("RGB") for file in files[start : start + _AT_ONCE]]
            inputs = timed.image_processor(images=pictures, return_tensors="pt").to(timed.model.device)
            embeds = normalize(joint_embedding(timed.model.get_image_features(**inputs)), dim=-1)
            best += (embeds @ texts.T).argmax(1).tolist()
    return best


def bare_loop(files: Sequence[Path], head: SynonymousSpaceHead) -> int:
    """Return how many rows were scored: the least that tells the best class."""
    rows = 0
    with torch.inference_mode():
        for path in files:
            array = np.load(path, mmap_mode="r")
            for start in range(0, len(array), _ROWS_AT_ONCE):
                block = np.array(array[start : start + _ROWS_AT_ONCE], dtype=np.float32)
                head(image_embeds=torch.from_numpy(block).to(head.space.raw.device)).max(dim=1)
                rows += len(block)
    return rows


def _time_label(
    taken: Timed,
    name: str,
    files: Sequence[Path],
    head: SynonymousSpaceHead,
    out: Path,
    work: Workload,
    **how: Any,
) -> None:
    """Take the time of labelling all files but a fifth."""
    from s3clip.bulk import label

    def run(some: Sequence[Path], where: Path) -> None:
        summary = label(some, head, where, workers=work.workers, progress=False, **how)
        if summary.errors or summary.broken:
            raise RuntimeError(f"{name}: {summary.table()}")

    fifth = files[: len(files) // _FIFTH]
    taken.call(name, lambda: run(files, out / "all"), less=lambda: run(fifth, out / "fifth"))


def _head(timed: TimedModel, dtype: str | None) -> SynonymousSpaceHead:
    """Return a head of random classes over a copy of the model in another type, or the model itself."""
    model = timed.model if dtype is None else deepcopy(timed.model)
    backbone = Backbone(model, (timed.tokenizer, timed.image_processor))
    if dtype is not None:
        cast_images(backbone, dtype)
    head = SynonymousSpaceHead(backbone)
    return head.fit_embeddings(list(_texts(backbone.dim)), _names(), texts=_own_texts()).eval()


def _texts(dim: int) -> torch.Tensor:
    return torch.randn(_CLASSES, _TEXTS, dim, generator=torch.Generator().manual_seed(0))


def _names() -> list[str]:
    return [f"class {number}" for number in range(_CLASSES)]


def _own_texts() -> list[list[str]]:
    return [[f"{name}, {number}" for number in range(_TEXTS)] for name in _names()]
