"""Texts to tokens: by a tokenizer of transformers, or by a function such as those of open_clip."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from s3clip.backbone.towers import text_positions

# A tokenizer without a vocabulary reads these alike, and whatever else it is given.
_PROBES = ("a cat", "two red dogs", "the sea", "Boeing 747", "façade", "собака", "東京の猫")


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer of transformers makes of texts for one text tower.

    Attributes:
        tokenizer: the tokenizer, or None.
        padding: its arguments that say how a batch is padded.
        inputs: which of its outputs the text tower is given.
        known: how many tokens the text tower knows, None where it does not say.
    """

    tokenizer: Any
    padding: Mapping[str, Any]
    inputs: tuple[str, ...]
    known: int | None

    def most(self, model: nn.Module) -> int | None:
        """Return how many tokens both the tokenizer and the text tower allow, None if neither says."""
        limits = (getattr(self.tokenizer, "model_max_length", None), text_positions(model))
        # A tokenizer without a limit says 1e30.
        return min((int(limit) for limit in limits if limit is not None and limit < 1e9), default=None)

    def read(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """Return the tokens of each text before truncation, and how many they are.

        Raises:
            ValueError: the tokenizer reads all texts alike, or gives tokens that the text tower has not.
        """
        if not texts:
            return [], []
        # verbose=False: the tokenizer's own warning of long texts would come besides ours.
        ids, probes = (
            self.tokenizer(each, padding=False, truncation=False, verbose=False)["input_ids"]
            for each in (texts, list(_PROBES))
        )
        name = type(self.tokenizer).__name__
        if len({frozenset(own) for own in probes}) == 1 == len({frozenset(own) for own in (*probes, *ids)}):
            files = " and ".join(getattr(self.tokenizer, "vocab_files_names", {}).values())
            raise ValueError(
                f"processor: its {name} reads all texts as the same tokens, {sorted(set(probes[0]))}: it has "
                f"no vocabulary, as where its files ({files or 'tokenizer.json'}) are missing; save the "
                f"tokenizer into the folder of the model, or pass the processor: Backbone(model, processor)"
            )
        largest = max(map(max, filter(None, ids)), default=0)
        if self.known is not None and largest >= self.known:
            text = next(text for text, own in zip(texts, ids, strict=True) if largest in own)
            raise ValueError(
                f"processor: its {name} reads {text!r} with the token {largest}, and the text tower knows "
                f"{self.known}; pass the tokenizer of this model, or resize its table of tokens"
            )
        return ids, [len(own) for own in ids]

    def truncated(self, texts: list[str], ids: list[list[int]], length: int) -> list[list[int]]:
        """Return the tokens of texts, of each no more than is read."""
        return [
            own
            if len(own) <= length
            else self.tokenizer(text, truncation=True, max_length=length)["input_ids"]
            for text, own in zip(texts, ids, strict=True)
        ]

    def batch(self, texts: list[str], length: int, device: torch.device) -> dict[str, Tensor]:
        """Return the inputs of the text tower for texts: (texts, tokens) each."""
        given = self.tokenizer(texts, **self.padding, truncation=True, max_length=length, return_tensors="pt")
        return {key: given[key].to(device) for key in self.inputs if key in given}


@dataclass(frozen=True)
class FunctionTokens(Tokens):
    """The same of a function: texts to one tensor of tokens, padded and truncated."""

    def most(self, model: nn.Module) -> int | None:
        """Return how wide its tensors are or, without it, what the model says of itself."""
        if self.tokenizer is None:
            return getattr(model, "context_length", None)
        return int(self.tokenizer(["a"]).shape[-1])

    def read(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """Return no tokens, and for each text 0, or one more than is read where it is longer."""
        if not texts or "context_length" not in inspect.signature(self.tokenizer).parameters:
            return [], [0] * len(texts)
        # One column more than is read adds only padding, unless the text is longer. The end of a longer text
        # may look like padding (SigLIP), but then its row differs before.
        read = self.tokenizer(texts)
        wider = read.shape[-1] + 1
        tokens = self.tokenizer(texts, context_length=wider)
        padding = self.tokenizer(["a"], context_length=wider)[0, -1]
        is_longer = (tokens[:, -1] != padding) | (tokens[:, :-1] != read).any(1)
        return [], [wider * int(longer) for longer in is_longer]

    def batch(self, texts: list[str], length: int, device: torch.device) -> dict[str, Tensor]:
        """Return the tokens of texts as `input_ids`."""
        return {"input_ids": self.tokenizer(texts).to(device)}


def warn_of_truncation(texts: Sequence[str], lengths: Sequence[int], length: int, model: str) -> None:
    """Warn of texts with more tokens than the text tower of a model reads, to the caller's caller."""
    too_long = [text for text, own in zip(texts, lengths, strict=True) if own > length]
    if too_long:
        warnings.warn(
            f"{len(too_long)} of {len(texts)} distinct texts are longer than the {length} tokens that "
            f"{model} reads and are truncated, such as {too_long[0]!r}",
            stacklevel=3,
        )


def check_texts(texts: Sequence[str]) -> None:
    """Raise TypeError or ValueError for what is no sequence of texts that say something."""
    if isinstance(texts, str):
        raise TypeError(f"texts: expected a sequence of strings, got the one string {texts!r}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts: expected strings, got {type(text).__name__} at position {i}")
        if not text.strip():
            raise ValueError(f"texts: the text at position {i} is empty")


def unit_rows(features: Tensor, texts: list[str], dim: int) -> Tensor:
    """Return embeddings of texts with length 1, in float32, or raise ValueError for what has no direction."""
    if features.shape[-1] != dim:
        raise ValueError(
            f"model: texts are embedded in {features.shape[-1]} dimensions, images in {dim}: no joint space"
        )
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    norms = features.norm(dim=-1, keepdim=True)
    usable = (norms.isfinite() & (norms > 0)).squeeze(-1).tolist()
    if not all(usable):
        i = usable.index(False)
        what = "zero" if norms[i].item() == 0 else "not finite"
        raise ValueError(
            f"texts: the embedding of {texts[i]!r} is {what}; check the model's weights and dtype"
        )
    return functional.normalize(features, dim=-1, eps=0.0).float()
