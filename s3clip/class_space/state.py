"""A class space in a state dict: its embeddings as tensors, all else as JSON, checked when it is read."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from s3clip.backbone.identity import checked_parts
from s3clip.class_space.examples import Examples, FewShotReport, LearnedResidual
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
        "classes": [each.record() for each in space.classes],
        "config": space.config.model_dump(),
        "templates": space.templates,
        "fitted_logit_scale": space.fitted_logit_scale,
        "calibration": space.calibration and space.calibration.model_dump(),
        **few_shot_settings(space.few_shot),
        "backbone": backbone,
        "class_shares": space.class_shares,
    }


def few_shot_settings(kept: Examples | LearnedResidual | None) -> dict[str, Any]:
    """Return all but the tensors of labelled images, or of what was learned of them."""
    return {
        "few_shot": None if kept is None or kept.report is None else kept.report.model_dump(mode="json"),
        "examples": None
        if not isinstance(kept, Examples)
        else {"logit_scale": kept.logit_scale, "false_accept_rate": kept.false_accept_rate},
    }


def further_tensors(space: ClassSpace) -> dict[str, Tensor]:
    """Return the tensors of a class space that not every one has, by their names in files."""
    negatives = {} if space.negatives is None else {"negatives": space.negatives}
    return negatives | _few_shot_tensors(space.few_shot)


def _few_shot_tensors(kept: Examples | LearnedResidual | None) -> dict[str, Tensor]:
    """Return the tensors of labelled images, or of what was learned of them, by their names in files."""
    if kept is None:
        return {}
    if isinstance(kept, Examples):
        return {"examples.embeds": kept.embeds, "examples.labels": kept.labels}
    return {"residual.weights": kept.weights, "residual.bias": kept.bias}


_FEW_SHOT_TENSORS = ("examples.embeds", "examples.labels", "residual.weights", "residual.bias")
FURTHER_TENSORS = ("negatives", *_FEW_SHOT_TENSORS)
"""What `further_tensors` may name."""


class ExamplesState(BaseModel):
    """What a file says of labelled images beside the tensors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    logit_scale: float
    false_accept_rate: float


def few_shot_of(
    report: FewShotReport | None, examples: ExamplesState | None, tensors: Mapping[str, Tensor | None]
) -> Examples | LearnedResidual | None:
    """Return the part of `few_shot_settings` and of `further_tensors`.

    Raises:
        ValueError: parts that do not belong together. (Whether they fit the classes, the class space says.)
    """
    found = {name: tensors.get(name) for name in _FEW_SHOT_TENSORS}
    embeds, labels, weights, bias = (found[name] for name in _FEW_SHOT_TENSORS)
    there = [name for name in _FEW_SHOT_TENSORS if found[name] is not None]
    if examples is not None and embeds is not None and labels is not None and len(there) == 2:
        return Examples(embeds, labels, examples.logit_scale, examples.false_accept_rate, report)
    if examples is None and report is not None and weights is not None and bias is not None:
        if len(there) == 2:
            return LearnedResidual(weights, bias, report)
    if there or examples is not None or report is not None:
        raise ValueError(f"few_shot: what is said of labelled images does not go with the tensors {there}")
    return None


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
    few_shot: FewShotReport | None = None
    examples: ExamplesState | None = None


def from_state(content: Any, raw: Tensor, owners: Tensor, further: Mapping[str, Tensor | None]) -> ClassSpace:
    """Return the class space of which `to_state` was called, with its (texts, dim) embeddings.

    Args:
        content: as JSON gave it, from whomever.
        raw: the embeddings.
        owners: (texts,) int64, the class of each row.
        further: those of `FURTHER_TENSORS` that there are, by their names.

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
    for name, part in (("text_embeddings", raw), *further.items()):
        if part is None or part.device.type == "meta":
            continue
        if part.untyped_storage().nbytes() < part.numel() * part.element_size():
            raise ValueError(f"{name}: {tuple(part.shape)} numbers are more than are stored")
    # Copies, as those that torch loads: the state dict stays its owner's.
    further = {name: part if part is None else part.clone() for name, part in further.items()}
    space = ClassSpace(
        raw=raw.clone(),
        classes=tuple(state.classes),
        config=state.config,
        templates=None if state.templates is None else tuple(state.templates),
        backbone=facts,
        fitted_logit_scale=state.fitted_logit_scale,
        calibration=state.calibration,
        few_shot=few_shot_of(state.few_shot, state.examples, further),
        negatives=further.get("negatives"),
        class_shares=state.class_shares,
    )
    if owners.dtype != torch.int64 or not torch.equal(owners.to(raw.device), space.owners):
        raise ValueError("owners: they are not those of the classes, one number a row, ascending")
    return space


def _as_tensor(rows: list[Any]) -> Tensor:
    """Return what `to_state` made a list of: embeddings, or the bytes of a digest."""
    found = torch.tensor(rows, device="cpu")
    return found if found.is_floating_point() else found.to(torch.uint8)
