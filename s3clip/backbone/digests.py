"""What weights, tokenizers and settings are, in 32 bytes: equal for equal content, in any process.

No address, path, order of a set or state of a cache goes in. What cannot be looked into (an object of
compiled code) counts with its type alone; what it does shows in its outputs, which `identity.py` adds.
"""

import enum
import functools
import hashlib
import re
import types
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCK = 2048
"""Bytes of which two sums of 64 bits are taken."""

# Drawn once and for all, odd: two sums of numbers times these differ wherever one number does.
_FACTORS = np.frombuffer(hashlib.shake_256(b"s3clip").digest(2 * _BLOCK), dtype="<u8").reshape(2, -1) | 1

_SIMPLE = (str, int, float, bool, bytes, complex, type(None), type(...))

# Attributes that say where something is from, what it has seen, or how it talks, and not what it gives.
_INCIDENTAL = re.compile(
    r".*(_file|name_or_path|cache)|verbose|deprecation_warnings|files_loaded|init_(kwargs|inputs)|is_local"
    r"|local_files_only|transformers_version|architectures|(torch_)?dtype|_commit_hash|_?attn_implementation.*"
)


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """Return the digest of named tensors, 32 bytes, on any device the same.

    A cryptographic hash of all bytes takes a second a gigabyte, and would have to be kept until a weight
    changes, which nothing says reliably: `weight.data[row] = ...`, as textual inversion writes, leaves the
    version of a tensor as it is. Here each block of 2 KiB is summed at the speed of memory, its 64-bit
    numbers and their upper halves times fixed odd factors, modulo 2^64, and the sums alone are hashed. For
    factors drawn at random a change goes unseen with a chance of 2^-32 a block at most; one of a single
    number never.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        _feed_tensor(digest, name, tensor)
    return digest.digest()


def _feed_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
    if tensor.is_meta:
        return
    if callable(parts := getattr(tensor, "__tensor_flatten__", None)):  # of several: quantised, or sharded
        for part in parts()[0]:
            if isinstance(inner := getattr(tensor, part), Tensor):
                _feed_tensor(digest, part, inner)
        return
    plain = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    plain = plain.dequantize() if plain.is_quantized else plain
    data = plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    whole = len(data) // _BLOCK * _BLOCK
    for start in range(0, whole, 2**15 * _BLOCK):
        blocks = data[start : min(start + 2**15 * _BLOCK, whole)].view("<u8").reshape(-1, _BLOCK // 8)
        digest.update((blocks @ _FACTORS[0]).data)
        digest.update(((blocks >> np.uint64(32)) @ _FACTORS[1]).data)
    digest.update(data[whole:].data)


def settings_digest(*values: Any) -> bytes:
    """Return the digest of settings, tokenizers, processors or functions, 32 bytes."""
    digest = hashlib.blake2b(digest_size=32)
    _feed(digest, values, set())
    return digest.digest()


def _feed(digest: Any, value: Any, above: set[int]) -> None:
    """Add a value; `above` are the objects that it is part of."""
    # What was read from JSON has lists for tuples, and numbers for names of numbers.
    value = int(value) if isinstance(value, enum.IntEnum) else list(value) if type(value) is tuple else value
    if type(value) in _SIMPLE:
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", "backslashreplace"))
        return
    if id(value) in above:
        return
    above = above | {id(value)}
    kind = value if isinstance(value, type) else type(value)
    digest.update(f"<{kind.__module__}.{kind.__qualname__}".encode())
    for part in _parts(value):
        _feed(digest, part, above)
    digest.update(b">")


def _parts(value: Any) -> Iterable[Any]:
    """Return what an object is made of, as far as it decides what the object gives."""
    if isinstance(value, Mapping):
        kept = {key: own for key, own in value.items() if not _INCIDENTAL.fullmatch(str(key))}
        return _of_items(sorted(kept.items(), key=lambda item: repr(item[0])))
    if isinstance(value, Set):
        return sorted(map(repr, value))
    if isinstance(value, tuple | list):
        return _of_items(value)
    if isinstance(value, Tensor):
        return (tensors_digest([("", value)]),)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, type):
        return ()
    if isinstance(value, enum.Enum | re.Pattern | torch.dtype | torch.device | Path):
        return (str(value),)
    return _of_code(value) or _of_object(value)


def _of_code(value: Any) -> Iterable[Any]:
    """Return what a function is made of, nothing for other objects."""
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, types.CodeType):
        return (value.co_code, value.co_names, value.co_consts)
    if not isinstance(value, types.FunctionType):
        return ()
    # The globals of its module that it names: constants and other functions.
    named = (value.__globals__.get(name) for name in value.__code__.co_names)
    used = [own for own in named if type(own) in (*_SIMPLE, tuple, list, dict) or _is_of(value, own)]
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    return (value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells, used)


def _is_of(function: types.FunctionType, other: Any) -> bool:
    return isinstance(other, types.FunctionType) and other.__module__ == function.__module__


def _of_items(items: Iterable[Any]) -> Iterable[Any]:
    """Return items, those of a vocabulary as one text."""
    items = list(items)
    if len(items) < 1000:
        return items
    flat = [part for item in items for part in (item if type(item) is tuple else (item,))]
    return (repr(items),) if all(type(part) in _SIMPLE for part in flat) else items


def _of_object(value: Any) -> Iterable[Any]:
    if callable(to_str := getattr(value, "to_str", None)):  # a tokenizer of the library `tokenizers`
        # How it truncates and pads is set by every call: it stands before the rest.
        text: str = to_str()
        return (text[max(text.find('"added_tokens"'), 0) :],)
    if callable(model := getattr(value, "serialized_model_proto", None)):  # of sentencepiece
        return (model(),)
    if callable(to_dict := getattr(value, "to_dict", None)):  # an image processor of transformers
        return (to_dict(),)
    if (backend := getattr(value, "backend_tokenizer", None)) is not None:  # a fast one of transformers
        simple = {k: own for k, own in vars(value).items() if type(own) in (bool, int) or k.endswith("_side")}
        return (backend, simple, repr(value.special_tokens_map))
    if state := getattr(value, "__dict__", None):
        return (dict(state),)
    text = repr(value)
    return () if " at 0x" in text else (text,)
