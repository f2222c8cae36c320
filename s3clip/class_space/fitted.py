"""The module that holds a class space and what is built of it, and takes another one whole."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from s3clip.arguments import plain
from s3clip.class_space.edits import set_shares, teach
from s3clip.class_space.examples import Examples, FewShotReport
from s3clip.class_space.fitted_space import FittedSpace
from s3clip.class_space.shares import in_logits
from s3clip.class_space.state import FURTHER_TENSORS, from_state, further_tensors, to_state
from s3clip.class_space.value import Activation, BackboneFacts, Calibration, ClassSpace, FittedClass
from s3clip.config import HeadConfig, SavedConfig
from s3clip.files.json import checked, parse_json
from s3clip.space.folding import FoldedSpace
from s3clip.space.synonymous_space import SynonymousSpace
from s3clip.texts.groups import levels_of

_TENSORS = ("text_embeddings", "owners", *FURTHER_TENSORS)
"""Of a state dict."""

_DROPPED = {
    "calibration": "the calibration was of other classes, settings or labelled images and is dropped; "
    "calibrate() again",
    "few_shot": "the labelled images were of other classes and are dropped; fit_few_shot() again",
    "class_shares": "the class shares were of other classes and are dropped; set_class_shares() again",
}
"""What is said where a change takes a field of the class space away."""
_REJECTION_TOO = ". The rejection went with it; fit_rejection() again"


class _Unfitted(BaseModel):
    config: SavedConfig


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

    def __copy__(self) -> Self:
        """Return it as it is now, with the same tensors: what is taken later is taken by one of the two."""
        found = self.__class__.__new__(self.__class__)
        found.__dict__.update(self.__dict__, _modules=dict(self._modules))
        return found

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
    def levels(self) -> tuple[str, ...]:
        """The levels of the groups that classes are in, the widest first; none where there are no groups."""
        return levels_of(each.groups for each in self.classes)

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
        if not isinstance(calibration, Calibration | None):
            raise TypeError(f"calibration: expected a Calibration or None, got {type(calibration).__name__}")
        if self._fitted is not None or calibration is not None:
            self._take(replace(self._value(), calibration=calibration), asked=("calibration",))

    @property
    def class_shares(self) -> tuple[float, ...] | None:
        """How common each class is among the images, where `set_class_shares` said so."""
        return None if self._fitted is None else self._fitted.value.class_shares

    def set_class_shares(self, shares: Mapping[int | str, float] | None) -> Self:
        """Say how common the classes are among the images to come: all logits follow. None takes it back.

        The logit of class c gets temperature · log(share · classes) more, so that probabilities are those of
        Bayes' rule: what they were, times the share, divided by their sum. Where they are sigmoids, the odds
        of each class are multiplied by those of its share, over those of 1 / classes. Calibration and
        thresholds are of the logits without, so that it does not matter what comes first.

        Never guess: true shares gain many points of accuracy where classes are unequal, and wrong ones lose
        more. Rare classes are found less often than before in any case.

        Args:
            shares: of the images, by position or by name: {"shoe": 0.6, "hat": 0.1}. Classes that are not
                named have what is left, in equal parts.

        Returns:
            The head itself.

        Raises:
            TypeError, ValueError: see `s3clip.class_space.set_shares`.
        """
        before = self._value()
        self._take(set_shares(before, shares), asked=("class_shares",))
        if self.calibration != before.calibration:
            warnings.warn(
                "the coverage was of other class shares and is dropped; calibrate(coverage=) again",
                stacklevel=2,
            )
        return self

    @property
    def few_shot(self) -> FewShotReport | None:
        """What labelled images gained, and how many there are of each class; None without."""
        kept = None if self._fitted is None else self._fitted.value.few_shot
        return None if kept is None else kept.report

    @property
    def examples(self) -> Examples | None:
        """The labelled images, where there are some and they are kept."""
        kept = None if self._fitted is None else self._fitted.value.few_shot
        return kept if isinstance(kept, Examples) else None

    def residual(self, embeds: Tensor) -> Tensor | None:
        """Return (images, classes) what labelled images add to the logits; None where they add nothing.

        Args:
            embeds: (images, dim) of length one.
        """
        return self._checked().residual(embeds)

    def forget_examples(self) -> Self:
        """Take out labelled images and what was learned of them: logits are those of the words again."""
        return self._take(teach(self._value(), None), asked=("few_shot",))

    @property
    def activation(self) -> Activation:
        """How logits become probabilities, as far as the class space knows; else "softmax"."""
        return self._known_activation()

    @property
    def current_calibration(self) -> Calibration:
        """The calibration or, where there is none, what the model's own probabilities are.

        It is of the logits as they are: thresholds, kept for logits without the shares of classes, are moved.
        """
        calibration = self.calibration or self.uncalibrated
        offsets = self.share_offsets
        return calibration if offsets is None else calibration.shifted(offsets)

    @property
    def uncalibrated(self) -> Calibration:
        """What probabilities are without a calibration: the model's own.

        Where labelled images show none of the classes, with the threshold of logits that they ask for.
        """
        report = self.few_shot
        threshold = None if report is None else report.threshold
        if threshold is not None and (bias := plain(self.logit_bias)) is not None:
            # One step up: no sum of a lower logit with the bias rounds onto it.
            threshold = float(np.nextafter(np.float32(threshold + bias), np.float32(np.inf)))
        least = None if threshold is None else (threshold,)
        return Calibration(activation=self.activation, thresholds=least)

    @property
    def logit_bias(self) -> Tensor | float | None:
        """What is added to the logits, as far as the class space knows; None where there is none."""
        return self._known_bias()

    def _known_bias(self) -> float | None:
        return None if self._fitted is None else self._fitted.known_bias

    @property
    def share_offsets(self) -> Tensor | None:
        """(classes,) what `set_class_shares` adds to the logits; None: nothing."""
        offsets = None if self._fitted is None else self._fitted.share_offsets
        if offsets is None:
            return None
        known = self.calibration
        activation = self.activation if known is None else known.activation
        temperature = 1.0 if known is None else known.temperature
        return in_logits(offsets, activation, temperature)

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
        raw, owners, *further = self.__dict__.pop("_loading", (None,) * len(_TENSORS))
        if (raw is None) != (owners is None):
            raise ValueError("state_dict: text_embeddings and owners belong together, and one is missing")
        if raw is None:
            config = checked(content, _Unfitted, "state_dict").config
            self._unfitted_config, self._fitted = config, None
            return
        space = from_state(content, raw, owners, dict(zip(FURTHER_TENSORS, further, strict=True)))
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
            for name, part in further_tensors(self._fitted.value).items():
                destination[f"{prefix}{name}"] = part
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
        names = [f"{prefix}{name}" for name in _TENSORS]
        self._loading = tuple(state_dict.get(name) for name in names)
        try:
            super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
            # Still there where the state dict has no extra state, which says what they are.
            if "_loading" not in self.__dict__:
                unexpected[:] = [key for key in unexpected if key not in names]
        finally:
            self.__dict__.pop("_loading", None)

    def _known_activation(self) -> Activation:
        facts = None if self._fitted is None else self._fitted.value.backbone
        return "softmax" if facts is None else facts.activation

    def _known_facts(self) -> BackboneFacts | None:
        """What an artifact, or a text tower that was dropped, said of the backbone."""
        return None if self._fitted is None else self._fitted.value.backbone

    def _value(self) -> ClassSpace:
        return self._checked().value

    def _checked(self) -> FittedSpace:
        if self._fitted is None:
            raise ValueError("the head is not fitted: call fit_classes() or fit_embeddings() first")
        return self._fitted

    def _take(
        self,
        space: ClassSpace,
        asked: tuple[str, ...] = (),
        *,
        merged: ClassSpace | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Build what follows from a class space, then take both at once, or leave everything as it was.

        What does not change is not built again: classes are renamed, labelled images and shares given in no
        time that depends on the texts.

        Args:
            space: to be taken.
            asked: fields that were to go, of which nothing needs to be said.
            merged: another one that went into it, of which the same is said as of the head's own.
            progress: as for `ClassSpace.build`.
        """
        scale, taught = self._scale_of(space), space.few_shot
        if scale is None:
            raise ValueError(
                "logit_scale: a head without a backbone has none; give fit_embeddings(logit_scale=), or "
                "HeadConfig(logit_scale=...): the exp of the model's parameter, 100 for OpenAI's CLIP"
            )
        if isinstance(taught, Examples) and taught.report is None:
            space = replace(space, few_shot=replace(taught, logit_scale=plain(scale)))
        with torch.inference_mode(False), torch.no_grad():
            fitted = FittedSpace(
                space, before=self._fitted, device=self._device(), fused=self.fused, progress=progress
            )
        fitted.train(self.training)
        before = None if self._fitted is None else self._fitted.value
        self._fitted = fitted
        for field, message in _DROPPED.items():
            if field in asked:
                continue
            lost = [own for each in (before, merged) if (own := getattr(each, field, None)) is not None]
            if lost and getattr(space, field) is None:
                # One threshold is that of a rejection; a calibration has one for each class.
                rejected = any(
                    isinstance(own, Calibration) and len(own.thresholds or ()) == 1 for own in lost
                )
                warnings.warn(message + _REJECTION_TOO * rejected, stacklevel=3)
        return self

    def _scale_of(self, space: ClassSpace) -> Tensor | float | None:
        """What multiplies the scores of a class space here; None where nobody says."""
        known = None if space.backbone is None else space.backbone.logit_scale
        return known if space.fixed_logit_scale is None else space.fixed_logit_scale

    def _device(self) -> torch.device | None:
        """Where the buffers belong; None: where the embeddings lie that are taken."""
        return None
