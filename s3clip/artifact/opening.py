"""A saved class space found, in a folder or on the Hub, with the backbone that it names."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3clip.artifact.folder import load_artifact, named_backbone
from s3clip.artifact.hub import load_from_hub
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.identity import check_fingerprint
from s3clip.class_space import BackboneReference, ClassSpace
from s3clip.files.addresses import checked_path
from s3clip.files.hub import is_repository


def open_artifact(
    repo_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    backbone: Any = "saved",
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    **hub: Any,
) -> tuple[ClassSpace, Backbone | None]:
    """Return a saved class space, and the backbone to go with it.

    Args:
        repo_or_path: a folder that `save_pretrained` wrote, or a repository of the Hub ("user/name") that
            `push_to_hub` wrote. A folder goes first.
        revision: branch, tag or commit of the repository.
        backbone: "saved" loads the backbone that the artifact names (none, if it never had one); another name
            or folder is loaded, a model or a `Backbone` taken; None: none.
        processor: the processor that goes with a model.
        device: where to put a backbone that is loaded.
        dtype: of the parameters of a backbone that is loaded.
        hub: `token` of the Hub, also for the backbone (None: the one of `hf auth login`), `cache_dir` for the
            Hub's files, `local_files_only` to ask the Hub for nothing.

    Raises:
        FileNotFoundError: no such folder, or no artifact in it.
        ValueError: a broken artifact, a newer format, a backbone of another dimension, or a revision of a
            folder. (The head compares fingerprints.)
        OSError: the Hub's own errors.
    """
    if is_hub := is_repository(where := checked_path(repo_or_path, "repo_or_path")):
        space = load_from_hub(where, revision=revision, **hub)
    elif revision is not None:
        raise ValueError(f"revision: {where} is a folder, or no repository of the form user/name")
    else:
        space = load_artifact(Path(repo_or_path))
    if isinstance(backbone, str | os.PathLike):
        name, saved_revision = os.fspath(backbone), None
        if name == "saved":
            name, saved_revision = named_backbone(space, where, of_hub=is_hub)
        backbone = None
        if name is not None:
            backbone = Backbone.from_pretrained(
                name, revision=saved_revision, dtype=dtype, device=device, text_tower=False, **hub
            )
    elif backbone is not None and not isinstance(backbone, Backbone):
        backbone = Backbone(backbone, processor)
    if backbone is not None and space.raw.shape[1] != backbone.dim:
        raise ValueError(
            f"{where}: made with a backbone of dimension {space.raw.shape[1]}, this one has {backbone.dim}; "
            f"give the backbone it names, or fit the classes again"
        )
    return space, backbone


def open_text_tower(
    reference: BackboneReference, known: dict[str, Tensor], *, adding: bool, **hub: Any
) -> Backbone:
    """Load the whole of a backbone whose text tower is missing.

    Args:
        reference: what it is called.
        known: its fingerprint, with which the one that is loaded must agree.
        adding: whether its texts are to stand beside others, which the same text tower must have encoded.
        hub: as for `open_artifact`.

    Raises:
        ValueError: it has no name, or another backbone has it now.
    """
    if reference.name is None:
        raise ValueError(
            "classes: this head has no text tower, and its backbone has no name to load one by; "
            "build the head on the whole model again"
        )
    if adding and "texts" not in known:
        raise ValueError(
            "classes: nothing says which text tower encoded those that are there, so none can be added; fit "
            "all of them again"
        )
    whole = Backbone.from_pretrained(reference.name, revision=reference.revision, **hub)
    check_fingerprint(known, whole.fingerprint(), reference.name)
    return whole
