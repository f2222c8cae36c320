"""Models of open_clip by their names. Files of the Hub are fetched by us: by revision, or from the cache."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import EntryNotFoundError
from pydantic import BaseModel
from torch import nn

from s3clip.arguments import did_you_mean
from s3clip.backbone.names import ModelName
from s3clip.files.hub import ACCESS, commit_of, fetch, is_hub_name
from s3clip.files.json import checked, read_json

CONFIG = "open_clip_config.json"

# In the order in which open_clip itself looks for them.
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)


class _TextConfig(BaseModel):
    context_length: int = 77
    hf_model_name: str | None = None
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] = {}


class _ModelConfig(BaseModel):
    text_cfg: _TextConfig


class _Config(BaseModel):
    """What decides on the tokenizer in an open_clip_config.json."""

    model_cfg: _ModelConfig


def load_open_clip(
    name: ModelName, revision: str | None, **kwargs: Any
) -> tuple[nn.Module, tuple[Any, Any], str | None]:
    """Return a model of open_clip, the pair (tokenizer, preprocess), and the commit that it came from.

    Args:
        name: with a scheme.
        revision: branch, tag or commit of a repository.
        **kwargs: `token`, `cache_dir`, `local_files_only` and `force_download` as everywhere; the others go
            to `open_clip.create_model_from_pretrained`.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: an architecture or a tag that open_clip does not know, or a revision where there is none.
    """
    open_clip = _library(name.text)
    hub = {key: kwargs.pop(key) for key in ACCESS if key in kwargs}
    force = kwargs.pop("force_download", False)
    if name.scheme == "hf-hub":
        config = fetch(name.place, CONFIG, revision=revision, force=force, **hub)
        folder = config.parent
        text = _text_config(folder, name.place)
        # Of the commit of the first: a branch may move between the two.
        _fetch_weights(name.place, folder.name, force=force, **hub)
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", **kwargs)
        return model, (_tokenizer(open_clip, name.place, folder, text, hub), preprocess), commit_of(config)
    if revision is not None:
        raise ValueError(f"revision: {name.text} is not of a repository of the Hub")
    if name.scheme == "local-dir":
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{name.place}", **kwargs)
        return model, (open_clip.get_tokenizer(f"local-dir:{name.place}"), preprocess), None
    _check_listed(open_clip, name)
    cache = {key: value for key, value in hub.items() if key == "cache_dir"}
    model, preprocess = open_clip.create_model_from_pretrained(name.place, name.tag, **cache, **kwargs)
    return model, (open_clip.get_tokenizer(name.place, **cache), preprocess), None


def _library(name: str) -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            f"name: {name} is a model of open_clip, and that cannot be imported ({error}): "
            "pip install 's3clip[open_clip]'"
        ) from error
    if not hasattr(open_clip.factory, "parse_model_name"):
        raise ImportError(f"name: {name} needs open_clip 3 or newer: pip install -U 's3clip[open_clip]'")
    return open_clip


def _fetch_weights(repository: str, commit: str, **hub: Any) -> None:
    for file in _WEIGHTS:
        try:
            fetch(repository, file, revision=commit, **hub)
            return
        except EntryNotFoundError:
            continue
    raise ValueError(f"name: hf-hub:{repository} has none of the files of weights {', '.join(_WEIGHTS)}")


def _text_config(folder: Path, repository: str) -> _TextConfig:
    """Return the text half of a configuration, which may name other repositories, and no path."""
    where = f"hf-hub:{repository}/{CONFIG}"
    text = checked(read_json(folder / CONFIG), _Config, where).model_cfg.text_cfg
    for key in ("hf_model_name", "hf_tokenizer_name"):
        named = getattr(text, key)
        if named and not is_hub_name(named):
            raise ValueError(f"name: {where}: {key} {named!r} is no repository of the Hub")
    return text


def _tokenizer(open_clip: Any, repository: str, folder: Path, text: _TextConfig, hub: dict[str, Any]) -> Any:
    """Return the tokenizer that open_clip makes for a repository: of `local-dir:` it looks in the folder."""
    if not text.hf_tokenizer_name:
        return open_clip.get_tokenizer(f"local-dir:{folder}")
    if text.hf_tokenizer_name == repository:
        hub = {**hub, "revision": folder.name}
    return open_clip.tokenizer.HFTokenizer(
        text.hf_tokenizer_name,
        context_length=text.context_length,
        tokenizer_mode=text.tokenizer_mode,
        **text.tokenizer_kwargs,
        **hub,
    )


def _check_listed(open_clip: Any, name: ModelName) -> None:
    """Raise ValueError for an architecture or a tag that open_clip does not list, and say what is near."""
    architectures = open_clip.list_models()
    if name.place not in architectures:
        near = did_you_mean(name.place, architectures, "open_clip.list_models() has all that there are")
        raise ValueError(f"name: open_clip has no architecture {name.place!r}; {near}")
    tags = open_clip.list_pretrained_tags_by_model(name.place)
    if name.tag not in tags and not Path(str(name.tag)).is_file():
        raise ValueError(
            f"name: open_clip has no weights {name.tag!r} for {name.place}; its tags are "
            f"{', '.join(tags) or 'none'}, and the path of a file of weights will do"
        )
