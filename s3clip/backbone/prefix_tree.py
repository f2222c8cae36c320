"""Texts that begin alike, encoded as one tree of tokens: every distinct prefix once.

In a causal text tower a token sees only the tokens before it, so two texts share all states of their common
beginning. Sorted, the texts of a batch are the leaves of a tree whose nodes, one per distinct prefix, are
numbered in the order of a depth-first walk. Layer norms, projections and feed-forward layers run on the nodes
as one long sequence. Attention runs in blocks of consecutive nodes: whatever a node attends to, its own
ancestors, lies in its block or above the first node of the block, so a block needs few keys besides its own.
The last layer goes on for the last nodes of texts alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# Nodes per block of attention. With more, a node meets more keys that it may not see; with fewer, a key is
# read by fewer nodes. On CPUs 16 and 128 are slower.
_BLOCK = 32

# The parts of a text tower by their names in CLIP and its kin (CLIPSeg, GroupViT, MetaCLIP 2, OWL-ViT), and
# in AIMv2.
_LAYER_PARTS = (
    ("layer_norm1", "self_attn", "layer_norm2", "mlp"),
    ("rms_norm1", "attention", "rms_norm2", "ffn"),
)
_FINAL_NORMS = ("final_layer_norm", "rms_norm")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class PrefixTree(NamedTuple):
    """The distinct prefixes of some texts, in the order of a depth-first walk.

    Attributes:
        tokens: Last token of each prefix, (nodes,).
        depths: Its position in the text, (nodes,).
        ancestors: The prefixes of each prefix by their length, itself the last, -1 behind, (nodes, longest).
        ends: The prefix that is the whole text, (texts,).
    """

    tokens: Tensor
    depths: Tensor
    ancestors: Tensor
    ends: Tensor


class _Layer(NamedTuple):
    """One layer of a text tower, which adds first its attention and then its feed-forward part."""

    attention_norm: nn.Module
    attention: Any
    feed_forward_norm: nn.Module
    feed_forward: nn.Module


@dataclass(frozen=True)
class TextTower:
    """The parts of a causal text tower, each called as it stands in the model."""

    embeddings: nn.Module
    layers: Sequence[_Layer]
    final_norm: nn.Module
    projection: nn.Module
    heads: int

    @property
    def device(self) -> torch.device:
        """Device of the first layer that tokens meet."""
        return next(self.embeddings.parameters()).device


def find_text_tower(model: nn.Module) -> TextTower | None:
    """Return the text tower of a dual encoder built like CLIP, None where the model is built otherwise.

    That the parts are called what they are in CLIP does not make them work alike: compare what
    `encode_prefix_tree` gives with what the model gives.
    """
    tower = getattr(model, "text_model", None)
    embeddings: Any = getattr(tower, "embeddings", None)
    projection: Any = getattr(model, "text_projection", None)
    final_norm: Any = next((getattr(tower, name) for name in _FINAL_NORMS if hasattr(tower, name)), None)
    layers = [_parts(layer) for layer in getattr(getattr(tower, "encoder", None), "layers", ())]
    known = [layer for layer in layers if layer is not None]
    modules = (embeddings, projection, final_norm)
    if not all(isinstance(module, nn.Module) for module in modules) or len(known) < max(1, len(layers)):
        return None
    return TextTower(embeddings, known, final_norm, projection, known[0].attention.num_heads)


def _parts(layer: nn.Module) -> _Layer | None:
    for names in _LAYER_PARTS:
        if all(hasattr(layer, name) for name in names):
            parts = _Layer(*(getattr(layer, name) for name in names))
            if all(hasattr(parts.attention, name) for name in (*_PROJECTIONS, "num_heads")):
                return parts
    return None


def shared_lengths(sequences: Sequence[list[int]]) -> Tensor:
    """Return how many tokens each sequence shares with the one before it, (sequences,), 0 for the first.

    Args:
        sequences: Token ids, sorted. The prefixes not shared are the nodes of their tree.
    """
    return _shared_lengths(*_padded(sequences))


def _padded(sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Return sequences as rows that end in -1, (sequences, longest), and their lengths, (sequences,)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    filled = torch.arange(int(lengths.max())) < lengths[:, None]
    rows = torch.full(filled.shape, -1)
    rows[filled] = torch.tensor(list(chain.from_iterable(sequences)))
    return rows, lengths


def _shared_lengths(rows: Tensor, lengths: Tensor) -> Tensor:
    equal = (rows[1:] == rows[:-1]).cumprod(1).sum(1)
    # Two equal rows are equal in their padding too.
    return torch.cat([lengths.new_zeros(1), equal.minimum(lengths[1:])])


def shareable(sequences: Sequence[list[int]], probes: Sequence[list[int]]) -> tuple[list[int], int]:
    """Return which sequences a tree can hold, sorted by their tokens, and how many tokens it saves.

    A text is read off its first end token or, in OWL-ViT and by old configurations, its largest. That is its
    last, but where a text names special tokens. Where all tokens are larger, as in XLM-R's vocabulary, a
    tower that takes the largest does not pass `disagreement`.

    Args:
        sequences: Token ids of texts.
        probes: Those of plain texts, which show the end token.
    """
    end = probes[0][-1]
    largest = end if end == max(map(max, probes)) else math.inf
    shared = [
        i
        for i, ids in enumerate(sequences)
        if ids[-1:] == [end] and end not in ids[:-1] and max(ids) <= largest
    ]
    shared.sort(key=sequences.__getitem__)
    return shared, int(shared_lengths([sequences[i] for i in shared]).sum()) if shared else 0


def prefix_tree(sequences: Sequence[list[int]]) -> PrefixTree:
    """Return the tree of all prefixes of token sequences.

    Args:
        sequences: Token ids, sorted, at least one, none empty. They may repeat, and one may begin another.
    """
    rows, lengths = _padded(sequences)
    positions = torch.arange(rows.shape[1])
    shared = _shared_lengths(rows, lengths)
    is_new = (positions >= shared[:, None]) & (positions < lengths[:, None])
    owner, depths = is_new.nonzero(as_tuple=True)
    # Every prefix of a text belongs to the latest text before it that had none of that length in common with
    # its own predecessor, and numbers grow with the texts.
    paths = torch.full(rows.shape, -1)
    paths[is_new] = torch.arange(len(owner))
    paths = paths.cummax(0).values
    ancestors = paths[owner].masked_fill(positions > depths[:, None], -1)
    ends = paths[torch.arange(len(rows)), lengths - 1]
    return PrefixTree(rows[is_new], depths, ancestors, ends)


class _Blocks(NamedTuple):
    """Which nodes ask in each block, (blocks, size), which are asked, (blocks, keys), and the mask between.

    The mask, (blocks, 1, size, keys), is added to the logits of attention.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


def _blocks(tree: PrefixTree, dtype: torch.dtype) -> _Blocks:
    nodes = len(tree.tokens)
    count = -(-nodes // _BLOCK)
    own = torch.arange(count * -(-nodes // count)).reshape(count, -1)
    first = own[:, 0].clamp(max=nodes - 1)
    above = tree.ancestors[first, : int(tree.depths[first].max())]
    above = above.masked_fill(above == first[:, None], -1)
    # Neither a gap above (-1) nor one at the end (the number of nodes) is anyone's ancestor.
    keys = torch.cat([above, own], 1)
    is_key = (keys >= 0) & (keys < nodes)
    queries, keys = own.clamp(max=nodes - 1), keys.clamp(0, nodes - 1)
    at_depth = tree.depths[keys][:, None].expand(-1, queries.shape[1], -1)
    sees = (tree.ancestors[queries].gather(2, at_depth) == keys[:, None]) & is_key[:, None]
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, -torch.inf)
    return _Blocks(queries, keys, mask[:, None])


def encode_prefix_tree(tower: TextTower, tree: PrefixTree) -> Tensor:
    """Return the embeddings of the texts of a tree, not normalised, (texts, width).

    They are what the tower gives for the texts one by one, up to rounding, if it is causal and reads a text
    off its last token.
    """
    tokens, depths, ends = (part.to(tower.device) for part in (tree.tokens, tree.depths, tree.ends))
    # One text per token, since towers refuse texts that are longer than any of theirs.
    states = tower.embeddings(input_ids=tokens[:, None], position_ids=depths[:, None])[:, 0]
    blocks = _Blocks(*(part.to(tower.device) for part in _blocks(tree, states.dtype)))
    for i, layer in enumerate(tower.layers):
        attended = _attend(layer.attention, layer.attention_norm(states), blocks, tower.heads)
        if i == len(tower.layers) - 1:
            states, attended = states[ends], attended[ends]
        states = states + layer.attention.out_proj(attended)
        states = states + layer.feed_forward(layer.feed_forward_norm(states))
    embeddings: Tensor = tower.projection(tower.final_norm(states))
    return embeddings


def _attend(attention: Any, states: Tensor, blocks: _Blocks, heads: int) -> Tensor:
    """Return what every node reads of its ancestors, before the output projection: (nodes, width)."""
    queries, keys, values = (
        getattr(attention, name)(states)[rows].unflatten(-1, (heads, -1)).transpose(1, 2)
        for name, rows in zip(_PROJECTIONS, (blocks.queries, blocks.keys, blocks.keys), strict=False)
    )
    read = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=blocks.mask)
    return read.transpose(1, 2).flatten(2).flatten(0, 1)[: len(states)]


def disagreement(tower: TextTower, sequences: Sequence[list[int]], expected: Tensor) -> str | None:
    """Say how the tree of some texts departs from the tower's own embeddings, None if it does not.

    A tower that is not causal, that adds, scales or orders its parts in another way, or reads a text off
    another token, departs.

    Args:
        tower: The text tower.
        sequences: Token ids of texts that share beginnings and differ in length, in any order.
        expected: What the model itself gives for them, not normalised, (texts, width).
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    try:
        found = encode_prefix_tree(tower, prefix_tree([sequences[i] for i in order]))
        gaps = (found.double() - expected[order].double()).norm(dim=1) / expected[order].double().norm(dim=1)
    except Exception as error:  # of a tower that has the names only; the model itself may well work
        return f"{type(error).__name__}: {error}"
    gap = gaps.max().item()
    if gap <= max(1e-4, 8 * torch.finfo(found.dtype).eps):
        return None
    return f"embeddings are off by {gap:.1e} of their length"
