"""Time and peak memory of a segmentation against the image tower alone, on a random CLIP ViT-B/16.

    python examples/studies/segmentation_cost.py          # 1,024 x 768, 171 classes x 8 texts, 2 threads

The tower alone encodes the same windows; medians of interleaved repeats. Memory is the growth of the process
(Linux) during a call.
"""

import argparse
import statistics

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from s3clip import SynonymousSpaceHead
from s3clip.bench.timing import interleaved, peak_growth
from s3clip.segmentation.dense import PATCH_FEATURES
from s3clip.segmentation.segmenter import encode_patches, segment_patches


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"width": 1024, "height": 768, "classes": 171, "texts": 8, "repeats": 5, "threads": 2, "mib": 64}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tiny", action="store_true", help="a small model, to see that it runs")
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    vision = {"patch_size": 16, **({"hidden_size": 24, "num_hidden_layers": 2} if given.tiny else {})}
    text = {"num_hidden_layers": 1}
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).eval()
    head = SynonymousSpaceHead(model, (None, CLIPImageProcessor()))
    dim = head.backbone.dim
    texts = [torch.randn(dim) + 0.5 * torch.randn(given.texts, dim) for _ in range(given.classes)]
    head.fit_embeddings(texts, [str(i) for i in range(given.classes)], logit_scale=100.0)
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (given.height, given.width, 3), dtype=np.uint8))
    features = encode_patches(head.backbone, picture)
    pixels = torch.randn(len(features.patches), 3, *features.tiling.window)
    bound = given.mib * 2**20
    calls = {
        "the image tower alone": lambda: head.backbone.encode_images(pixels),
        "head.segment": lambda: head.segment(picture, max_bytes=bound),
        "head on patches, and labels": lambda: segment_patches(head, features, max_bytes=bound),
        "softmax_then_max instead": lambda: segment_patches(
            head, features, aggregation="softmax_then_max", max_bytes=bound
        ),
        **{
            f"patches, {method}": lambda method=method: encode_patches(head.backbone, picture, method=method)
            for method in PATCH_FEATURES
        },
    }
    with torch.inference_mode():
        taken = interleaved(calls, given.repeats)
        print(", ".join(f"{getattr(given, name)} {name}" for name in sizes), f"{len(pixels)} windows")
        floor = statistics.median(taken["the image tower alone"])
        for name, call in calls.items():
            median = statistics.median(taken[name])
            extra = peak_growth(call)
            print(f"{name:<28} {median * 1e3:9.1f} ms {median / floor:6.2f} x   peak extra {extra:7.1f} MiB")


if __name__ == "__main__":
    main()
