"""Why an answer: the words, or the labelled images."""

import torch
from torch import Tensor

from s3clip.prediction.batches import AnsweringHead

NEAREST = 10
"""Of the labelled images, so many nearest ones of an image are looked at."""


def reasons(
    head: AnsweringHead,
    logits: Tensor,
    embeds: Tensor,
    order: Tensor,
    texts: list[list[str | None]],
    among: Tensor,
) -> list[list[str | None]]:
    """Say of every answer what decided.

    The images did where the class stands higher among the others than it would by words alone: then it is
    "like 3 of your images", the labelled images of this class among the ten labelled ones that are nearest to
    the image; "like your images" where there are none, or they are not kept. Else the words did.

    Args:
        head: which answers.
        logits: (images, classes).
        embeds: (images, dim) of length one.
        order: (images, k) the classes of the answers.
        texts: of each answer the text that matched.
        among: (n,) the classes that are others.
    """
    residual = head.residual(embeds)
    if residual is None:
        return texts
    by_words, by_both = (
        _places(scores, among).gather(1, order) for scores in (logits - residual.to(logits), logits)
    )
    raised = by_words > by_both
    counts = _alike(head, embeds, order)
    return [
        [_of_images(count) if by_images else text for by_images, count, text in zip(*row, strict=True)]
        for row in zip(raised.tolist(), counts.tolist(), texts, strict=True)
    ]


def _places(scores: Tensor, among: Tensor) -> Tensor:
    """Return (images, classes) the place of each class by its score, counted among some of them alone."""
    others = among.new_zeros(scores.shape[1]).index_fill(0, among, 1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, others[order].cumsum(1))


def _alike(head: AnsweringHead, embeds: Tensor, order: Tensor) -> Tensor:
    """Return (images, k) how many of the nearest labelled images are of each class."""
    examples = head.examples
    if examples is None:
        return torch.zeros_like(order)
    of_class = examples.labels >= 0
    shown, labels = examples.embeds[of_class].to(embeds), examples.labels[of_class].to(order.device)
    nearest = (embeds @ shown.T).topk(min(NEAREST, len(shown)), dim=1).indices
    return (labels[nearest][:, None] == order[..., None]).sum(-1)


def _of_images(count: int) -> str:
    if not count:
        return "like your images"
    return f"like {count} of your images"
