"""A head as one matrix, where its metric is one vector a class."""

from torch import Tensor

from s3clip.prediction.batches import AnsweringHead


def to_linear(head: AnsweringHead) -> Tensor:
    """Return the weights of a linear classifier that scores as a head does: `FoldedSpace.linear`.

    Args:
        head: a fitted head.

    Returns:
        (dim, classes), as open_clip's `build_zero_shot_classifier` gives it: the logits are `logit_scale`
        times `features @ classifier` for unit features, plus the bias of a sigmoid family.

    Raises:
        ValueError: not fitted, a metric that is not one vector a class, or shares of classes, for which a
            matrix has no place.
    """
    weights = head.folded.linear()
    if weights is None:
        raise ValueError(
            f"to_linear: the metric {head.config.metric!r} with {head.config.metric_options} is not one "
            f'vector a class; head.reconfigure(metric="center") is, and encodes nothing again'
        )
    if head.share_offsets is not None:
        raise ValueError(
            "to_linear: a matrix has no place for the shares of the classes; keep head.share_offsets to add "
            "them to the logits yourself, and take the shares away with head.set_class_shares(None)"
        )
    return weights
