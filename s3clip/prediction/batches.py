"""Images in, their logits and embeddings out, batch by batch."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from s3clip.arguments import whole_number
from s3clip.class_space import Calibration, Examples, FittedClass
from s3clip.images.opening import BrokenImageError, one_or_several, open_image
from s3clip.prediction.adaptation import AdaptableHead, TestTimeAdapter
from s3clip.space.synonymous_space import as_tensor, unit_vectors


class AnsweringHead(AdaptableHead, Protocol):
    """What answering reads of a head."""

    calibration: Calibration | None

    @property
    def classes(self) -> Sequence[FittedClass]:
        """The classes, in the order of the logits."""

    @property
    def class_shares(self) -> Sequence[float] | None:
        """How common the classes are, where somebody said so."""

    @property
    def examples(self) -> Examples | None:
        """The labelled images that are kept."""

    @property
    def uncalibrated(self) -> Calibration:
        """What that is without a calibration."""

    @property
    def current_calibration(self) -> Calibration:
        """How its logits become probabilities."""

    def __call__(self, *, image_embeds: Tensor) -> Tensor:
        """Return (batch, classes) logits of (batch, dim) embeddings."""

    def logits_by_block(
        self, pixel_values: Tensor | None = None, *, image_embeds: Tensor | None = None, **image_inputs: Any
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the same some classes at a time: (c,) positions and (batch, c) logits."""


class Batch(NamedTuple):
    """Some images.

    Attributes:
        readable: of each image whether it could be read; the rest has a row for those that could.
        logits: (images, classes), in float32 at least.
        embeds: (images, dim) unit embeddings.
    """

    readable: list[bool]
    logits: Tensor
    embeds: Tensor


def embedded_batches(
    head: AnsweringHead,
    images: Any,
    image_embeds: Tensor | None,
    batch_size: int,
    *,
    skip_broken: bool = False,
    adapter: TestTimeAdapter | None = None,
) -> Iterator[Batch]:
    """Yield the logits of images, or of embeddings computed before.

    Args:
        head: a fitted head.
        images: one or several, as for `predict`.
        image_embeds: (images, dim) instead, with an adapter (images, views, dim).
        batch_size: images at once.
        skip_broken: leave out an image that cannot be read, with a warning, instead of raising.
        adapter: what makes logits of the views of an image.

    Raises:
        ValueError: both inputs or neither, no backbone, or an embedding that is zero or not finite.
    """
    raw = head.space.raw
    for start, readable, embeds in _embedded(head, images, image_embeds, batch_size, skip_broken, adapter):
        if embeds is None:
            yield Batch(readable, raw.new_zeros(0, len(head.classes)), raw.new_zeros(0, raw.shape[1]))
        else:
            yield _scored(head, readable, embeds, start, adapter)


@torch.no_grad()
def embeddings(
    head: AnsweringHead, images: Any, image_embeds: Tensor | None, batch_size: int
) -> Iterator[Tensor]:
    """Yield (b, dim) embeddings of length one, of images or of embeddings computed before.

    Args and errors: as for `embedded_batches`.
    """
    for start, _, embeds in _embedded(head, images, image_embeds, batch_size, False, None):
        if embeds is not None:
            check_embeds(embeds, start)
            yield head.folded.unit_embeds(embeds)


def _embedded(
    head: AnsweringHead,
    images: Any,
    image_embeds: Tensor | None,
    batch_size: int,
    skip_broken: bool,
    adapter: TestTimeAdapter | None,
) -> Iterator[tuple[int, list[bool], Tensor | None]]:
    """Yield of each batch its first image, which could be read, and the embeddings; None where none could."""
    if (images is None) == (image_embeds is None):
        got = "neither" if images is None else "both"
        raise ValueError(f"images, image_embeds: expected exactly one of the two, got {got}")
    batch_size = whole_number(batch_size, "batch_size")
    if image_embeds is not None:
        for number, chunk in enumerate(as_embeds(image_embeds).to(head.space.raw.device).split(batch_size)):
            yield number * batch_size, [True] * len(chunk), chunk
        return
    if head.backbone is None:
        raise ValueError("images: this head has no backbone; give image_embeds=")
    transform = head.backbone.image_transform()
    for start, readable, opened in opened_batches(images, batch_size, skip_broken):
        if adapter is not None:
            embeds = adapter.encode(opened)
        elif inputs := transform(opened):
            embeds = head.backbone.encode_images(**head.backbone.placed(inputs))
        yield start, readable, embeds if any(readable) else None


@torch.no_grad()
def all_logits(
    head: AnsweringHead, images: Any, image_embeds: Tensor | None, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return (images, classes) logits and (images, dim) unit embeddings of all images."""
    raw = head.space.raw
    batches = [Batch([], raw.new_zeros(0, len(head.classes)), raw.new_zeros(0, raw.shape[1]))]
    batches += embedded_batches(head, images, image_embeds, batch_size)
    return (
        torch.cat([batch.logits.float() for batch in batches]),
        torch.cat([batch.embeds.to(raw) for batch in batches]),
    )


def _scored(
    head: AnsweringHead, readable: list[bool], embeds: Tensor, first: int, adapter: TestTimeAdapter | None
) -> Batch:
    """Return a batch whose first row is image `first` of all."""
    check_embeds(embeds, first, views=adapter is not None)
    if adapter is not None:
        return Batch(readable, adapter(embeds).float(), unit_vectors(embeds[:, 0]))
    return Batch(readable, head(image_embeds=embeds).float(), unit_vectors(embeds))


def as_embeds(image_embeds: Any) -> Tensor:
    """Return embeddings in any form that torch takes (a tensor, an array, nested lists) as a tensor.

    Raises:
        TypeError: something else.
    """
    try:
        found = as_tensor(image_embeds)
        if found.is_complex():
            raise TypeError("of complex ones")
        return found
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"image_embeds: expected a tensor or an array of numbers, got {type(image_embeds).__name__} "
            f"({error})"
        ) from error


def check_embeds(embeds: Tensor, first: int = 0, *, views: bool = False) -> None:
    """Raise ValueError for a wrong shape, or a zero, NaN or Inf embedding.

    Args:
        embeds: (images, dim), or (images, views, dim).
        first: the position of row 0 among all images, for the message.
        views: whether the embeddings are those of views.
    """
    if embeds.ndim != 2 + views or (views and embeds.shape[1] < 1):
        wanted = "(images, views, dim) with one view or more" if views else "(images, dim)"
        raise ValueError(f"image_embeds: expected shape {wanted}, got {tuple(embeds.shape)}")
    useless = ~torch.isfinite(embeds).all(-1) | (embeds == 0).all(-1)
    if bool(useless.any()):
        image, *view = useless.nonzero()[0].tolist()
        where = f", view {view[0]}" if view else ""
        raise ValueError(f"image {first + image}{where}: its embedding is zero, NaN or Inf")


def opened_batches(
    images: Any, batch_size: int, skip_broken: bool
) -> Iterator[tuple[int, list[bool], Iterator[Image.Image]]]:
    """Open one or several images, batch by batch.

    Args:
        images: as for `predict`; of those that come one by one, a batch is held.
        batch_size: images at once.
        skip_broken: leave out an image that cannot be read, with a warning, instead of raising.

    Yields:
        The position of the batch's first image, which images of the batch could be read, and those: each is
        opened when it is asked for, and the list is whole when all were.
    """
    remaining, start = iter(one_or_several(images)), 0
    while batch := list(islice(remaining, batch_size)):
        readable: list[bool] = []
        yield start, readable, _opened(batch, readable, skip_broken)
        start += len(batch)


def _opened(batch: Iterable[Any], readable: list[bool], skip_broken: bool) -> Iterator[Image.Image]:
    for source in batch:
        picture = _open_or_skip(source, skip_broken)
        readable.append(picture is not None)
        if picture is not None:
            yield picture
        del picture  # the next one is not to be opened beside it


def _open_or_skip(source: Any, skip_broken: bool) -> Image.Image | None:
    try:
        return open_image(source)
    except BrokenImageError as error:
        if not skip_broken:
            raise
        warnings.warn(f"{error}; no prediction for it", stacklevel=2)
        return None
