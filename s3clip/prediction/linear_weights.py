"""A head as one matrix, where its metric is one vector a class."""

from typing import Literal, overload

import torch
from torch import Tensor

from s3clip.prediction.batches import AnsweringHead


@overload
def to_linear(head: AnsweringHead, *, bias: Literal[False] = False) -> Tensor: ...
@overload
def to_linear(head: AnsweringHead, *, bias: Literal[True]) -> tuple[Tensor, Tensor]: ...
@torch.no_grad()
def to_linear(head: AnsweringHead, *, bias: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Return the weights of a linear classifier that scores as a head does: `FoldedSpace.linear`.

    Args:
        head: a fitted head.
        bias: return what is added to the logits too: all of it, that of a sigmoid family among it.

    Returns:
        (dim, classes), as open_clip's `build_zero_shot_classifier` gives it: the logits are `logit_scale`
        times `features @ classifier` for unit features, plus the bias of a sigmoid family. With `bias` a
        pair: these, and (classes,) what is added to that product.

    Raises:
        ValueError: not fitted, negatives, a metric that is not one vector a class, or, without `bias`,
            labelled images or shares of classes, for which a matrix alone has no place.

    Examples:
        >>> head.reconfigure(metric="center").to_linear().shape
        torch.Size([64, 10])
    """
    weights = head.folded.linear()
    if head.folded.absence is not None:
        raise ValueError(
            "to_linear: logits that are measured against negatives are no product with a matrix; fit the "
            "classes without negatives for one"
        )
    if weights is None:
        raise ValueError(
            f"to_linear: the metric {head.config.metric!r} with {head.config.metric_options} is not one "
            f'vector a class; head.reconfigure(metric="center") is, and encodes nothing again'
        )
    taught = head.residual(
        torch.cat([torch.eye(len(weights), dtype=weights.dtype, device=weights.device), 0 * weights[:, :1].T])
    )
    if not bias and (taught is not None or head.share_offsets is not None):
        raise ValueError(
            "to_linear: a matrix has no place for what labelled images and the shares of the classes add to "
            "the logits; to_linear(bias=True) returns it beside the matrix"
        )
    added = torch.zeros_like(weights[0])
    if taught is not None:
        weights = weights + (taught[:-1] - taught[-1]) / head.logit_scale.to(weights)
        added = added + taught[-1]
    if not bias:
        return weights
    for more in (head.logit_bias, head.share_offsets):
        if more is not None:
            added = added + (more.to(added) if isinstance(more, Tensor) else more)
    return weights, added
