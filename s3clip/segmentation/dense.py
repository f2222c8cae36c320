"""An embedding for every patch: the image tower of a dual encoder with another last block.

CLIP is trained on its class token alone, and its last block mixes into every patch what all the others show.
The published remedies change that block and nothing else, so one mechanism serves them all: the input of the
last block, weights of one patch for another, and whether the rest of the block is left out.

- MaskCLIP: Zhou et al., Extract Free Dense Labels from CLIP (arXiv 2112.01071)
- SCLIP: Wang et al., Rethinking Self-Attention for Dense Vision-Language Inference (arXiv 2312.01597)
- NACLIP: Hajimiri et al., Pay Attention to Your Neighbours (arXiv 2404.08181)
- ClearCLIP: Lan et al., Decomposing CLIP Representations for Dense Inference (arXiv 2407.12442)
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

SERVED = "CLIP, MetaCLIP 2, AltCLIP, Chinese-CLIP, CLIPSeg, OWL-ViT, OWLv2 and SigLIP"

NEIGHBOUR_DEVIATION = 5.0
"""Standard deviation, in patches, of NACLIP's Gaussian: the published setting."""

Grid = tuple[int, int]
"""Rows and columns of patches."""


def value_weights(queries: Tensor, keys: Tensor, grid: Grid) -> None:
    """MaskCLIP: a patch attends to itself alone, so the weights are the identity: None."""
    return None


def correlative_weights(queries: Tensor, keys: Tensor, grid: Grid) -> Tensor:
    """SCLIP: softmax(q qᵀ) + softmax(k kᵀ). The rows sum to 2, as in the published code."""
    return _self_similarity(queries).softmax(-1) + _self_similarity(keys).softmax(-1)


def neighbour_weights(queries: Tensor, keys: Tensor, grid: Grid) -> Tensor:
    """NACLIP: softmax(k kᵀ + ω), ω a Gaussian of the distance between two patches, 0 at the class token."""
    similarity = _self_similarity(keys)
    height, width = grid
    others = similarity.shape[-1] - height * width  # the class token, where there is one
    similarity[..., others:, others:] += neighbourhood(height, width).to(similarity)
    return similarity.softmax(-1)


def query_weights(queries: Tensor, keys: Tensor, grid: Grid) -> Tensor:
    """ClearCLIP: softmax(q qᵀ)."""
    return _self_similarity(queries).softmax(-1)


def neighbourhood(height: int, width: int, deviation: float = NEIGHBOUR_DEVIATION) -> Tensor:
    """Return exp(-d² / (2 deviation²)), d the distance of two patches in patches.

    Args:
        height: rows of the grid.
        width: its columns.
        deviation: in patches.

    Returns:
        (height * width, height * width), patches in reading order.
    """
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    squared = (rows[:, None] - rows).square()[:, None, :, None] + (columns[:, None] - columns).square()[
        None, :, None, :
    ]
    return (-squared / (2 * deviation**2)).exp().reshape(height * width, height * width)


@dataclass(frozen=True)
class DenseMethod:
    """What stands in the place of the last block.

    Attributes:
        weights: (queries, keys, grid) -> (batch, heads, tokens, tokens) weights of the values, queries
            already scaled alike with keys; None for the block as it is.
        whole_block: whether the residuals and the feed-forward of the block stay.
    """

    weights: Callable[[Tensor, Tensor, Grid], Tensor | None] | None
    whole_block: bool


PATCH_FEATURES = {
    "patch": DenseMethod(None, True),
    "maskclip": DenseMethod(value_weights, False),
    "sclip": DenseMethod(correlative_weights, True),
    "naclip": DenseMethod(neighbour_weights, False),
    "clearclip": DenseMethod(query_weights, False),
}


class DenseTower:
    """The image tower of a dual encoder, read patch by patch.

    Args:
        model: a model of transformers of one of the families `SERVED`: their towers have the same parts under
            the same names. Its patches become embeddings as its pooled token does, by the projection of
            CLIP-like families; in SigLIP, which has none, by its attention pool on each patch alone.

    Attributes:
        patch_size: pixels.
        image_size: pixels of the square pictures that the model was trained on.

    Raises:
        TypeError: another family.
    """

    def __init__(self, model: nn.Module) -> None:
        tower: Any = getattr(model, "vision_model", None)
        project = getattr(model, "visual_projection", None)
        pool = getattr(tower, "head", None)
        self.has_class_token = project is not None
        layers = getattr(getattr(tower, "encoder", None), "layers", None)
        last: Any = layers[-1] if layers is not None and len(layers) > 0 else None
        parts = ("layer_norm1", "layer_norm2", "mlp", "self_attn")
        attention: Any = getattr(last, "self_attn", None)
        if (
            not all(hasattr(last, part) for part in parts)
            or not all(hasattr(attention, f"{part}_proj") for part in ("q", "k", "v", "out"))
            or not hasattr(tower, "post_layernorm")
            or (project is None) == (pool is None)
            # SigLIP 2 with pictures of any shape reads patches that its processor cuts.
            or not isinstance(getattr(tower.config, "image_size", None), int)
        ):
            raise TypeError(
                f"model: {type(model).__name__} has no image tower whose last block is known; patches have "
                f"embeddings in {SERVED}, as transformers builds them"
            )
        self._tower, self._last, self._attention = tower, last, attention
        self._project: Any = project
        self._pool: Any = pool
        self.patch_size: int = tower.config.patch_size
        self.image_size: int = tower.config.image_size

    def features(self, pixel_values: Tensor, method: str) -> Tensor:
        """Return a unit embedding of every patch.

        Args:
            pixel_values: (batch, channels, height, width), preprocessed, of any size in whole patches:
                positions are interpolated.
            method: a key of `PATCH_FEATURES`.

        Returns:
            (batch, rows, columns, dim), in the dtype of the model.

        Raises:
            ValueError: another method, or a size that is not in whole patches.
        """
        check_method(method)
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ValueError(
                f"pixel_values: expected a height and a width in patches of {self.patch_size} pixels, got "
                f"{height} x {width}"
            )
        grid = height // self.patch_size, width // self.patch_size
        tokens = self.tokens(pixel_values, PATCH_FEATURES[method], grid)
        precise = torch.promote_types(tokens.dtype, torch.float32)
        patches: Tensor = normalize(tokens[:, int(self.has_class_token) :].to(precise), dim=-1)
        return patches.to(tokens.dtype).reshape(len(patches), *grid, -1)

    def tokens(self, pixel_values: Tensor, method: DenseMethod, grid: Grid) -> Tensor:
        """Return every token in the joint space, not normalised: (batch, tokens, dim).

        The class token, where there is one, goes first. With `PATCH_FEATURES["patch"]` it is the model's own
        image embedding.
        """
        before, states = self._run(pixel_values)
        if method.weights is not None:
            states = self._last_block(before, method, grid)
        elif not self.has_class_token:
            return self._joint(states)  # SigLIP normalises what it returns
        return self._joint(self._tower.post_layernorm(states))

    def _run(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what goes into the last block, and what the tower returns: (batch, tokens, width) each.

        By a hook, since not every version of transformers gives the states between blocks. It costs the last
        block where another takes its place.
        """
        thread, seen = get_ident(), []

        def note(block: nn.Module, states: tuple[Any, ...], named: dict[str, Any]) -> None:
            if get_ident() == thread:  # others may be running the same tower
                seen.append(states[0] if states else named["hidden_states"])

        hook = self._last.register_forward_pre_hook(note, with_kwargs=True)
        try:
            output = self._tower(pixel_values=pixel_values, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return seen[-1], output[0]

    def _last_block(self, states: Tensor, method: DenseMethod, grid: Grid) -> Tensor:
        """(batch, tokens, width) -> the same, with the weights of the method."""
        assert method.weights is not None  # such blocks are the model's own
        block, attention = self._last, self._attention
        inner = block.layer_norm1(states)
        heads = attention.num_heads
        # Each scaled with the root of the usual factor, so that every product of two is scaled with it.
        factor = (inner.shape[-1] // heads) ** -0.25
        queries = _split(attention.q_proj(inner), heads) * factor
        keys = _split(attention.k_proj(inner), heads) * factor
        values = attention.v_proj(inner)
        weights = method.weights(queries, keys, grid)
        if weights is not None:
            values = (weights @ _split(values, heads)).transpose(1, 2).flatten(2)
        mixed: Tensor = attention.out_proj(values)
        if not method.whole_block:
            return mixed
        states = states + mixed
        after: Tensor = states + block.mlp(block.layer_norm2(states))
        return after

    def _joint(self, states: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, dim)."""
        if self._pool is not None:
            pooled: Tensor = self._pool(states.flatten(0, 1)[:, None])
            return pooled.reshape(*states.shape[:2], -1)
        projected: Tensor = self._project(states)
        return projected


def check_method(method: object) -> None:
    """Raise ValueError for what is not a key of `PATCH_FEATURES`."""
    if method not in PATCH_FEATURES:
        raise ValueError(f"method: expected one of {', '.join(PATCH_FEATURES)}, got {method!r}")


def _split(states: Tensor, heads: int) -> Tensor:
    """(batch, tokens, width) -> (batch, heads, tokens, width / heads)."""
    return states.reshape(*states.shape[:2], heads, -1).transpose(1, 2)


def _self_similarity(states: Tensor) -> Tensor:
    """(batch, heads, tokens, d) -> (batch, heads, tokens, tokens)."""
    return states @ states.transpose(-1, -2)
