"""Texts in, rows out: each distinct prompt is encoded once, or found in the cache."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.text_cache import TextCache, never_fatal, text_cache
from s3clip.space.synonymous_space import as_tensor, unit_vectors
from s3clip.texts.prompts import Text

PROMPT_BLOCK = 16_384
"""Prompts whose embeddings are held at once while fitting (32 MiB at 512 dimensions), beside the rows."""


def encode_texts(
    backbone: Backbone,
    texts: Sequence[Sequence[Text]],
    *,
    batch_size: int = 256,
    progress: bool | None = None,
    cache: bool = True,
) -> Tensor:
    """Encode the texts or concepts of every class, each distinct prompt once.

    Args:
        backbone: with its text tower.
        texts: of each class; the row of a text is the normalised mean of the unit embeddings of its prompts.
        batch_size: prompts per call of the text tower.
        progress: show a progress bar; None: on a terminal.
        cache: look for prompts on disk first, and keep new ones there; see `s3clip.backbone.text_cache`.

    Returns:
        (texts, dim) unit embeddings, class by class.
    """
    flat = [text.prompts for own in texts for text in own]
    row_of = {prompts: row for row, prompts in enumerate(dict.fromkeys(flat))}
    uses: dict[str, list[int]] = {}
    for prompts, row in row_of.items():
        for prompt in prompts:
            uses.setdefault(prompt, []).append(row)
    known, distinct = text_cache(backbone) if cache else None, list(uses)
    sums: Tensor | None = None
    for start in range(0, len(distinct), PROMPT_BLOCK):
        block = distinct[start : start + PROMPT_BLOCK]
        unit = _encode_prompts(backbone, block, known, batch_size, progress)
        sums = unit.new_zeros(len(row_of), unit.shape[1]) if sums is None else sums
        at = [(row, place) for place, prompt in enumerate(block) for row in uses[prompt]]
        rows, places = torch.tensor(at, device=unit.device).T
        sums.index_add_(0, rows, unit[places])
    assert sums is not None  # every class has a text
    return unit_vectors(sums)[torch.tensor([row_of[prompts] for prompts in flat], device=sums.device)]


def _encode_prompts(
    backbone: Backbone, prompts: list[str], cache: TextCache | None, batch_size: int, progress: bool | None
) -> Tensor:
    """Return (prompts, dim) unit embeddings of distinct prompts, those that the cache knows from there."""
    known = {}
    if cache is not None:
        with never_fatal(cache):
            known = cache.read(prompts, backbone.dim)
        if known:
            backbone.warn_of_truncation(list(known))
    unknown = [prompt for prompt in prompts if prompt not in known]
    encoded = backbone.encode_texts(unknown, batch_size=batch_size, progress=progress)
    if cache is not None and unknown:
        with never_fatal(cache):
            cache.write(unknown, encoded.cpu().numpy())
    found = [torch.from_numpy(vector).to(encoded)[None] for vector in known.values()]
    position = {prompt: i for i, prompt in enumerate([*known, *unknown])}
    return torch.cat([*found, encoded])[[position[prompt] for prompt in prompts]]


def checked_rows(
    embeddings: Sequence[Tensor] | Mapping[str, Tensor], class_names: Sequence[str] | None
) -> tuple[list[str], list[Tensor]]:
    """Return text embeddings computed elsewhere: the names of the classes, and one (n_c, dim) tensor a class.

    Raises:
        ValueError: counts or shapes that do not agree, or an empty class.
        TypeError: names that are not strings.
    """
    if isinstance(embeddings, Mapping):
        if class_names is not None:
            raise ValueError("class_names: a mapping of embeddings has the names; leave class_names out")
        class_names, embeddings = list(embeddings), list(embeddings.values())
    listed = [None] if class_names is None or isinstance(class_names, str) else list(class_names)
    if not all(isinstance(name, str) for name in listed):
        raise TypeError(f"class_names: expected a list of strings, got {class_names!r}")
    names = [str(name) for name in listed]  # numpy has strings of its own
    if not names or len(embeddings) != len(names):
        raise ValueError(
            f"embeddings, class_names: expected one tensor for each of one or more classes, "
            f"got {len(embeddings)} tensors and {len(names)} names"
        )
    rows = list(map(as_tensor, embeddings))
    for name, own in zip(names, rows, strict=True):
        if own.ndim != 2 or not len(own) or not own.is_floating_point():
            raise ValueError(
                f"embeddings: class {name!r}: expected a floating (n, dim) tensor with n >= 1, "
                f"got {tuple(own.shape)} {own.dtype}"
            )
        if own.shape[1] != rows[0].shape[1]:
            raise ValueError(
                f"embeddings: class {name!r} has dimension {own.shape[1]}, "
                f"{names[0]!r} has {rows[0].shape[1]}"
            )
    return names, rows
