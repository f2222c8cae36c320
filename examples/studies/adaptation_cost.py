"""What test-time adaptation costs beside the encoding of the views: time and memory, on a random ViT-B/32.

    python examples/studies/adaptation_cost.py

Medians of interleaved repeats on one thread, the ratios taken repeat by repeat. Memory is the peak of
the process above what it held before the call (Linux).
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from PIL import Image
from torch.nn.functional import normalize

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, TestTimeAdapter
from s3clip.images.views import ViewSettings, cut, picture_generator, random_crops
from s3clip.space.metrics import METRICS
from s3clip.space.shift import ADAPTATIONS

DIM, SIZE = 512, 224


def vit_b32() -> Backbone:
    """A CLIP with the image tower of ViT-B/32 and random weights; its text tower is small and not used."""
    config = transformers.CLIPConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 100, "hidden_size": 64, "num_attention_heads": 1},
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": SIZE,
            "patch_size": 32,
        },
        projection_dim=DIM,
    )
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIZE})
    return Backbone(transformers.CLIPModel(config).eval(), (None, processor))


def random_head(classes: int, texts: int, config: HeadConfig) -> SynonymousSpaceHead:
    """Classes that are clusters of random texts."""
    centres = torch.randn(classes, 1, DIM)
    rows = list(normalize(centres + 0.8 * torch.randn(classes, texts, DIM), dim=-1))
    return SynonymousSpaceHead(config=config).fit_embeddings(
        rows, [str(i) for i in range(classes)], logit_scale=100
    )


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def peak_mib(call: Callable[[], object]) -> float:
    """Peak memory of the process during a call, above what it had before."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what was freed, or it would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")

    def status(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=10)
    parser.add_argument("--images", type=int, default=1, help="adapted to at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--metrics", nargs="*", default=["local_center"], choices=list(METRICS))
    return parser.parse_args()


def timed_calls(asked: argparse.Namespace) -> tuple[Callable[[], None], dict[str, Callable[[], None]]]:
    """The encoding of the views of one image, and what comes beside it."""
    backbone = vit_b32()
    pixels = torch.randn(asked.views, 3, SIZE, SIZE)
    picture = Image.fromarray(torch.randint(256, (375, 500, 3), dtype=torch.uint8).numpy())
    images = normalize(
        torch.randn(asked.images, 1, DIM) + 0.5 * torch.randn(asked.images, asked.views, DIM), dim=-1
    )
    settings = ViewSettings(views=asked.views)

    @torch.inference_mode()
    def encode() -> None:
        backbone.encode_images(pixels)

    def make_views() -> None:
        generator = picture_generator(picture, 0)
        tensor = torch.randn(3, picture.height, picture.width)
        for crop in random_crops(
            picture.height, picture.width, asked.views - 1, generator, settings.crop_area
        ):
            cut(tensor, crop, (SIZE, SIZE))

    def adapt_with(adapter: TestTimeAdapter) -> Callable[[], None]:
        @torch.inference_mode()
        def adapt() -> None:
            adapter(images)

        return adapt

    # Everything is kept, so that the classes have all the texts that were asked for.
    calls: dict[str, Callable[[], None]] = {"making the views": make_views}
    for metric in asked.metrics:
        head = random_head(asked.classes, asked.texts, HeadConfig(metric=metric, scale_rule=None))
        for method in ADAPTATIONS:
            calls[f"{metric}, {method}"] = adapt_with(TestTimeAdapter(head, method))
    return encode, calls


def main() -> None:
    asked = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encode, calls = timed_calls(asked)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread, {asked.views} views, "
        f"{asked.classes} classes x {asked.texts} texts x {DIM}, {asked.images} image(s) at once, "
        f"{asked.repeats} interleaved repeats"
    )
    encode()
    preparing = {name: seconds(call) for name, call in calls.items()}  # the first call prepares the space
    memory = {name: peak_mib(call) for name, call in calls.items()}
    encoding, times = [], {name: [] for name in calls}
    for _ in range(asked.repeats):
        encoding.append(seconds(encode))
        for name, call in calls.items():
            each = seconds(call) / (1 if name == "making the views" else asked.images)
            times[name].append(each)
    print(
        f"encoding {asked.views} views of an image: {1000 * statistics.median(encoding):.0f} ms, "
        f"peak {peak_mib(encode):.0f} MiB"
    )
    for name, own in times.items():
        ratio = statistics.median(mine / base for mine, base in zip(own, encoding, strict=True))
        print(
            f"{name:<30} {1000 * statistics.median(own):7.1f} ms an image, {100 * ratio:5.2f} % of the "
            f"encoding; peak {memory[name]:.0f} MiB; first call {1000 * preparing[name]:.0f} ms"
        )


if __name__ == "__main__":
    main()
