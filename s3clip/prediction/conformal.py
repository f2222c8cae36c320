"""Sets of labels that hold the right one as often as was asked for: split-conformal prediction.

A class is in the set of an image where its probability reaches a threshold, which is chosen on images whose
classes are known: the score 1 - p of Sadinle, Lei and Wasserman ("Least Ambiguous Set-Valued Classifiers
With Bounded Error Levels", JASA 2019), with the quantile of Vovk et al. for a finite number of images.
Whatever the probabilities are worth, the set of an image drawn as those were holds its class at least so
often, over all draws; not for each class by itself. The temperature is fitted on the same images, which the
guarantee does not foresee: it is one number, and no effect was seen (`examples/studies/own_images.py`).
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import is_number, plain
from s3clip.prediction.answers import Prediction, as_predictions
from s3clip.prediction.batches import AnsweringHead, embedded_batches
from s3clip.prediction.scope import scope_of

_ROUNDING = 1e-6
"""By which a probability in float32 may fall short of itself, computed in another batch."""


def needed_images(share: float, images: int, argument: str = "coverage") -> int:
    """Return how many of some images have to reach a threshold, so that the next one does.

    Args:
        share: of the images to come that are to reach it, in (0, 1).
        images: of known classes.
        argument: what an error calls the share.

    Raises:
        ValueError: a share outside (0, 1), or too few images for it.
    """
    share = plain(share)
    if not (is_number(share) and 0 < share < 1):
        raise ValueError(f"{argument}: expected a share in (0, 1), got {share!r}")
    # 1e-9: 0.07 x 100 is 7.000000000000001.
    needed = math.ceil((images + 1) * share - 1e-9)
    if needed > images:
        least = math.ceil(share / (1 - share) - 1e-9)
        raise ValueError(f"{argument}: {share} takes {least} images of known classes, got {images}")
    return needed


def least_probability(own: Tensor, coverage: float) -> float:
    """Return the largest threshold that so many images reach, with one more for the image to come.

    Args:
        own: (images,) the probability of the class that each shows, below 0 where no threshold lets it in.
        coverage: the share of images whose class is to be in the set, in (0, 1).

    Raises:
        ValueError: as for `needed_images`, or a share that is out of reach, whatever the threshold.
    """
    needed = needed_images(coverage, len(own))
    threshold = float(own.sort(descending=True).values[needed - 1])
    if threshold < 0:
        shut_out = float((own < 0).double().mean())
        raise ValueError(
            f"coverage: {coverage} is out of reach, since the rejection turns away {shut_out:.0%} of the "
            f"images; ask for less, or fit_rejection(false_accept_rate=) anew with a larger one"
        )
    return threshold * (1 - _ROUNDING)


@torch.inference_mode()
def predict_sets(
    head: AnsweringHead,
    images: Any = None,
    *,
    image_embeds: Tensor | None = None,
    batch_size: int = 32,
    language: str | None = None,
) -> list[list[Prediction] | None]:
    """Return the classes that each image may show, by the coverage that `calibrate` was given.

    The sets of images like those of `calibrate` hold the right class as often as its `coverage` says, on
    average over all classes; where classes are unequal, those of rare ones hold it less often. The groups of
    the classes in a set (`Prediction.groups`) hold the right group at least as often.

    Args:
        head: a fitted head, calibrated with a coverage.
        images: as for `predict`.
        image_embeds: (images, dim) embeddings instead.
        batch_size: images per call of the image tower.
        language: as for `predict`.

    Returns:
        One list per image, the most probable class first. It is empty where the image shows none of these:
        no class is probable enough, or the best one is rejected (`fit_rejection`). None for a file that is
        not a readable image; a warning names it.

    Raises:
        ValueError: no coverage was asked for; else as for `predict`.

    Examples:
        >>> _ = head.calibrate(images[:200], labels[:200], coverage=0.9)
        >>> [each.label for each in head.predict_sets(images[7])[0]]
        ['seven']
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    calibration = head.current_calibration
    if calibration.least_probability is None:
        raise ValueError(
            "coverage: the head has none; calibrate(images, labels, coverage=0.9) first, to choose sets"
        )
    scope = scope_of(head.classes, language=language)
    answers: list[list[Prediction] | None] = []
    for readable, logits, embeds in embedded_batches(
        head, images, image_embeds, batch_size, skip_broken=True
    ):
        inside = calibration.in_sets(logits)
        most = max(1, int(inside.sum(1).max())) if len(inside) else 1
        predicted = as_predictions(head, calibration, logits, embeds, most, scope)
        found = iter(own[:count] for own, count in zip(predicted, inside.sum(1).tolist(), strict=True))
        answers.extend(next(found) if is_readable else None for is_readable in readable)
    return answers
