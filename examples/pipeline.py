"""Put synonyms into code that calls transformers' zero-shot-image-classification pipeline.

    python examples/pipeline.py
    python examples/pipeline.py --backbone openai/clip-vit-base-patch32

The images are handwritten digits, whatever the backbone.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from transformers import pipeline

from s3clip import S3ZeroShotImageClassificationPipeline, SynonymousSpaceHead
from s3clip.demo import held_out_digits, model_folder

TASK = "zero-shot-image-classification"
LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# A label with its synonyms, where there was a label before.
SYNONYMS = {name: [] for name in LABELS} | {"zero": ["nought", "nil"], "two": ["a pair", "deuce"]}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=str(model_folder()), help="a Hub repository or a folder")
    given = parser.parse_args()
    images, digits = held_out_digits()
    images = images[:50]

    # What you have. It encodes all labels again for every image.
    before = pipeline(TASK, model=given.backbone)
    old, old_time = timed(lambda: before(images, candidate_labels=LABELS))

    # The same call, with another class: the same answers, and each label is encoded once.
    after = pipeline(TASK, model=given.backbone, pipeline_class=S3ZeroShotImageClassificationPipeline)
    new, new_time = timed(lambda: after(images, candidate_labels=LABELS))
    same = sum(was[0]["label"] == now[0]["label"] for was, now in zip(old, new, strict=True))
    furthest = max(abs(was[0]["score"] - now[0]["score"]) for was, now in zip(old, new, strict=True))
    print(f"one name a label: {same} of {len(images)} answers are the same, scores differ by {furthest:.0e};")
    print(f"  {old_time:.2f} s before, {new_time:.2f} s after")

    # A dict instead of a list gives labels synonyms.
    found = after(images, candidate_labels=SYNONYMS, top_k=1)
    right = sum(own[0]["label"] == LABELS[digit] for own, digit in zip(found, digits, strict=False))
    print(f"with synonyms: {right} of {len(images)} are right, such as {found[0][0]}")

    # A fitted head stands in the place of the labels, with its templates and settings.
    head = SynonymousSpaceHead.from_backbone(given.backbone).fit_classes(SYNONYMS, templates="the digit {}")
    fitted = S3ZeroShotImageClassificationPipeline(head=head)
    print(f"with a head: {fitted(images[0], top_k=2)}")


if __name__ == "__main__":
    main()
