"""A class space in a state dict: its embeddings as tensors, all else as JSON, checked when it is read."""

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from s3clip.backbone.identity import checked_parts
from s3clip.class_space.value import (
    Activation,
    BackboneFacts,
    BackboneReference,
    Calibration,
    ClassSpace,
    FittedClass,
    Name,
)
from s3clip.config import SavedConfig
from s3clip.files.json import checked


def to_state(space: ClassSpace) -> dict[str, Any]:
    """Return all but the embeddings as JSON can hold it, for a state dict."""
    facts = space.backbone
    backbone = facts and {
        **vars(facts),
        "reference": facts.reference.model_dump(),
        "fingerprint": {part: vectors.tolist() for part, vectors in facts.fingerprint.items()},
    }
    return {
        "classes": [each.model_dump() for each in space.classes],
        "config": space.config.model_dump(),
        "templates": space.templates,
        "fitted_logit_scale": space.fitted_logit_scale,
        "calibration": space.calibration and space.calibration.model_dump(),
        "backbone": backbone,
        "class_shares": space.class_shares,
    }


class _FactsState(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reference: BackboneReference
    activation: Activation
    logit_scale: float
    logit_bias: float | None
    fingerprint: dict[str, list[Any]]


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    classes: list[FittedClass]
    config: SavedConfig
    templates: list[Name] | None
    fitted_logit_scale: float | None
    calibration: Calibration | None
    backbone: _FactsState | None
    class_shares: tuple[float, ...] | None = None  # older state dicts have none


def from_state(content: Any, raw: Tensor, owners: Tensor) -> ClassSpace:
    """Return the class space of which `to_state` was called, with its (texts, dim) embeddings.

    Args:
        content: as JSON gave it, from whomever.
        raw: the embeddings.
        owners: (texts,) int64, the class of each row.

    Raises:
        ValueError: owners that are not those of the classes, or anything else that does not fit.
    """
    state = checked(content, _State, "state_dict")
    facts = None
    if (known := state.backbone) is not None:
        try:
            parts = {part: _as_tensor(rows) for part, rows in known.fingerprint.items()}
            fingerprint = checked_parts(parts, raw.shape[-1])
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"state_dict: fingerprint: expected rows of numbers ({error})") from None
        facts = BackboneFacts(
            known.reference, known.activation, known.logit_scale, known.logit_bias, fingerprint
        )
    # A tensor that was expanded takes a few bytes in a file, and all of its size once it is computed with.
    if raw.device.type != "meta" and raw.untyped_storage().nbytes() < raw.numel() * raw.element_size():
        raise ValueError(f"text_embeddings: {tuple(raw.shape)} numbers are more than are stored")
    space = ClassSpace(
        raw=raw,
        classes=tuple(state.classes),
        config=state.config,
        templates=None if state.templates is None else tuple(state.templates),
        backbone=facts,
        fitted_logit_scale=state.fitted_logit_scale,
        calibration=state.calibration,
        class_shares=state.class_shares,
    )
    if owners.dtype != torch.int64 or not torch.equal(owners.to(raw.device), space.owners):
        raise ValueError("owners: they are not those of the classes, one number a row, ascending")
    return space


def _as_tensor(rows: list[Any]) -> Tensor:
    """Return what `to_state` made a list of: embeddings, or the bytes of a digest."""
    found = torch.tensor(rows)
    return found if found.is_floating_point() else found.to(torch.uint8)
