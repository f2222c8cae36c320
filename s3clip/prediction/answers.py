"""Images in, answers out: the most probable classes of every image, with the text that matched."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s3clip.arguments import whole_number
from s3clip.class_space import Calibration
from s3clip.prediction.adaptation import TestTimeAdapter
from s3clip.prediction.batches import AnsweringHead, all_logits, embedded_batches
from s3clip.prediction.groups import best_groups
from s3clip.prediction.matched_texts import matched_texts
from s3clip.prediction.reasons import reasons
from s3clip.prediction.scope import Scope, scope_of
from s3clip.prediction.top_classes import largest


@dataclass(frozen=True)
class Prediction:
    """One answer for one image.

    Attributes:
        label: the class's name; that of the group where groups were asked for.
        score: its probability, in [0, 1].
        class_index: its position among `head.class_names`; of a group, that of its class of the largest
            logit, whose id and text follow.
        class_id: the id that the synonym file gives it, if any.
        text: the text of the class that is nearest to the image; None where texts are not known.
        because: what decided: that text or, where the class stands higher than by words alone, the labelled
            images of `fit_few_shot`: see `s3clip.prediction.reasons`.
        accepted: whether its logit reaches the threshold of `calibrate` or `fit_rejection`; True without one.
            An image whose best class is not accepted shows none of the classes. A group is accepted where
            one of its classes is.
        groups: the groups that the class is in, by level, the widest first; of a group, those that all of its
            classes are in, itself among them.
    """

    label: str
    score: float
    class_index: int
    class_id: int | str | None = None
    text: str | None = None
    accepted: bool = True
    because: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


@torch.inference_mode()
def predict(
    head: AnsweringHead,
    images: Any = None,
    *,
    image_embeds: Tensor | None = None,
    top_k: int = 5,
    batch_size: int = 32,
    adapt: str | TestTimeAdapter | None = None,
    level: str | None = None,
    among: Any = None,
    language: str | None = None,
) -> list[list[Prediction]]:
    """Return the `top_k` most probable classes of every image, the best first; of equals the first classes.

    Or the most probable groups, by `group_probabilities`: docs/groups.md says more. Answers are of the head
    as it is when it is asked, whatever another thread makes of it meanwhile.

    Args:
        head: a fitted head.
        images: one, in any form that `s3clip.images.opening.open_image` takes: a PIL image, a path, a web
            address, base64 text, bytes, a record or an item of `datasets`, a uint8 array (height, width, 3),
            a uint8 tensor (3, height, width). Or several: a list, a generator, a column or a data set of
            these, an array of paths, an array or tensor of four dimensions.
        image_embeds: (images, dim) embeddings instead; where they adapt, (images, views, dim), view 0 the
            plain image.
        top_k: how many classes; all of them where there are fewer.
        batch_size: images per call of the image tower.
        adapt: shift the spaces to each image first: a method of `s3clip.space.shift.ADAPTATIONS` ("shift"),
            or a `TestTimeAdapter` of this head with settings of its own. Takes as long as its views do.
        level: answer with groups at this level, one of `head.levels`.
        among: answer within some classes, whose probabilities are then of these alone: one or several of a
            class's name, id or position, the name of a group, or {level: group}.
        language: call classes by their names in this language ("de"), whatever the texts were in; those that
            have none by their own, with a warning.

    Returns:
        One list per image, in the order given. For a file that is not a readable image it is empty, and a
        warning names the file.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: `top_k` below 1, both inputs or neither, embeddings that are not finite or are zero, an
            adapter of another head, or a level, class or group that there is not.

    Examples:
        >>> head.predict(images[7], top_k=1)[0][0].label
        'seven'
    """
    given, head = head, copy.copy(head)  # as it is now, whatever another thread makes of it
    scope = scope_of(head.classes, level, among, language)
    top_k = whole_number(top_k, "top_k")
    adapter = TestTimeAdapter(head, adapt) if isinstance(adapt, str) else _checked_adapter(given, adapt)
    calibration = head.current_calibration
    answers: list[list[Prediction]] = []
    for readable, logits, embeds in embedded_batches(
        head, images, image_embeds, batch_size, skip_broken=True, adapter=adapter
    ):
        found = iter(as_predictions(head, calibration, logits, embeds, top_k, scope))
        answers.extend(next(found) if is_readable else [] for is_readable in readable)
    return answers


def as_predictions(
    head: AnsweringHead, calibration: Calibration, logits: Tensor, embeds: Tensor, top_k: int, scope: Scope
) -> list[list[Prediction]]:
    """Return the `top_k` best classes, or groups, of (images, classes) logits, the best first.

    Args:
        head: that they are of.
        calibration: its `current_calibration`.
        logits: in float32 at least.
        embeds: (images, dim) unit embeddings, for the texts that match.
        top_k: how many; all of them where there are fewer.
        scope: what is answered.
    """
    classes = head.classes
    positions, within = scope.taken(torch.arange(len(classes), device=logits.device), logits)
    if scope.owners is None:
        # By logits: probabilities that round to 0 or to 1 would tie.
        order, columns = _best(within, positions, top_k)
        scores = calibration.probabilities(within).gather(1, columns)
        accepted = calibration.accepts(logits).gather(1, order)
        answers = order
    else:
        answers, order, _, scores, accepted = best_groups(
            [(positions, within)], top_k, calibration, scope.owners
        )
    texts = matched_texts(head.space, classes, embeds, order)
    because = reasons(head, logits, embeds, order, texts, positions)
    columns_of = (answers, scores, order, texts, accepted, because)
    rows = zip(*(each.tolist() if isinstance(each, Tensor) else each for each in columns_of), strict=True)
    return [
        [
            Prediction(
                scope.labels[answer],
                score,
                i,
                classes[i].id,
                text,
                is_accepted,
                reason,
                classes[i].groups if scope.owners is None else scope.shared[answer],
            )
            for answer, score, i, text, is_accepted, reason in zip(*row, strict=True)
        ]
        for row in rows
    ]


def _best(logits: Tensor, positions: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return (images, k) the positions of the classes of the largest logits, and their columns."""
    columns = largest(logits, torch.arange(len(positions), device=logits.device), top_k)[1]
    return positions[columns], columns


@torch.inference_mode()
def predict_proba(
    head: AnsweringHead, images: Any = None, *, image_embeds: Tensor | None = None, batch_size: int = 32
) -> Tensor:
    """Return (images, classes) probabilities. For the arguments see `predict`.

    Raises:
        ValueError: also for a file that is not a readable image.

    Examples:
        >>> head.predict_proba(images[:2]).shape
        torch.Size([2, 10])
    """
    head = copy.copy(head)  # as it is now, whatever another thread makes of it
    logits, _ = all_logits(head, images, image_embeds, batch_size)
    return head.current_calibration.probabilities(logits)


def _checked_adapter(head: AnsweringHead, adapt: Any) -> TestTimeAdapter | None:
    if adapt is None:
        return None
    if not isinstance(adapt, TestTimeAdapter):
        raise TypeError(
            f"adapt: expected the name of a method or a TestTimeAdapter, got {type(adapt).__name__}"
        )
    if adapt.head is not head:
        raise ValueError("adapt: this adapter is one of another head; make it with TestTimeAdapter(head)")
    return adapt
