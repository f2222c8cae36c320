"""What is timed of models: encoding texts, the pipeline, and a cold start."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from s3clip.backbone.prefix_tree import find_text_tower, shared_lengths
from s3clip.bench.models import TimedModel, classifiers, padded_text_embeddings
from s3clip.bench.texts import label_names
from s3clip.bench.timing import Row, as_much, extra_memory, faster, interleaved, memory_rows
from s3clip.bench.workload import Workload
from s3clip.head import SynonymousSpaceHead
from s3clip.texts.synonyms import SynonymSet

BATCH_SIZE = 256


def time_texts(timed: TimedModel, texts: list[str], what: str, work: Workload) -> list[Row]:
    """Time the encoding of texts against padding every text, and against the products of its tokens alone.

    Every padded batch has the same shape, so that the time of some says that of all; so do the products.

    Args:
        timed: The model.
        texts: Prompts; distinct ones are encoded.
        what: Their name in the table.
        work: How much of it.
    """
    backbone, texts = timed.backbone, list(dict.fromkeys(texts))
    length = backbone.text_length
    sequences = sorted(timed.tokenizer(texts, truncation=True, max_length=length)["input_ids"])
    tokens = sum(map(len, sequences))
    nodes = tokens - int(shared_lengths(sequences).sum())
    sample = texts[: work.padded_batches * BATCH_SIZE]
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: backbone.encode_texts(texts, batch_size=BATCH_SIZE, progress=False),
        "padded": lambda: padded_text_embeddings(
            timed.model, timed.tokenizer, sample, length=length, batch_size=BATCH_SIZE
        ),
    }
    rows_a_pass = max(1, nodes * BATCH_SIZE // len(texts))
    passes = min(work.padded_batches, -(-nodes // rows_a_pass))
    tower = find_text_tower(timed.model)
    if tower is not None:
        linear = [
            part
            for layer in tower.layers
            for whole in (layer.attention, layer.feed_forward)
            for part in whole.modules()
            if isinstance(part, nn.Linear)
        ]
        inputs = {
            part.in_features: torch.randn(rows_a_pass, part.in_features).to(part.weight) for part in linear
        }

        def products() -> None:
            with torch.no_grad():
                for _ in range(passes):
                    for part in linear:
                        part(inputs[part.in_features])

        calls["products"] = products
    seconds = interleaved(calls, work.slow_repeats, backbone.device)
    padded = [each * len(texts) / len(sample) for each in seconds["padded"]]
    settings = {
        "texts": len(texts),
        "tokens padded": length * len(texts),
        "tokens": tokens,
        "tokens of the tree": nodes,
        "batch size": BATCH_SIZE,
        "padded texts encoded": len(sample),
        "largest difference": (calls["ours"]()[: len(sample)] - calls["padded"]()).abs().max().item(),
        "shared beginnings": backbone.unshared_because is None,
    }
    rows = [faster("texts", what, f"padded to {length}", seconds["ours"], padded, **settings)]
    if "products" in seconds:
        floor = [each * nodes / (passes * rows_a_pass) for each in seconds["products"]]
        rows.append(
            as_much("texts", what, "the products of the tree's tokens", seconds["ours"], floor, **settings)
        )
    ours, other = (
        extra_memory(call, backbone.device)
        for call in (
            lambda: backbone.encode_texts(sample, batch_size=BATCH_SIZE, progress=False),
            calls["padded"],
        )
    )
    settings = {"texts": len(sample), "batch size": BATCH_SIZE}
    return rows + memory_rows("texts", f"peak memory of {what}", f"padded to {length}", ours, other, settings)


# ---- pipeline --------------------------------------------------------------------------------------------


def time_pipeline(timed: TimedModel, work: Workload) -> list[Row]:
    """Time the pipeline image by image, as most callers do, against transformers' own."""
    stock, ours = classifiers(timed)
    names = label_names(work.classes)
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (256, 320, 3), dtype=np.uint8)) for _ in range(5)]

    def seconds_of(classify: Any, some: list[Image.Image]) -> tuple[list[float], list[Any]]:
        seconds, answers = [], []
        for image in some:
            start = time.perf_counter()
            answers.append(classify(image, candidate_labels=names))
            seconds.append(time.perf_counter() - start)
        return seconds, answers

    theirs, expected = seconds_of(stock, images[: work.stock_images])
    own, found = seconds_of(ours, images)
    difference = 0.0
    for one, other in zip(found, expected, strict=False):  # fewer images went through transformers' own
        scores = {answer["label"]: answer["score"] for answer in other}
        difference = max(difference, *(abs(answer["score"] - scores[answer["label"]]) for answer in one))
    settings = {"labels": len(names), "images": len(images), "largest score difference": difference}
    shown = {
        "an image after the first": (median(own[1:]), median(theirs[1:])),
        "the first image": (own[0], theirs[0]),
    }
    return [
        Row("pipeline", what, "transformers' own", "times faster", b / a, a, b, settings=settings)
        for what, (a, b) in shown.items()
    ]


# ---- cold start ------------------------------------------------------------------------------------------

TEMPLATES = "openai_imagenet_7"


def time_cold_start(timed: TimedModel, work: Workload) -> list[Row]:
    """Take the time and the memory from nothing to the first logits: a saved head, and the whole model.

    Each in a process of its own that imports everything first (`s3clip.bench.cold_start`). The whole model
    encodes the prompts of some classes; the time of the others is what theirs says.
    """
    texts = work.head_texts
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        timed.save(folder / "model")
        torch.save(timed.backbone.example_pixels().cpu(), folder / "pixels.pt")
        names = label_names(work.classes)
        synonyms = SynonymSet.read({name: [f"{name} of kind {i}" for i in range(1, texts)] for name in names})
        synonyms.write(folder / "classes.json")
        _save_random_head(folder, synonyms, texts, timed.backbone.dim)
        found: dict[str, list[dict[str, Any]]] = {"whole model": [], "saved head": []}
        for _ in range(work.slow_repeats):
            for way, runs in found.items():
                runs.append(_cold_start(way, folder, work.encoded))
    settings: dict[str, Any] = {"classes": work.classes, "texts": texts, "classes encoded": work.encoded}
    settings |= {"templates": TEMPLATES, "repeats": work.slow_repeats}
    whole, saved = found["whole model"], found["saved head"]
    what, against = "a saved head, to the first logits", "loading the whole model and encoding the prompts"
    taken, others = ([run["seconds"] for run in runs] for runs in (saved, whole))
    rows = [faster("cold start", what, against, taken, others, **settings)]
    if saved[0]["MiB"] is None:
        return rows
    # How much of a file that is mapped is in memory is for the system to say, and differs from run to run.
    ours, other = (median(run["MiB"] for run in runs) for runs in (saved, whole))
    return rows + memory_rows("cold start", what, against, ours, other, settings)


def _cold_start(way: str, folder: Path, encoded: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "s3clip.bench.cold_start", way, str(folder), str(encoded)]
    done = subprocess.run([*command, str(torch.get_num_threads())], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cold start of the {way} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _save_random_head(folder: Path, synonyms: SynonymSet, texts: int, dim: int) -> None:
    """Save a head of these classes with random embeddings: encoding all prompts would cost minutes."""
    head = SynonymousSpaceHead.from_backbone(str(folder / "model"))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(synonyms.classes), texts, dim, generator=generator)
    unit = nn.functional.normalize(torch.randn(len(noise), 1, dim, generator=generator) + noise / 2, dim=-1)
    names = [[each.name, *each.synonyms] for each in synonyms.classes]
    head.fit_embeddings(list(unit), synonyms.class_names, texts=names).save_pretrained(folder / "head")
