"""All that is to be known of a GPU, in one command of at most eight minutes that ends in a table.

    python examples/studies/gpu_check.py                       # on a GPU
    python examples/studies/gpu_check.py --device cpu --quick  # to see that it runs

Random weights and texts. Every row is a figure, or says why there is none. Times are medians of turns with
what they are compared with. The fused kernel (a head's `fused=True`) is off by default: it has not run on a
GPU yet. The rates of `s3clip label` need the extra `bulk`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.bench.models import TimedModel
from s3clip.bench.parts import random_head, time_head
from s3clip.bench.timing import extra_memory, interleaved
from s3clip.bench.workload import QUICK, Workload
from s3clip.config import HeadConfig
from s3clip.printing import Table
from s3clip.space.metrics import METRICS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Given(NamedTuple):
    """Where, and how much."""

    device: str
    quick: bool
    repeats: int

    @property
    def is_gpu(self) -> bool:
        """Whether there is a kernel to be tried."""
        return torch.device(self.device).type == "cuda"

    def size(self, whole: int, quick: int) -> int:
        """Return how many of something there are."""
        return quick if self.quick else whole


Found = Iterator[tuple[str, str]]
"""Rows: what, and the figure or why there is none."""


def texts_of(classes: int, texts: int, dim: int) -> torch.Tensor:
    points = torch.randn(classes, texts, dim, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(points, dim=-1)


def exactness(given: Given) -> Found:
    """Scores of every metric in every type, on the device, against float32 on the CPU."""
    points = texts_of(given.size(200, 10), 12, given.size(512, 32))
    images = texts_of(1, given.size(256, 8), points.shape[-1])[0]
    for name in METRICS:
        config = HeadConfig(metric=name, scale_rule=None)
        head = SynonymousSpaceHead(config=config).fit_embeddings(
            list(points), [str(i) for i in range(len(points))], logit_scale=1.0
        )
        with torch.inference_mode():
            expected = head(image_embeds=images)
        said = []
        for dtype_name, dtype in DTYPES.items():
            try:
                moved = head.to(given.device, dtype)
                with torch.inference_mode():
                    scores = moved(image_embeds=images.to(given.device, dtype)).float().cpu()
                same = (scores.argmax(1) == expected.argmax(1)).float().mean().item()
                said.append(f"{dtype_name} {(scores - expected).abs().max().item():.1e} ({same:.0%})")
            except Exception as error:  # a type that an operator does not know, or no memory
                said.append(f"{dtype_name} fails: {first_line(error)}")
            head = head.to("cpu", torch.float32)
            head.fit_embeddings(list(points), head.class_names, logit_scale=1.0)  # of the bits that are lost
        yield f"{name}: largest difference of a score (same labels)", ", ".join(said)


def compiled(given: Given) -> Found:
    """`torch.compile` of the head's forward, against the head."""
    what = "torch.compile of the head: largest difference; its time"
    if given.quick:
        yield what, "left out by --quick: compiling takes longer than all the rest"
        return
    head = random_head(texts_of(1000, 20, 512)).to(given.device)
    images = texts_of(1, 256, 512)[0].to(given.device)
    quick_code: Any = torch.compile(head)
    with torch.inference_mode():
        difference = (quick_code(image_embeds=images) - head(image_embeds=images)).abs().max().item()
        calls = {
            "ours": lambda: head(image_embeds=images),
            "compiled": lambda: quick_code(image_embeds=images),
        }
        seconds = interleaved(calls, given.repeats, given.device)
    yield what, f"{difference:.1e}; {ratio(seconds['compiled'], seconds['ours'])} that of the head"


def forward(given: Given) -> Found:
    """`forward` in bfloat16 against the product of the images with all texts, and the fused kernel too."""
    images, classes = given.size(256, 4), given.size(21_000, 200)
    points = texts_of(classes, 30, given.size(512, 32))
    head = random_head(points).to(device=given.device, dtype=torch.bfloat16)
    batch = texts_of(1, images, points.shape[-1])[0].to(given.device, torch.bfloat16)
    flat = points.flatten(0, 1).to(given.device, torch.bfloat16)

    def scores(fused: bool) -> torch.Tensor:
        head.folded.fused = fused
        return head(image_embeds=batch)

    calls = {"torch": lambda: scores(False), "product": lambda: batch @ flat.T}
    why = None if given.is_gpu else f"needs a GPU, got {given.device}"
    why = why or (None if find_spec("triton") else "needs Triton, which is not installed")
    what = f"{images} x {classes:,} x 30 in bfloat16"
    with torch.inference_mode():
        if why is None:
            try:
                difference = (scores(True) - scores(False)).abs().max().item()
                calls["kernel"] = lambda: scores(True)
            except Exception as error:  # of the compiler of Triton, of many kinds
                why = f"fails: {first_line(error)}"
        interleaved(calls, 3, given.device)  # warms up
        seconds = interleaved(calls, given.repeats, given.device)
        used = {name: extra_memory(call, given.device) for name, call in calls.items()}
    yield f"forward, {what}", f"{ratio(seconds['torch'], seconds['product'])} the time of its product"
    kernel = f"the fused kernel, {what}"
    if why is None:
        times = ratio(seconds["kernel"], seconds["product"])
        yield kernel, f"{times} the time of the product; largest difference from torch {difference:.1e}"
    else:
        yield kernel, why
    said = [f"{name} {mib:,.0f} MiB" for name, mib in used.items() if mib is not None]
    yield f"memory on top, {what}", ", ".join(said) or "is not measured here"


def beside_the_tower(given: Given) -> Found:
    """The head against the image tower of a ViT-B/16, in the type that GPUs are made for."""
    timed = model(given)
    backbone = Backbone(timed.model.to(torch.bfloat16))
    work = Workload(images=given.size(256, 4), classes=given.size(1000, 10), head_texts=20)
    time_head(backbone, replace(work, slow_repeats=1), given.device)  # warms up
    for row in time_head(backbone, replace(work, slow_repeats=given.repeats), given.device):
        yield f"the head against {name_of(given)}, {work.images} images", f"{row.ratio:.4f} x its time"


def labelling(given: Given) -> Found:
    """What `s3clip label` does a second."""
    if not find_spec("pyarrow"):
        yield "s3clip label", "needs pyarrow: pip install 's3clip[bulk]'"
        return
    from s3clip.bench.labelling import time_embeddings, time_small_pictures

    quick = replace(QUICK, pictures=10, rows=5_000, dim=32)
    work = quick if given.quick else Workload(pictures=5_000, rows=2_000_000, label_repeats=1)
    (row,) = time_small_pictures(model(given), work)
    rate = work.pictures * 4 / 5 / row.ours
    yield (
        f"s3clip label, JPEGs of 224 pixels, {name_of(given)} in bfloat16",
        f"{rate:,.0f} pictures a second, {row.ratio:.2f} x the time of {row.against}",
    )
    (row,) = time_embeddings(work, given.device)
    rate = work.rows * 4 / 5 / row.ours
    yield (
        f"s3clip label, embeddings of {work.dim} dimensions",
        f"{rate:,.0f} rows a second, {row.ratio:.2f} x the time of {row.against}",
    )


CHECKS: tuple[Callable[[Given], Found], ...] = (exactness, compiled, forward, beside_the_tower, labelling)


def model(given: Given) -> TimedModel:
    """A ViT-B/16 with random weights; with --quick a layer of one."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    texts = {**small, "num_hidden_layers": 1}  # they are not encoded
    vision = {**small, "num_hidden_layers": 1, "patch_size": 32} if given.quick else {"patch_size": 16}
    config = CLIPConfig(text_config=texts, vision_config=vision, projection_dim=given.size(512, 32))
    made: Any = CLIPModel(config)
    return TimedModel(made.eval().to(given.device), None, CLIPImageProcessor(), name_of(given))


def name_of(given: Given) -> str:
    return "a ViT of one layer" if given.quick else "ViT-B/16"


def ratio(ours: list[float], other: list[float]) -> str:
    pairs = sorted(a / b for a, b in zip(ours, other, strict=True))
    return f"{pairs[len(pairs) // 2]:.2f} x"


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: the figures say little")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=8.0, help="no check begins when less is left")
    asked = parser.parse_args()
    given = Given(asked.device, asked.quick, 2 if asked.quick else asked.repeats)
    started, rows = time.monotonic(), []
    for check in CHECKS:
        begun = time.monotonic()
        # A check takes no longer than a quarter of the time, whatever there is of a GPU.
        if begun - started > 60 * asked.minutes * 3 / 4:
            rows.append([check.__name__, "not run: the time is up"])
            continue
        try:
            rows += [[what, figure] for what, figure in check(given)]
        except Exception as error:  # the other checks say what they find all the same
            rows.append([check.__name__, f"fails: {type(error).__name__}: {first_line(error)}"])
        print(f"{check.__name__}: {time.monotonic() - begun:.0f} s", flush=True)
    where = torch.cuda.get_device_name(given.device) if given.is_gpu else given.device
    print(f"torch {torch.__version__} on {where}{', --quick: the figures say little' if given.quick else ''}")
    print(Table(["what", "figure"], rows))


if __name__ == "__main__":
    main()
