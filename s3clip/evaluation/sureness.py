"""How sure a head is of its answers, and how often it is right."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from s3clip.head import SynonymousSpaceHead


@dataclass(frozen=True)
class Sureness:
    """What the best answers of a head are worth on images whose classes are known.

    Attributes:
        right: the share of them that are right.
        sure: their probability, on average.
        set_size: how many classes `predict_sets` names, on average; None where no coverage was asked for.
    """

    right: float
    sure: float
    set_size: float | None


def measure_sureness(head: SynonymousSpaceHead, image_embeds: Tensor, labels: list[Any]) -> Sureness:
    """Compare the best answers with labels.

    Args:
        head: a fitted head.
        image_embeds: (images, dim).
        labels: the position of the class of each image.
    """
    answers = [own[0] for own in head.predict(image_embeds=image_embeds, top_k=1)]
    size = None
    if head.current_calibration.coverage is not None:
        size = fmean(len(own) for own in head.predict_sets(image_embeds=image_embeds) if own is not None)
    return Sureness(
        right=fmean(each.class_index == label for each, label in zip(answers, labels, strict=True)),
        sure=fmean(each.score for each in answers),
        set_size=size,
    )
