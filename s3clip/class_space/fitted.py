"""A class space ready to answer: the value and what is built of it, and the module that holds them."""

import json
import warnings
from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from s3clip.class_space.state import from_state, to_state
from s3clip.class_space.value import Calibration, ClassSpace, FittedClass
from s3clip.config import HeadConfig
from s3clip.files.json import checked, parse_json
from s3clip.space.built import BuiltSpace
from s3clip.space.folding import FoldedSpace
from s3clip.space.synonymous_space import SynonymousSpace


class _Unfitted(BaseModel):
    config: HeadConfig


class FittedSpace(nn.Module):
    """A class space and what is built of it: made whole, so that a head takes it in one assignment.

    Args:
        value: the class space; `value.raw` and the buffers stay one, wherever the module is moved.
        device: where it goes; None: where `value.raw` is.
        fused: as for the head.
        progress: as for `ClassSpace.build`.
    """

    def __init__(
        self,
        value: ClassSpace,
        *,
        device: torch.device | None = None,
        fused: bool = False,
        progress: bool | None = None,
    ) -> None:
        super().__init__()
        # Half precision stores a direction to 3 digits only: keep what comes exactly, and at least float32.
        precise = torch.promote_types(value.raw.dtype, torch.float32)
        value = replace(value, raw=value.raw.detach().to(device=device, dtype=precise))
        config = value.config
        self.built = BuiltSpace(
            value.build(progress), config.metric, config.metric_options, raw=value.raw, fused=fused
        )
        self.value = value
        # Plain numbers for `forward`, which compilers read.
        self.fixed_scale = value.fixed_logit_scale
        self.known_scale: float | None = None
        self.known_bias: float | None = None
        if value.backbone is not None:
            self.known_scale, self.known_bias = value.backbone.logit_scale, value.backbone.logit_bias

    def _apply(self, fn: Any, recurse: bool = True) -> "FittedSpace":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.value = replace(self.value, raw=self.built.raw)
        return self


class ClassSpaceModule(nn.Module):
    """A module that holds a class space, or none yet: taken whole, moved, saved in a state dict, loaded.

    Args:
        config: the settings of the first fit.
        fused: use the Triton kernel of `s3clip.space.kernels` where it can be used; not saved.
    """

    _fitted: FittedSpace | None

    def __init__(self, config: HeadConfig, *, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self._unfitted_config = config
        # Known as a module from the start: taking a class space is then one assignment, which is done or not.
        self.register_module("_fitted", None)

    @property
    def config(self) -> HeadConfig:
        """The settings; `reconfigure` changes them."""
        return self._unfitted_config if self._fitted is None else self._fitted.value.config

    @property
    def classes(self) -> list[FittedClass]:
        """The classes with their ids and texts, in the order of the logits; none before a fit."""
        return [] if self._fitted is None else list(self._fitted.value.classes)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the logits; none before a fit."""
        return [each.name for each in self.classes]

    @property
    def templates(self) -> tuple[str, ...] | None:
        """The prompt templates of the fit; None before it, and where only embeddings were given."""
        return None if self._fitted is None else self._fitted.value.templates

    @property
    def text_embeddings(self) -> Tensor | None:
        """(texts, dim) raw text embeddings; None before a fit."""
        return None if self._fitted is None else self._fitted.built.raw

    @property
    def space(self) -> SynonymousSpace:
        """The spaces of all classes; a view of the head's buffers.

        Raises:
            ValueError: the head is not fitted.
        """
        return self._checked().built.space

    @property
    def folded(self) -> FoldedSpace:
        """The rows and tables by which images are scored. Raises ValueError where the head is not fitted."""
        return self._checked().built.folded

    @property
    def calibration(self) -> Calibration | None:
        """How logits become probabilities, where something was fitted; None drops it."""
        return None if self._fitted is None else self._fitted.value.calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        if self._fitted is not None or calibration is not None:
            self._checked().value = replace(self._value(), calibration=calibration)

    def get_extra_state(self) -> Tensor:
        """Return what a state dict holds besides tensors, names, texts and settings, as the bytes of JSON."""
        settings = {"config": self.config.model_dump()}
        state = settings if self._fitted is None else to_state(self._fitted.value)
        return torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave, with the embeddings that are being loaded."""
        if not isinstance(state, Tensor):
            raise ValueError("state_dict: made by an older s3clip; save the head with save_pretrained there")
        if state.dtype != torch.uint8 or state.ndim != 1:
            raise ValueError(f"state_dict: expected bytes of JSON, got {tuple(state.shape)} {state.dtype}")
        content = parse_json(bytes(state.cpu().numpy().data), "state_dict")
        raw, owners = self.__dict__.pop("_loading", (None, None))
        if (raw is None) != (owners is None):
            raise ValueError("state_dict: text_embeddings and owners belong together, and one is missing")
        if raw is None:
            config = checked(content, _Unfitted, "state_dict").config
            self._unfitted_config, self._fitted = config, None
            return
        space = from_state(content, raw, owners)
        if self._fitted is not None and space.class_names != self.class_names:
            raise ValueError(
                f"state_dict: it holds {len(space.classes)} classes {space.class_names[:3]}, this head is "
                f"fitted to {len(self.classes)} others {self.class_names[:3]}; load it into an unfitted head"
            )
        self._take(space)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._fitted is not None:
            raw, owners = self._fitted.built.raw, self._fitted.built.owners
            destination[f"{prefix}text_embeddings"] = raw if keep_vars else raw.detach()
            destination[f"{prefix}owners"] = owners if keep_vars else owners.detach()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        names = [f"{prefix}text_embeddings", f"{prefix}owners"]
        self._loading = tuple(state_dict.get(name) for name in names)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        self.__dict__.pop("_loading", None)  # still there where the state dict has no extra state
        unexpected[:] = [key for key in unexpected if key not in names]

    def _value(self) -> ClassSpace:
        return self._checked().value

    def _checked(self) -> FittedSpace:
        if self._fitted is None:
            raise ValueError("the head is not fitted: call fit_classes() or fit_embeddings() first")
        return self._fitted

    def _take(self, space: ClassSpace, *, progress: bool | None = None) -> Self:
        """Build what follows from a class space, then take both at once, or leave everything as it was."""
        fitted = FittedSpace(space, device=self._device(), fused=self.fused, progress=progress)
        fitted.train(self.training)
        forgotten = self.calibration is not None and space.calibration is None
        self._fitted = fitted
        if forgotten:
            warnings.warn(
                "the calibration was of other classes or settings and is dropped; calibrate() again",
                stacklevel=3,
            )
        return self

    def _device(self) -> torch.device | None:
        """Where the buffers belong; None: where the embeddings lie that are taken."""
        return None
