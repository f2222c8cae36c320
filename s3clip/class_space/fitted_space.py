"""A class space ready to answer: the value and what is built of it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from s3clip.class_space.few_shot import learn
from s3clip.class_space.shares import share_offsets
from s3clip.class_space.value import ClassSpace
from s3clip.space.built import BuiltSpace
from s3clip.space.residual import Residual


class FittedSpace(nn.Module):
    """A class space and what is built of it: made whole, so that a head takes it in one assignment.

    Args:
        value: the class space; `value.raw` and the buffers stay one, wherever the module is moved.
        before: what the head has; of it, what was built of the same texts and settings is taken, and what
            was learned of the same labelled images on it.
        device: where it goes; None: where `value.raw` is.
        fused: as for the head.
        progress: as for `ClassSpace.build`.
    """

    built: BuiltSpace
    value: ClassSpace
    residual_weights: Tensor | None
    residual_bias: Tensor | None
    share_offsets: Tensor | None

    def __init__(
        self,
        value: ClassSpace,
        *,
        before: "FittedSpace | None" = None,
        device: torch.device | None = None,
        fused: bool = False,
        progress: bool | None = None,
    ) -> None:
        super().__init__()
        # Half precision stores a direction to 3 digits only: keep what comes exactly, and at least float32.
        precise = torch.promote_types(value.raw.dtype, torch.float32)
        if before is not None and before._is_of(value, device, fused):
            self.built = before.built
        else:
            before = None
            known, against = value.known_margins, value.negatives
            raw = _apart(value.raw).to(device=device, dtype=precise)
            value = replace(value, raw=raw, negatives=None if against is None else _apart(against))
            value = value.with_margins(known)
            config = value.config
            negatives = None if value.negatives is None else (value.negatives, value.negative_owners)
            space = value.build(progress)
            if space.relative:
                value = value.with_margins(space.margins)
            self.built = BuiltSpace(
                space,
                config.metric,
                config.metric_options,
                raw=value.raw,
                fused=fused,
                negatives=negatives,
            )
        residual = None
        if before is not None and value.few_shot is before.value.few_shot:
            residual = before.learned
        elif value.few_shot is not None:
            kept, residual = learn(value.few_shot, self.built)
            value = replace(value, few_shot=kept)
        weights, bias = (None, None) if residual is None else map(_apart, residual)
        self.register_buffer("residual_weights", weights, persistent=False)
        self.register_buffer("residual_bias", bias, persistent=False)
        shares = value.class_shares
        offsets = None if shares is None else share_offsets(shares).to(precise).to(value.raw.device)
        self.register_buffer("share_offsets", offsets, persistent=False)
        self.value = value
        # Plain numbers for `forward`, which compilers read.
        self.fixed_scale = value.fixed_logit_scale
        self.known_scale: float | None = None
        self.known_bias: float | None = None
        if value.backbone is not None:
            self.known_scale, self.known_bias = value.backbone.logit_scale, value.backbone.logit_bias

    def _is_of(self, value: ClassSpace, device: torch.device | None, fused: bool) -> bool:
        """Whether what is built is what a class space would be built to; names are in none of it."""
        return (
            value.raw is self.value.raw
            and value.negatives is self.value.negatives
            and device in (None, value.raw.device)
            and _counts(value) == _counts(self.value)
            and value.config == self.value.config
            and fused == self.built.folded.fused
        )

    @property
    def learned(self) -> Residual | None:
        """What was learned of labelled images; None: nothing."""
        weights, bias = self.residual_weights, self.residual_bias
        return None if weights is None or bias is None else Residual(weights, bias)

    def residual(self, images: Tensor, classes: Tensor | None = None) -> Tensor | None:
        """Return (batch, classes) what labelled images add to the logits of unit embeddings; None: nothing.

        Args:
            images: (batch, dim).
            classes: (c,) which classes; None: all.
        """
        if (learned := self.learned) is None:
            return None
        weights, bias = learned
        if classes is not None:
            weights, bias = weights[:, classes], bias[classes]
        return images.to(weights.dtype) @ weights + bias

    def _apply(self, fn: Any, recurse: bool = True) -> "FittedSpace":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        value = replace(self.value, raw=self.built.raw)
        # Margins of embeddings that lie elsewhere now would keep those in memory.
        self.value = value.with_margins(value.known_margins)
        return self


def _apart(given: Tensor) -> Tensor:
    """Return numbers apart from how they came to be: without gradients, and not for inference mode alone."""
    return given.detach().clone() if given.is_inference() else given.detach()


def _counts(space: ClassSpace) -> list[tuple[int, int]]:
    return [(each.rows, len(each.negatives)) for each in space.classes]
