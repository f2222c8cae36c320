"""What zero-shot-image-classification costs with transformers' own pipeline and with s3clip's, in one run.

    python examples/bench_pipeline.py                   # 1,000 labels, a random CLIP of the size of ViT-B/32
    python examples/bench_pipeline.py --json > bench.json

Counts the passes through the text tower and the tokens in them, takes the time of the first image and of the
ones after it, and compares the scores: with one text a label, where they have to agree, and on the trained
CLIP of the demo with the synonyms and settings of the defaults, where they are meant to differ.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, pipeline

from s3clip import S3ZeroShotImageClassificationPipeline, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file

TASK = "zero-shot-image-classification"
REAL_TOKENIZER = Path(__file__).parents[1].parent / "shared" / "models" / "clip_tokenizer"

COLOURS = "red blue green black white brown grey yellow purple golden".split()
STUFFS = "wooden plastic metal glass paper leather cotton stone rubber woollen".split()
THINGS = "chair boat house shoe bottle lamp clock bridge drum kettle".split()
LABELS = [f"{colour} {stuff} {thing}" for colour in COLOURS for stuff in STUFFS for thing in THINGS]


def random_clip(tokenizer_folder: Path | None) -> tuple[CLIPModel, dict[str, Any]]:
    """Return a CLIP of the size of ViT-B/32 with random weights, and what a pipeline needs besides.

    Without the tokenizer of OpenAI's CLIP that of the tests has to do: a token for each letter, so texts are
    longer and the text tower slower.
    """
    torch.manual_seed(0)
    config = CLIPConfig()
    if tokenizer_folder is not None:
        tokenizer: Any = CLIPTokenizerFast.from_pretrained(tokenizer_folder)
    else:
        from tests.tiny_models import clip_tokenizer

        tokenizer = clip_tokenizer()
        ids = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
        config = CLIPConfig(text_config={"vocab_size": 514, **ids})
    return CLIPModel(config).eval(), {"tokenizer": tokenizer, "image_processor": CLIPImageProcessor()}


class TextTower:
    """Counts passes through a text tower and their tokens, at the feed-forward part of its first layer.

    Not at the tower's own `forward`, which s3clip does without where texts begin alike.
    """

    def __init__(self, model: Any) -> None:
        self.passes = self.tokens = 0
        model.text_model.encoder.layers[0].mlp.register_forward_hook(self.count)

    def count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        """Add a pass."""
        self.passes += 1
        self.tokens += output[..., 0].numel()


def timed(classify: Any, tower: TextTower, images: list[Image.Image], labels: list[str]) -> dict[str, Any]:
    """Classify images one by one, as most callers do."""
    tower.passes = tower.tokens = 0
    seconds, answers = [], []
    for image in images:
        start = time.perf_counter()
        answers.append(classify(image, candidate_labels=labels))
        seconds.append(time.perf_counter() - start)
    return {
        "images": len(images),
        "text_tower_passes": tower.passes,
        "text_tower_tokens": tower.tokens,
        "first_image_seconds": seconds[0],
        "seconds_per_image_after": statistics.median(seconds[1:]),
        "answers": answers,
    }


def largest_difference(one: list[Any], other: list[Any]) -> float:
    """Return the largest difference between the scores that two pipelines gave the same image and label."""
    largest = 0.0
    for ours, theirs in zip(one, other, strict=False):  # fewer images went through transformers' own
        scores = {answer["label"]: answer["score"] for answer in theirs}
        largest = max(largest, *(abs(answer["score"] - scores[answer["label"]]) for answer in ours))
    return largest


def compare_cost(labels: list[str], images: int, stock_images: int, tokenizer: Path | None) -> dict[str, Any]:
    """Run both pipelines over the same images and labels."""
    model, parts = random_clip(tokenizer)
    tower = TextTower(model)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (256, 320, 3), dtype=np.uint8)) for _ in range(images)]
    stock = timed(pipeline(TASK, model=model, **parts), tower, pictures[:stock_images], labels)
    with_s3clip = pipeline(TASK, model=model, pipeline_class=S3ZeroShotImageClassificationPipeline, **parts)
    ours = timed(with_s3clip, tower, pictures, labels)
    difference = largest_difference(ours.pop("answers"), stock.pop("answers"))
    per_image = stock["seconds_per_image_after"]
    return {
        "labels": len(labels),
        "transformers": stock,
        "s3clip": ours,
        "times_faster_after_the_first": per_image / ours["seconds_per_image_after"],
        f"times_faster_over_{images}_images": images
        * per_image
        / (ours["first_image_seconds"] + (images - 1) * ours["seconds_per_image_after"]),
        "largest_score_difference": difference,
    }


def compare_defaults(images: int) -> dict[str, Any]:
    """Compare transformers' own on names with s3clip's defaults on synonyms, on the trained demo CLIP."""
    pictures, truth = held_out_digits()
    pictures, truth = pictures[:images], truth[:images]
    synonyms, model = SynonymSet.read(synonym_file()), str(model_folder())
    names = synonyms.class_names
    plain = pipeline(TASK, model=model)(pictures, candidate_labels=names)
    classify = pipeline(TASK, model=model, pipeline_class=S3ZeroShotImageClassificationPipeline)
    same_texts = classify(pictures, candidate_labels=names)
    defaults = classify(pictures, candidate_labels=synonyms)

    def correct(answers: list[Any]) -> float:
        return statistics.mean(
            answer[0]["label"] == names[i] for answer, i in zip(answers, truth, strict=True)
        )

    return {
        "images": len(pictures),
        "largest_difference_one_text_a_label": largest_difference(same_texts, plain),
        "largest_difference_with_synonyms": largest_difference(defaults, plain),
        "same_best_label": statistics.mean(
            a[0]["label"] == b[0]["label"] for a, b in zip(defaults, plain, strict=True)
        ),
        "top1_transformers_names": correct(plain),
        "top1_s3clip_synonyms": correct(defaults),
    }


def main() -> None:
    """Run, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument(
        "--stock-images", type=int, default=2, help="images for transformers' own, which is slow"
    )
    parser.add_argument("--tokenizer", type=Path, default=REAL_TOKENIZER if REAL_TOKENIZER.is_dir() else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    result = {
        "setting": {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": chosen.threads,
            "tokenizer": "of OpenAI's CLIP" if chosen.tokenizer else "a token a letter",
        },
        "cost": compare_cost(LABELS[: chosen.labels], chosen.images, chosen.stock_images, chosen.tokenizer),
        "defaults_on_digits": compare_defaults(500),
    }
    if chosen.json:
        print(json.dumps(result, indent=2))
        return
    for title, part in result.items():
        print(title)
        for name, value in part.items():
            print(f"  {name}: {value:.3g}" if isinstance(value, float) else f"  {name}: {value}")


if __name__ == "__main__":
    main()
