"""Answers for images: what a prediction is, which inputs can have one, and the text that matched."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from s3clip.artifact.folder import FittedClass
from s3clip.images.opening import BrokenImageError, open_image
from s3clip.prediction.calibrating import Calibration
from s3clip.space.synonymous_space import SynonymousSpace


@dataclass(frozen=True)
class Prediction:
    """One answer for one image.

    Attributes:
        label: the class's name.
        score: its probability, in [0, 1].
        class_index: its position among `head.class_names`.
        class_id: the id that the synonym file gives it, if any.
        text: the text of the class that is nearest to the image; None where texts are not known.
        accepted: whether its logit reaches the threshold of `calibrate` or `fit_rejection`; True without one.
            An image whose best class is not accepted shows none of the classes.
    """

    label: str
    score: float
    class_index: int
    class_id: int | str | None = None
    text: str | None = None
    accepted: bool = True


class TopClasses(NamedTuple):
    """The classes of the largest logits of every image, the best first.

    Attributes:
        class_index: (batch, k) int64, their positions among `head.class_names`.
        logits: (batch, k), as of `forward`.
        probabilities: (batch, k) float32, as of `head.probabilities` of all logits.
        accepted: (batch, k) bool, whether a logit reaches its threshold; true without one.
    """

    class_index: Tensor
    logits: Tensor
    probabilities: Tensor
    accepted: Tensor


def top_classes(blocks: Iterable[tuple[Tensor, Tensor]], k: int, calibration: Calibration) -> TopClasses:
    """Return the k largest of logits that come some classes at a time, and are forgotten at once.

    Args:
        blocks: one or more of ((c,) positions of c classes, (batch, c) their logits).
        k: how many; all where there are fewer.
        calibration: what makes probabilities of logits.
    """
    best: tuple[Tensor, Tensor] | None = None  # positions and logits
    total: Tensor | None = None  # log of the sum of exp over all classes so far
    for classes, logits in blocks:
        largest = logits.topk(min(k, logits.shape[1]), dim=1)
        found = classes[largest.indices], largest.values
        if best is not None:
            values = torch.cat([best[1], found[1]], dim=1)
            largest = values.topk(min(k, values.shape[1]), dim=1)
            found = torch.cat([best[0], found[0]], dim=1).gather(1, largest.indices), largest.values
        best = found
        if calibration.activation == "softmax":
            part = calibration.scaled(logits.float()).logsumexp(1)
            total = part if total is None else torch.logaddexp(total, part)
    assert best is not None  # there is a class
    index, values = best
    if total is None:
        probabilities = calibration.probabilities(values.float())
    else:
        probabilities = (calibration.scaled(values.float()) - total[:, None]).exp()
    return TopClasses(index, values, probabilities, calibration.accepts(values, index))


def matched_texts(
    space: SynonymousSpace, classes: Sequence[FittedClass], embeds: Tensor, chosen: Tensor
) -> list[list[str | None]]:
    """Return the text of each pair of image and class that is nearest to the image among those kept.

    Args:
        space: the spaces of all classes.
        classes: the classes with their texts.
        embeds: (images, dim) unit embeddings.
        chosen: (images, k) positions of classes.

    Returns:
        k texts for each image; None where the texts of a class are not known.
    """
    texts = [each.texts for each in classes]
    return [
        [None if (known := texts[i]) is None else known[row] for i, row in zip(own, rows, strict=True)]
        for own, rows in zip(chosen.tolist(), nearest_rows(space, embeds, chosen).tolist(), strict=True)
    ]


def nearest_rows(space: SynonymousSpace, embeds: Tensor, chosen: Tensor) -> Tensor:
    """Return which row of each chosen class is nearest to the image, among those kept.

    Args:
        space: the spaces of all classes.
        embeds: (images, dim) unit embeddings.
        chosen: (images, k) positions of classes.

    Returns:
        (images, k), counted from the class's first row.
    """
    # Put in the order of their classes, the images of a class need not be looked for among all.
    ordered, order = chosen.flatten().sort()
    classes, counts = ordered.unique_consecutive(return_counts=True)
    is_chosen = torch.zeros(len(space.scales), dtype=torch.bool, device=classes.device)
    is_chosen[classes] = True
    rows = space.kept[is_chosen[space.point_owners]]
    sizes = space.sizes[classes].tolist()
    points = space.points_of(rows)
    images = embeds[order // chosen.shape[1]].to(points)
    best = [
        own_rows[(own_images @ own_points.T).argmax(1)]
        for own_rows, own_points, own_images in zip(
            rows.split(sizes), points.split(sizes), images.split(counts.tolist()), strict=True
        )
    ]
    nearest = torch.cat(best) - torch.searchsorted(space.owners, ordered) if best else order
    return torch.empty_like(order).scatter_(0, order, nearest).view_as(chosen)


def as_embeds(image_embeds: Any) -> Tensor:
    """Return embeddings in any form that torch takes (a tensor, an array, nested lists) as a tensor.

    Raises:
        TypeError: something else.
    """
    try:
        return torch.as_tensor(image_embeds)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"image_embeds: expected a tensor or an array of numbers, got {type(image_embeds).__name__} "
            f"({error})"
        ) from error


def check_image_embeds(image_embeds: Tensor, first: int = 0) -> None:
    """Raise ValueError for a shape that is not (images, dim), or a zero, NaN or Inf embedding.

    Args:
        image_embeds: the embeddings.
        first: the position of row 0 among all images, for the message.
    """
    if image_embeds.ndim != 2:
        raise ValueError(f"image_embeds: expected shape (images, dim), got {tuple(image_embeds.shape)}")
    useless = _useless(image_embeds)
    if bool(useless.any()):
        raise ValueError(f"image {first + int(useless.nonzero()[0])}: its embedding is zero, NaN or Inf")


def check_view_embeds(view_embeds: Tensor, first: int = 0) -> None:
    """Raise ValueError for a shape that is not (images, views, dim), or a zero, NaN or Inf embedding.

    Args:
        view_embeds: the embeddings.
        first: the position of row 0 among all images, for the message.
    """
    if view_embeds.ndim != 3 or view_embeds.shape[1] < 1:
        raise ValueError(
            f"image_embeds: expected shape (images, views, dim) with one view or more, got "
            f"{tuple(view_embeds.shape)}"
        )
    useless = _useless(view_embeds)
    if bool(useless.any()):
        image, view = useless.nonzero()[0].tolist()
        raise ValueError(f"image {first + image}, view {view}: its embedding is zero, NaN or Inf")


def opened_batches(
    images: Any, batch_size: int, skip_broken: bool
) -> Iterator[tuple[int, list[bool], list[Image.Image]]]:
    """Open one or several images, batch by batch.

    Args:
        images: one image in any form that `open_image` takes, or several: a list, a tuple, or an array of
            four dimensions.
        batch_size: images at once.
        skip_broken: leave out an image that cannot be read, with a warning, instead of raising.

    Yields:
        The position of the batch's first image, which images of the batch could be read, and those.
    """
    batched = isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4
    listed = list(images) if batched else [images]
    for start in range(0, len(listed), batch_size):
        opened = [_open_or_skip(source, skip_broken) for source in listed[start : start + batch_size]]
        readable = [picture is not None for picture in opened]
        yield start, readable, [picture for picture in opened if picture is not None]


def _open_or_skip(source: Any, skip_broken: bool) -> Image.Image | None:
    try:
        return open_image(source)
    except BrokenImageError as error:
        if not skip_broken:
            raise
        warnings.warn(f"{error}; no prediction for it", stacklevel=2)
        return None


def _useless(embeds: Tensor) -> Tensor:
    """(..., dim) -> (...), which embeddings have no direction."""
    return ~torch.isfinite(embeds).all(-1) | (embeds == 0).all(-1)
