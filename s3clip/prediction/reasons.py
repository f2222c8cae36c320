"""Why an answer: the words, or the labelled images."""

import torch
from torch import Tensor

from s3clip.prediction.batches import AnsweringHead

NEAREST = 10
"""Of the labelled images, so many nearest ones of an image are looked at."""


def reasons(
    head: AnsweringHead, logits: Tensor, embeds: Tensor, order: Tensor, texts: list[list[str | None]]
) -> list[list[str | None]]:
    """Say of every answer what decided.

    The images did where the class stands higher among all classes than it would by words alone: then it is
    "like 3 of your images", the labelled images of this class among the ten labelled ones that are nearest to
    the image; "like your images" where there are none, or they are not kept. Else the words did.

    Args:
        head: which answers.
        logits: (images, classes).
        embeds: (images, dim) of length one.
        order: (images, k) the classes of the answers, the best first.
        texts: of each answer the text that matched.
    """
    residual = head.residual(embeds)
    if residual is None:
        return texts
    words = logits - residual.to(logits)
    by_words = words.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    raised = by_words.gather(1, order) > torch.arange(order.shape[1], device=order.device)
    counts = _alike(head, embeds, order)
    return [
        [_of_images(count) if by_images else text for by_images, count, text in zip(*row, strict=True)]
        for row in zip(raised.tolist(), counts.tolist(), texts, strict=True)
    ]


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
