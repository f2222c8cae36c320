"""One way from nothing in memory to the first logits, in a process of its own: see `time_cold_start`."""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from s3clip.backbone.families import joint_embedding
from s3clip.bench.models import padded_text_embeddings
from s3clip.bench.timing import can_measure_memory, forget_peak, peak_memory
from s3clip.head import SynonymousSpaceHead
from s3clip.texts.prompts import class_texts
from s3clip.texts.synonyms import SynonymSet


def first_logits(way: str, folder: Path, encoded: int) -> tuple[torch.Tensor, float]:
    """Return the logits of one image, and the seconds to add for the classes that were not encoded."""
    pixels = torch.load(folder / "pixels.pt")
    if way == "saved head":
        return SynonymousSpaceHead.from_pretrained(folder / "head")(pixels), 0.0
    model = AutoModel.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    classes = SynonymSet.read(folder / "classes.json").classes
    length = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    start, rows = time.perf_counter(), []
    for each in classes[:encoded]:
        texts = class_texts(each.name, each.synonyms, templates="openai_imagenet_7")
        prompts = [prompt for text in texts for prompt in text.prompts]
        embeddings = padded_text_embeddings(model, tokenizer, prompts, length=length, batch_size=len(prompts))
        rows.append(embeddings.mean(0))
    left = (time.perf_counter() - start) * (len(classes) / encoded - 1)
    image = joint_embedding(model.get_image_features(pixel_values=pixels))
    return torch.nn.functional.normalize(image, dim=-1) @ torch.stack(rows).T, left


def main(way: str, folder: str, encoded: str, threads: str) -> None:
    """Print the seconds and the growth of this process, as JSON."""
    torch.set_num_threads(int(threads))
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = forget_peak() if can_measure_memory() else None
    start = time.perf_counter()
    with torch.inference_mode():
        logits, left = first_logits(way, Path(folder), int(encoded))
    seconds = time.perf_counter() - start + left
    grown = None if before is None else peak_memory() - before
    if not bool(logits.isfinite().all()):
        raise RuntimeError(f"{way}: logits that are not finite")
    sys.stdout.write(json.dumps({"seconds": seconds, "MiB": grown}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
