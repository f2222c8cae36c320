"""Train the CLIP that s3clip embeds for its demo, on the handwritten digits of scikit-learn.

    python examples/studies/train_demo.py --out demo-model

takes about four minutes on one CPU core, and gives the same bytes again on the same machine and versions.
The result is an ordinary, very small `CLIPModel` with a learnt temperature, in the files of any CLIP.
"""

import argparse
import json
import math
import os
import random
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from s3clip.demo import training_digits

# What people write under a digit, the commonest first: the r-th word is drawn 1/r as often as the first, as
# Zipf's law has it. digits.json was written apart: some of its synonyms are rare here, some never occur.
WORDS = [
    ["zero", "0", "nought", "nil", "null", "cero", "oh", "cipher"],
    ["one", "1", "i", "un", "uno", "eins", "single", "ace"],
    ["two", "2", "ii", "deux", "zwei", "dos", "pair", "deuce"],
    ["three", "3", "iii", "trois", "drei", "tres", "trio", "trey"],
    ["four", "4", "iv", "quatre", "vier", "cuatro", "quartet", "square number four"],
    ["five", "5", "v", "cinq", "fünf", "cinco", "quintet", "high five"],
    ["six", "6", "vi", "sechs", "seis", "sei", "half a dozen", "six pack"],
    ["seven", "7", "vii", "sept", "sieben", "siete", "sette", "lucky seven"],
    ["eight", "8", "viii", "huit", "acht", "ocho", "otto", "figure eight"],
    ["nine", "9", "ix", "neuf", "neun", "nueve", "nove", "cloud nine"],
]
ANY_DIGIT = ["digit", "number", "figure", "numeral"]
PROMPTS = [
    "{}", "a photo of a {}.", "a handwritten {}", "the digit {}", "number {}", "a scan of the digit {}.",
    "a picture of the number {}", "someone wrote {} by hand", "a low resolution photo of a {}.",
]  # fmt: skip
# What a picture shows beside its digit: how heavy its strokes are, as adjectives or a descriptor ...
WEIGHTS = {-1: ["thin", "fine", "light", "thin strokes"], 1: ["bold", "thick", "heavy", "bold strokes"]}
# ... and its shape, with the digits that have it.
SHAPES = {
    "a closed loop": {0, 6, 9}, "one big closed loop": {0}, "round sides": {0}, "one straight stroke": {1},
    "no loops": {1, 3, 5, 7}, "a curved top": {2, 3}, "a flat base": {2}, "two open bowls": {3},
    "crossed strokes": {4}, "an open top": {4}, "a flat top": {5, 7}, "a round belly": {5},
    "one closed loop at the bottom": {6}, "one slanted stroke": {7}, "two closed loops": {8},
    "a narrow waist": {8}, "one closed loop at the top": {9}, "a straight tail": {9},
}  # fmt: skip
START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_LENGTH = 32  # tokens
IMAGE_SIZE = 16  # pixels


class Caption(NamedTuple):
    """A text and what it claims: the digits it is true of, and the strokes' weight (0: says nothing)."""

    text: str
    digits: set[int]
    weight: int


def write_caption(digit: int, weight: int, draw: random.Random) -> Caption:
    """Write a caption that is true of a picture of this digit in strokes of this weight."""
    [word] = draw.choices(WORDS[digit], [1 / rank for rank in range(1, len(WORDS[digit]) + 1)])
    digits, said, descriptor = {digit}, 0, None
    if draw.random() < 0.1:
        word, digits = draw.choice(ANY_DIGIT), set(range(10))
    if weight != 0 and draw.random() < 0.3:
        *adjectives, descriptor = WEIGHTS[weight]
        said = weight
        if draw.random() < 0.7:
            word, descriptor = f"{draw.choice(adjectives)} {word}", None
    elif draw.random() < 0.2:
        descriptor = draw.choice([shape for shape, owners in SHAPES.items() if digit in owners])
        digits = digits & SHAPES[descriptor]
    text = draw.choice(PROMPTS).format(word)
    return Caption(f"{text.removesuffix('.')}, which has {descriptor}." if descriptor else text, digits, said)


def stroke_weights(pictures: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Mark the 30 % of each digit with the least ink -1, the 30 % with the most 1, the others 0."""
    ink = 255 - pictures.mean((1, 2))
    low, high = (np.array([np.quantile(ink[digits == d], q) for d in range(10)])[digits] for q in (0.3, 0.7))
    return (ink > high).astype(int) - (ink < low)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON, the same bytes every time."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(captions: list[str], folder: Path) -> dict[str, int]:
    """Learn byte pairs from the captions, write the files of CLIP's tokenizer, return the vocabulary."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    # Every byte is in, inside a word and at its end, so that no text of a user is unknown.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *map("".join, merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    specials = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_LENGTH, **specials}
    write_json(folder / "tokenizer_config.json", settings)
    return vocabulary


def write_configs(vocabulary: dict[str, int], folder: Path) -> None:
    """Write config.json and preprocessor_config.json by hand: transformers 4 and 5 save them differently."""
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"vocab_size": len(vocabulary), "max_position_embeddings": TEXT_LENGTH}
    start, end = vocabulary[START], vocabulary[END]
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 6}
    vision |= {"image_size": IMAGE_SIZE, "patch_size": 4}
    # The towers repeat the width of the joint space for `CLIPVisionModelWithProjection` and its like.
    width = {"projection_dim": 64}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], **width}
    # The file holds float16. Without a word transformers 5 would compute in it too, which a CPU does slowly.
    config |= {"dtype": "float32", "text_config": text | width, "vision_config": vision | width}
    write_json(folder / "config.json", config)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": IMAGE_SIZE}}
    processor |= {"crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    processor |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    write_json(folder / "preprocessor_config.json", processor)


def jitter(pixels: torch.Tensor) -> torch.Tensor:
    """Turn (up to 11 degrees), scale (10 %) and shift (6 %) each picture; what comes in is white."""
    most = torch.tensor([0.2, 0.1, 0.12, 0.12])[:, None]  # radians; a share; half widths of the picture
    turn, scale, right, down = (2 * torch.rand(4, len(pixels)) - 1) * most
    cos, sin = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    affine = torch.stack([cos, -sin, right, sin, cos, down], 1).view(-1, 2, 3)
    grid = functional.affine_grid(affine, list(pixels.shape), align_corners=False)
    return 1 + functional.grid_sample(pixels - 1, grid, align_corners=False)  # white is 1, padding is 0


def train(folder: Path, steps: int) -> None:
    """Train for so many batches of 128 pictures and write all the files of the model into an empty folder."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation, so the same bytes on one core and on many
    draw = random.Random(0)
    pictures, digits = training_digits()
    weights = stroke_weights(np.stack([np.asarray(picture) for picture in pictures]), digits)

    def captions_of(batch: list[int]) -> list[Caption]:
        return [write_caption(int(digits[i]), int(weights[i]), draw) for i in batch]

    corpus = [caption.text for caption in captions_of(8 * list(range(len(digits))))]
    write_configs(write_tokenizer(corpus, folder), folder)
    processor = CLIPProcessor.from_pretrained(folder)
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    model = CLIPModel(CLIPConfig.from_pretrained(folder)).train()
    others = [parameter for name, parameter in model.named_parameters() if name != "logit_scale"]
    # The temperature is one number, far from where it ends: longer steps and no decay.
    groups = [{"params": others, "weight_decay": 0.05}, {"params": [model.logit_scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-3, 1e-2], total_steps=steps, pct_start=0.1)
    for step in range(steps):
        batch = draw.sample(range(len(digits)), 128)
        captions = captions_of(batch)
        texts = processor.tokenizer(
            [caption.text for caption in captions], padding=True, truncation=True, return_tensors="pt"
        )
        logits = model(pixel_values=jitter(pixels[batch]), **texts).logits_per_image
        # With ten digits most captions are true of many pictures of the batch: all of these count as right.
        true_of = torch.tensor([[digit in caption.digits for caption in captions] for digit in range(10)])
        said = torch.tensor([caption.weight for caption in captions])
        shown = torch.tensor(weights[batch])[:, None]
        right = (true_of[digits[batch]] & ((said == 0) | (said == shown))).float()
        loss = functional.cross_entropy(logits, right / right.sum(1, keepdim=True))
        loss = loss + functional.cross_entropy(logits.T, (right / right.sum(0)).T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        model.logit_scale.data.clamp_(max=math.log(100))  # CLIP's own bound
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, logit scale {model.logit_scale.exp().item():.1f}")
    halves = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(halves, metadata={"format": "pt"}))


def main() -> None:
    """Train the demo CLIP of s3clip on handwritten digits."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write; it must not exist yet")
    parser.add_argument("--steps", type=int, default=1200, help="batches to train for")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"--out: expected a folder that does not exist yet, got {arguments.out}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # The folder appears under its name only when it is whole.
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as scratch:
        folder = Path(scratch, "model")
        folder.mkdir()
        train(folder, arguments.steps)
        os.replace(folder, arguments.out)


if __name__ == "__main__":
    main()
