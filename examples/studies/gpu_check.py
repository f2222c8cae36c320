"""The head on a GPU, as ratios: forward against its matrix product, and against image encoding by a ViT-B/16.

    python examples/studies/gpu_check.py       # needs a GPU: 256 images, 21,000 classes x 30 texts, bfloat16
    python examples/studies/gpu_check.py --device cpu --share 0.01

Medians of interleaved repeats. On a GPU with Triton the fused kernel (a head's `fused=True`, experimental) is
timed beside the default torch path, after a comparison of their scores.
"""

import argparse
from dataclasses import replace
from importlib.util import find_spec

import torch
from transformers import CLIPConfig, CLIPModel

from s3clip import Backbone
from s3clip.bench.parts import random_head, time_head
from s3clip.bench.timing import Row, as_much, interleaved
from s3clip.bench.workload import Workload


def forward_rows(images: int, classes: int, texts: int, dim: int, device: str, repeats: int) -> list[Row]:
    """Time `forward` in bfloat16 against the product of the images with all texts."""
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(classes, texts, dim), dim=-1)
    head = random_head(points).to(device=device, dtype=torch.bfloat16)
    batch = torch.nn.functional.normalize(torch.randn(images, dim), dim=-1).to(device, torch.bfloat16)
    flat = points.flatten(0, 1).to(device, torch.bfloat16)

    def forward(fused: bool) -> torch.Tensor:
        head.folded.fused = fused
        return head(image_embeds=batch)

    calls = {"torch path": lambda: forward(False), "product": lambda: batch @ flat.T}
    if torch.device(device).type == "cuda" and find_spec("triton"):
        calls["fused"] = lambda: forward(True)
    with torch.inference_mode():
        if "fused" in calls:
            # The torch path rounds products to bfloat16 before it picks; cosines are at most 1.
            torch.testing.assert_close(forward(True), forward(False), atol=1e-2, rtol=0)
        interleaved(calls, 3, device)  # warms up
        seconds = interleaved(calls, repeats, device)
    sizes = {"images": images, "classes": classes, "texts": texts, "dim": dim, "dtype": "bfloat16"}
    return [
        as_much(
            "forward", f"forward, {name}", "its matrix product", seconds[name], seconds["product"], **sizes
        )
        for name in calls
        if name != "product"
    ]


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--share", type=float, default=1.0, help="of the classes and images")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    sizes = {"images": 256, "classes": 21_000}
    sizes = {name: max(2, round(given.share * size)) for name, size in sizes.items()}
    rows = forward_rows(**sizes, texts=30, dim=512, device=given.device, repeats=given.repeats)
    config = CLIPConfig(vision_config={"patch_size": 16})
    config.text_config.num_hidden_layers = 1  # texts are not encoded
    backbone = Backbone(CLIPModel(config).eval().to(given.device))
    classes = max(2, round(given.share * 1000))
    work = Workload(images=sizes["images"], classes=classes, head_texts=20, slow_repeats=given.repeats)
    time_head(backbone, replace(work, slow_repeats=2), given.device)
    rows += time_head(backbone, work, given.device)
    print("torch", torch.__version__, "on", given.device)
    for row in rows:
        print(f"{row.what} against {row.against}: {row.ratio:.3g} {row.reading}, {dict(row.settings)}")


if __name__ == "__main__":
    main()
