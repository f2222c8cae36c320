"""The models that are timed, and what they are compared with: transformers' own way to do the same."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast
from transformers import pipeline as stock_pipeline
from transformers.utils import logging

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.families import joint_embedding
from s3clip.integrations.pipeline import S3ZeroShotImageClassificationPipeline

_TASK = "zero-shot-image-classification"
_START, _END = ("<|startoftext|>", 49406), ("<|endoftext|>", 49407)


class TimedModel(NamedTuple):
    """A dual encoder of transformers with its processors, and a word on where they are from."""

    model: Any
    tokenizer: Any
    image_processor: Any
    description: str

    @property
    def backbone(self) -> Backbone:
        """The same behind s3clip's interface."""
        return Backbone(self.model, (self.tokenizer, self.image_processor))

    def save(self, folder: Path) -> None:
        """Write what `from_pretrained` reads."""
        for part in (self.model, self.tokenizer, self.image_processor):
            part.save_pretrained(folder)


def load_model(name: str, device: str | None) -> TimedModel:
    """Return the model and processors of a checkpoint of transformers.

    Raises:
        ValueError: it comes without a tokenizer or without an image processor.
    """
    backbone = Backbone.from_pretrained(name, device=device)
    if backbone.tokenizer is None or backbone.image_processor is None:
        raise ValueError(f"--backbone {name}: expected a model with a tokenizer and an image processor")
    return TimedModel(backbone.model, backbone.tokenizer, backbone.image_processor, name)


def random_model(tokenizer: str | None, texts: Iterable[str], device: str | None) -> TimedModel:
    """Return a CLIP of the size of ViT-B/32 with random weights.

    CLIP's tokenizer is not part of s3clip. Without one, a word or a punctuation mark is a token, so that
    counts are a little below CLIP's, which cuts rare words up.

    Args:
        tokenizer: Folder or Hub id of the tokenizer of a CLIP; None for a token a word.
        texts: What the words are taken from.
        device: Where the model goes.
    """
    torch.manual_seed(0)
    model: Any = CLIPModel(CLIPConfig())
    model = model.eval().to(device)
    if tokenizer is not None:
        try:
            known: Any = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise ValueError(f"--tokenizer {tokenizer}: expected that of a CLIP: {error}") from error
        if len(known) > model.config.text_config.vocab_size:
            raise ValueError(
                f"--tokenizer {tokenizer}: expected that of a CLIP, got one of {len(known)} tokens"
            )
        description = f"random ViT-B/32-sized CLIP, tokenizer {tokenizer}"
    else:
        known, description = _word_tokenizer(texts), "random ViT-B/32-sized CLIP, a token a word"
    return TimedModel(model, known, CLIPImageProcessor(), description)


def _word_tokenizer(texts: Iterable[str]) -> Any:
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())})
    vocabulary = {word: i for i, word in enumerate(words[: _START[1] - 1], 1)}
    tokenizer = Tokenizer(
        models.WordLevel({"<|unknown|>": 0, **vocabulary, **dict((_START, _END))}, "<|unknown|>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START[0]} $A {_END[0]}", special_tokens=[_START, _END]
    )
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=tokenizer,
        bos_token=_START[0],
        eos_token=_END[0],
        pad_token=_END[0],
        unk_token="<|unknown|>",
        model_max_length=77,
    )


def padded_text_embeddings(
    model: Any, tokenizer: Any, texts: Sequence[str], *, length: int, batch_size: int
) -> Tensor:
    """Return unit embeddings as most scripts take them: every text padded to the longest that is read.

    Returns:
        (texts, dim).
    """
    rows = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenizer(
            list(texts[start : start + batch_size]),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        inputs = {
            key: tokens[key].to(model.device) for key in ("input_ids", "attention_mask") if key in tokens
        }
        with torch.no_grad():
            rows.append(nn.functional.normalize(joint_embedding(model.get_text_features(**inputs)), dim=-1))
    return torch.cat(rows)


def classifiers(timed: TimedModel) -> tuple[Any, Any]:
    """Return transformers' own pipeline on the model, and s3clip's."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    make: Any = stock_pipeline
    parts = {key: getattr(timed, key) for key in ("model", "tokenizer", "image_processor")}
    ours = make(_TASK, pipeline_class=S3ZeroShotImageClassificationPipeline, **parts)
    return make(_TASK, **parts), ours
