"""From a name to a dual encoder and its processor. transformers is imported when something is loaded."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from s3clip.backbone.families import CLIP
from s3clip.files.hub import stands_in_cache

# Arguments of `from_pretrained` that say where files come from, which the processor needs too.
_HUB_ARGUMENTS = "token cache_dir local_files_only force_download subfolder trust_remote_code".split()


def load(
    name: str, revision: str | None, place: dict[str, Any], text_tower: bool, **kwargs: Any
) -> tuple[nn.Module, Any]:
    """Return the model of `Backbone.from_pretrained`, in evaluation mode, and its processor.

    `place` are arguments of `torch.nn.Module.to`. Without `text_tower` it may still be there: not every
    family allows to leave it out.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoProcessor

    # Else transformers says that it is no valid name of a repository.
    is_path = name.startswith((".", "/", "~")) or "\\" in name or name[1:2] == ":"
    if is_path and not Path(name).is_dir():
        raise FileNotFoundError(f"name: there is no folder {name!r}; give that of a model, or a Hub id")
    if (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file():
        raise ValueError(
            f"name: {name} holds an adapter of PEFT, not a model; merge it into its base model "
            "(PeftModel.from_pretrained(base, name).merge_and_unload()) and pass Backbone(model, processor)"
        )
    place, asked = _of_dtype(place)
    kwargs |= asked
    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
    kwargs["revision"] = revision or "main"
    if not Path(name).is_dir() and stands_in_cache(name, revision=revision, **hub):
        hub["local_files_only"] = kwargs["local_files_only"] = True
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
    if place:
        model = model.to(**place)
    commit = getattr(model.config, "_commit_hash", None) or revision
    processors: Any = AutoProcessor if text_tower else AutoImageProcessor
    processor = processors.from_pretrained(name, revision=commit or "main", **hub)
    return model.eval(), processor if text_tower else (None, processor)


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
    """Return `place` with a type in the place of its name, and what "auto" asks of transformers instead."""
    import transformers

    dtype = place.get("dtype")
    if dtype == "auto":
        named = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
        return {key: value for key, value in place.items() if key != "dtype"}, {named: "auto"}
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(
            f'dtype: expected a floating type of torch, its name ("bfloat16") or "auto", got {dtype!r}'
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
