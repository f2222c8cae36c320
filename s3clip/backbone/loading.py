"""From a name to a dual encoder and its processor, by the library that reads it.

What a name without a scheme is, its files say: a model of transformers, one of sentence-transformers, an
adapter of PEFT. Libraries are imported when something is loaded.
"""

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import EntryNotFoundError
from pydantic import BaseModel, Field
from torch import nn

from s3clip.backbone.families import CLIP
from s3clip.backbone.names import ModelName, is_public
from s3clip.backbone.open_clip_loading import CONFIG as OPEN_CLIP_CONFIG
from s3clip.backbone.open_clip_loading import load_open_clip
from s3clip.backbone.towers import SCALES
from s3clip.files.hub import ACCESS, commit_of, fetch, find_model
from s3clip.files.json import checked, read_json

# Arguments of `from_pretrained` that say where files come from, which the processor needs too.
_HUB_ARGUMENTS = (*ACCESS, "force_download", "subfolder", "trust_remote_code")

_TRANSFORMERS, _ADAPTER, _MODULES = "config.json", "adapter_config.json", "modules.json"
_KINDS = (_TRANSFORMERS, _ADAPTER, _MODULES, OPEN_CLIP_CONFIG)
"""The file that each library knows its models by. Where there are several, the first one counts."""


class Loaded(NamedTuple):
    """A model in evaluation mode, its processor, and what both are called.

    Attributes:
        model: a dual encoder.
        processor: as `Backbone` takes it.
        name: by which it is found again.
        revision: the commit, where it is known; else what was asked for.
    """

    model: nn.Module
    processor: Any
    name: str
    revision: str | None


def load(
    name: str | os.PathLike[str],
    revision: str | None,
    place: dict[str, Any],
    text_tower: bool,
    **kwargs: Any,
) -> Loaded:
    """Return the model of `Backbone.from_pretrained`, in evaluation mode, and its processor.

    `place` are arguments of `torch.nn.Module.to`. Without `text_tower` it may still be there: not every
    family allows to leave it out.
    """
    read = ModelName.read(name)
    place, dtype = _of_dtype(place)
    if revision is not None and read.scheme in (None, "local-dir") and Path(read.place).is_dir():
        warnings.warn(
            f"revision: {read.place} is a folder, which has none; {revision!r} is not used", stacklevel=4
        )
        revision = None
    if read.scheme is not None:
        if dtype:
            raise ValueError(
                f'dtype: open_clip does not say the type of {read.text}; give one, not "checkpoint"'
            )
        model, processor, commit = load_open_clip(read, revision, **kwargs)
        return Loaded(_placed(model, place), processor, read.text, commit)
    return _without_scheme(read.place, revision, place, text_tower, dtype, kwargs)


def explain(error: Exception, name: str | os.PathLike[str], revision: str | None, **kwargs: Any) -> None:
    """Add to an error that a name is an open_clip model too, where it failed as one of transformers."""
    if isinstance(error, ConnectionError | FileNotFoundError):
        return
    name = os.fspath(name)
    hub: dict[str, Any] = {key: kwargs[key] for key in ACCESS if key in kwargs}
    if all(_has(name, file, revision, hub) for file in (_TRANSFORMERS, OPEN_CLIP_CONFIG)):
        error.add_note(f"({_as_open_clip(name, 'is a model of open_clip as well')})")


def _as_open_clip(name: str, what: str) -> str:
    scheme = "local-dir" if Path(name).is_dir() else "hf-hub"
    return f"{name} {what}; as that, its name is {scheme}:{name}"


def _without_scheme(
    name: str,
    revision: str | None,
    place: dict[str, Any],
    text_tower: bool,
    dtype: dict[str, Any],
    kwargs: dict[str, Any],
) -> Loaded:
    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
    is_folder, kind, from_cache = Path(name).is_dir(), _TRANSFORMERS, False
    if "subfolder" not in hub and (is_folder or hub.get("local_files_only")):
        kind = _kind(name, revision, hub)
    if kind == _TRANSFORMERS and not is_folder:
        try:
            commit, from_cache = find_model(name, revision=revision, **hub)
            revision = commit or revision
        except EntryNotFoundError:
            if "subfolder" not in hub:
                kind = _kind(name, revision, hub)
    if kind == OPEN_CLIP_CONFIG:
        raise ValueError(f"name: {_as_open_clip(name, 'is no model of transformers, but one of open_clip')}")
    if kind == _ADAPTER:
        return _load_adapter(name, revision, place, dtype, kwargs)
    if "merge_adapter" in kwargs:
        raise ValueError(f"merge_adapter: {name} is no adapter of PEFT: there is nothing to merge")
    if kind == _MODULES:
        subfolder = _folder_of_transformer(name, revision, hub)
        return _without_scheme(name, revision, place, text_tower, dtype, {**kwargs, "subfolder": subfolder})
    if from_cache:
        kwargs = {**kwargs, "local_files_only": True}
    model, processor = _load_transformers(name, revision, text_tower, {**kwargs, **dtype})
    return Loaded(_placed(model, place), processor, name, revision)


def _placed(model: nn.Module, place: dict[str, Any]) -> nn.Module:
    scales = {name: own.data for name, own in model.named_parameters(recurse=False) if name in SCALES}
    model = model.to(**place) if place else model
    for name, value in scales.items():  # rounded, they would move every score
        parameter = getattr(model, name)
        parameter.data = value.to(parameter.device)
    return model.eval()


def _kind(name: str, revision: str | None, hub: dict[str, Any]) -> str:
    """Return which of `_KINDS` a folder or a repository has, the first of them where it has none."""
    return next((file for file in _KINDS if _has(name, file, revision, hub)), _TRANSFORMERS)


def _has(name: str, file: str, revision: str | None, hub: dict[str, Any]) -> bool:
    try:
        return _file(name, file, revision, hub).is_file()
    except (OSError, ValueError):  # no such file, no such name; whoever loads it says what is wrong
        return False


def _file(name: str, file: str, revision: str | None, hub: dict[str, Any]) -> Path:
    """Return a file of a folder or a repository."""
    if Path(name).is_dir():
        return Path(name) / file
    asked = {key: value for key, value in hub.items() if key in ACCESS}
    return fetch(name, file, revision=revision, force=hub.get("force_download", False), **asked)


class _Module(BaseModel):
    type: str
    path: str = Field(pattern=r"^\w[\w.-]*$")


def _folder_of_transformer(name: str, revision: str | None, hub: dict[str, Any]) -> str:
    """Return the folder in which a model of sentence-transformers keeps its transformers model.

    Raises:
        ValueError: what comes after that model changes embeddings, which we would leave out.
    """
    path = _file(name, _MODULES, revision, hub)
    first, *others = (checked(each, _Module, f"{name}/{_MODULES}") for each in read_json(path))
    after = [each.type.split(".")[-1] for each in others]
    if set(after) - {"Normalize"}:
        raise ValueError(
            f"name: {name} is a model of sentence-transformers with {', '.join(after)} after its "
            f"{first.type.split('.')[-1]}: its space is not that of a dual encoder; name one that has a "
            "CLIPModel alone, such as sentence-transformers/clip-ViT-B-32"
        )
    return first.path


class _Adapter(BaseModel):
    base_model_name_or_path: str | None = None
    revision: str | None = None


def _load_adapter(
    name: str, revision: str | None, place: dict[str, Any], dtype: dict[str, Any], kwargs: dict[str, Any]
) -> Loaded:
    """Return the base of an adapter of PEFT with the adapter in it, or merged into it."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"name: {name} is an adapter of PEFT: pip install 's3clip[peft]'") from error
    merge = kwargs.pop("merge_adapter", False)
    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
    path = _file(name, _ADAPTER, revision, hub)
    about = checked(read_json(path), _Adapter, f"{name}/{_ADAPTER}")
    base = about.base_model_name_or_path
    if base is None:
        raise ValueError(
            f"name: {name}/{_ADAPTER} does not name the base of the adapter; load both yourself and pass "
            "Backbone(peft_model, processor)"
        )
    of_hub = not Path(name).is_dir()
    if of_hub and not is_public(base):
        raise ValueError(
            f"name: the base of {name}, {base!r}, is no repository of the Hub; load both yourself and pass "
            "Backbone(peft_model, processor)"
        )
    if _kind(base, about.revision, hub) == _ADAPTER:
        raise ValueError(f"name: the base of {name}, {base!r}, is an adapter itself; merge that one first")
    loaded = load(base, about.revision, place, True, **kwargs, **dtype)
    if of_hub and not _has(name, "adapter_model.safetensors", revision, hub):
        _file(name, "adapter_model.bin", revision, hub)
    model: Any = PeftModel.from_pretrained(loaded.model, str(path.parent))
    model = model.merge_and_unload() if merge else model
    return Loaded(model.eval(), loaded.processor, name, commit_of(path) or revision)


def _load_transformers(
    name: str, revision: str | None, text_tower: bool, kwargs: dict[str, Any]
) -> tuple[nn.Module, Any]:
    from transformers import AutoImageProcessor, AutoModel, AutoProcessor

    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
    kwargs["revision"] = revision or "main"
    model = None if text_tower else _without_text_tower(name, hub, kwargs)
    if model is None:
        model, loaded = AutoModel.from_pretrained(name, output_loading_info=True, **kwargs)
        # A BLIP captioner opens as BlipModel with random projections, and only a log line says so.
        if missing := sorted(loaded["missing_keys"]):
            raise ValueError(
                f"name: the checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__} (the "
                f"first: {missing[0]!r}), so it is not one of a dual encoder; name a checkpoint trained as "
                "one, or load the model yourself and pass it as Backbone(model, processor)"
            )
    processors: Any = AutoProcessor if text_tower else AutoImageProcessor
    processor = processors.from_pretrained(name, revision=revision or "main", **hub)
    return model, processor if text_tower else (None, processor)


def _without_text_tower(name: str, hub: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """Return the dual encoder of a checkpoint with a text tower of no layers and hardly any vocabulary.

    transformers then reads the weights of the rest alone. None where that leaves out more than the text side,
    or the configuration is not known well enough.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(name, revision=kwargs["revision"], **hub)
    texts: Any = getattr(config, "text_config", None)
    if not all(isinstance(getattr(texts, key, None), int) for key in ("num_hidden_layers", "vocab_size")):
        return None
    texts.num_hidden_layers = 0
    padding = getattr(texts, "pad_token_id", None)
    texts.vocab_size = (padding if isinstance(padding, int) else 0) + 1
    level = logging.get_verbosity()
    # Its warnings would be of weights that are left out, which is what we are here for.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model, loaded = AutoModel.from_pretrained(
            name, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
        )
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None  # of families that cannot be built so; the whole model says what is wrong, if anything
    finally:
        logging.set_verbosity(level)
    mismatched = (each if isinstance(each, str) else each[0] for each in loaded["mismatched_keys"])
    is_text = tuple(f"{part}." for part in CLIP.text_side)
    return model if all(key.startswith(is_text) for key in (*loaded["missing_keys"], *mismatched)) else None


def _of_dtype(place: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `place` with a type for its name, and what "checkpoint" asks of transformers instead."""
    import transformers

    dtype = place.get("dtype")
    if dtype == "auto":  # to transformers what is "checkpoint" here
        raise ValueError(
            'dtype: "auto" tries types with images, as --dtype and s3clip.bulk.label do; here "checkpoint" '
            "is the type that the weights were saved in"
        )
    if dtype == "checkpoint":
        named = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
        return {key: value for key, value in place.items() if key != "dtype"}, {named: "auto"}
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(
            f'dtype: expected a floating type of torch, its name ("bfloat16") or "checkpoint", got {dtype!r}'
        )
    return {**place, "dtype": found} if dtype is not None else place, {}


def halves(processor: Any) -> tuple[Any, Any]:
    """Return the text half and the image half of a processor or a pair, None for what is missing.

    Raises:
        TypeError: it is neither.
    """
    if processor is None:
        return None, None
    if isinstance(processor, tuple):
        if len(processor) != 2:
            raise TypeError(
                f"processor: expected a pair (tokenizer, image_processor), got {len(processor)} values"
            )
        if hasattr(processor[0], "image_mean") or hasattr(processor[1], "convert_tokens_to_ids"):
            raise TypeError(
                "processor: expected the pair (tokenizer, image_processor), got the two the other way round"
            )
        return processor
    parts = getattr(processor, "tokenizer", None), getattr(processor, "image_processor", None)
    if parts == (None, None):
        raise TypeError(
            "processor: expected a processor of transformers, with a tokenizer and an image_processor, or "
            f"the pair (tokenizer, image_processor), got {type(processor).__name__}"
        )
    return parts
