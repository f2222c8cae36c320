"""Labelled images taken in: their embeddings, their labels, and what of them is kept."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from s3clip.arguments import plain
from s3clip.class_space import ClassSpace, Examples, FittedClass, teach
from s3clip.class_space.examples import NONE_OF_THESE, copies, joined, rows_of
from s3clip.images.opening import one_or_several
from s3clip.prediction.batches import AnsweringHead, as_embeds, check_embeds, embeddings
from s3clip.prediction.calibrating import checked_rate
from s3clip.prediction.class_labels import class_positions
from s3clip.printing import counted
from s3clip.space.strength import first_of

MOST_NUMBERS = 2**26
"""Images x the wider of classes and dimensions: half a gigabyte in float64. Of more, some are taken."""


class TeachableHead(AnsweringHead, Protocol):
    """What learning of labelled images reads of a head."""

    @property
    def class_space(self) -> ClassSpace:
        """Its fitted value."""

    def _take(self, space: ClassSpace) -> Any:
        """Become another one."""


Head = TypeVar("Head", bound=TeachableHead)


def fit_few_shot(
    head: Head,
    images: Any = None,
    labels: Any = None,
    *,
    image_embeds: Tensor | None = None,
    add: bool = False,
    false_accept_rate: float = 0.05,
    batch_size: int = 32,
) -> Head:
    """Learn from labelled images: logits become those of the words plus a linear residual of the embedding.

    Cross-validation on these very images says how strongly to hold on to the words; where no residual gains
    more than chance, logits stay as they are. `head.few_shot` is the report. Labelled images are kept (their
    embeddings in float16), so that classes and settings can be changed later: what is learned is then learned
    anew. A calibration, of other logits, is dropped. See docs/few_labels.md.

    Args:
        head: a fitted head, which takes them.
        images: as for `predict`.
        labels: the class of each image: a position, a name or an id; None where it shows none of the
            classes: such images serve rejection (`Prediction.accepted`), and nothing else.
        image_embeds: (images, dim) embeddings instead.
        add: keep the labelled images that are there; of an image that comes again, the new label counts.
        false_accept_rate: the share of images of no class that may be accepted, in [0, 1).
        batch_size: images per call of the image tower.

    Returns:
        The head itself.

    Raises:
        ValueError: not fitted; no images; labels of no class or of another number than the images; an image
            that is given with two labels; a head whose labelled images were not kept, with `add`.
        TypeError: labels that are neither positions nor strings nor None.

    Examples:
        >>> head.fit_few_shot(images[:100], labels[:100]).few_shot.seen[7] == labels[:100].count(7)
        True
    """
    rate = checked_rate(false_accept_rate)
    space, scale = head.class_space, head.logit_scale.detach().item()
    positions = torch.tensor(label_positions(labels, head.classes), dtype=torch.int64, device="cpu")
    if not len(positions):
        raise ValueError("labels: expected labelled images, got none")
    before = space.few_shot
    if add and before is not None and not isinstance(before, Examples):
        raise ValueError(
            "add: this head was saved without its labelled images (examples=False), so that none can be "
            "added; give all of them, without add"
        )
    taken = _spread(positions, MOST_NUMBERS // max(len(head.classes), space.raw.shape[1]))
    embeds = _embedded(head, images, image_embeds, taken, len(positions), batch_size)
    found = Examples(embeds, positions[taken].to(embeds.device), scale, rate)
    found = _distinct(found, taken)
    if add and isinstance(before, Examples):
        found = _with_new_labels(before, found)
    head._take(teach(space, found))
    return head


def label_positions(labels: Any, classes: Sequence[FittedClass]) -> list[int]:
    """Return the class of each label, `NONE_OF_THESE` for None.

    Raises:
        ValueError: no labels, or one that is no class's position, name or id, or that of several.
        TypeError: a label that is something else.
    """
    if labels is None or isinstance(labels, str) or not isinstance(labels, Iterable):
        raise TypeError(f"labels: expected one for each image, got {labels!r}")
    listed = [plain(label) for label in (labels.tolist() if isinstance(labels, Tensor) else labels)]
    shown = [place for place, label in enumerate(listed) if label is not None]
    names = [each.name for each in classes]
    found = class_positions([listed[place] for place in shown], names, [each.id for each in classes])
    positions = [NONE_OF_THESE] * len(listed)
    for place, position in zip(shown, found, strict=True):
        if position is None:
            raise ValueError(
                f"labels: {listed[place]!r} is no class; those there are: {', '.join(map(repr, names[:10]))}"
                f"{', ...' if len(names) > 10 else ''}; None for an image that shows none of them"
            )
        positions[place] = position
    return positions


def _spread(labels: Tensor, most: int) -> Tensor:
    """Return the positions of the images that are taken, ascending: of too many, the first of every class."""
    if len(labels) <= most:
        return torch.arange(len(labels), device="cpu")
    warnings.warn(
        f"labels: of {counted(len(labels), 'image')} {most} are used, the first ones of every class; more "
        f"would not fit in memory, and add little",
        stacklevel=3,
    )
    by_class = labels.argsort(stable=True)
    counts = labels[by_class].unique_consecutive(return_counts=True)[1]
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    place = torch.arange(len(labels), device="cpu") - starts  # among the images of the class
    return by_class[place.argsort(stable=True)[:most]].sort().values


def _embedded(
    head: TeachableHead, images: Any, image_embeds: Tensor | None, taken: Tensor, labels: int, batch_size: int
) -> Tensor:
    """Return (taken, dim) float16 embeddings of length one; images that are not taken are not opened."""
    if image_embeds is not None:
        given = as_embeds(image_embeds)
        count = len(given) if given.ndim else 0
        if images is None and count != labels:
            raise ValueError(f"labels: expected one for each of {counted(count, 'image')}, got {labels}")
        image_embeds = given if len(taken) == labels else given[taken.to(given.device)]
    elif images is not None:
        images = _some(one_or_several(images), taken, labels)
    parts = [each.half() for each in embeddings(head, images, image_embeds, batch_size)]
    found = rows_of(parts)
    # What float16 rounds may be no number: nothing that `predict` takes is.
    check_embeds(found)
    return found


def _some(images: Iterable[Any], taken: Tensor, labels: int) -> Iterable[Any]:
    """Give some of the images one by one; an error where there are not as many as labels."""
    wanted, count = set(taken.tolist()), 0
    for position, image in enumerate(images):
        count = position + 1
        if position in wanted:
            yield image
    if count != labels:
        raise ValueError(f"labels: expected one for each of {counted(count, 'image')}, got {labels}")


def _distinct(examples: Examples, taken: Tensor) -> Examples:
    """Leave out an image that comes again with the same label.

    Raises:
        ValueError: one that comes again with another label.
    """
    groups, labels = copies(examples.embeds), examples.labels.cpu()
    first = first_of(groups)[groups]
    if bool((other := labels != labels[first]).any()):
        again = int(other.nonzero()[0])
        raise ValueError(
            f"labels: image {int(taken[again])} is image {int(taken[first[again]])} again, with another "
            f"label; give each image once"
        )
    kept = (first == torch.arange(len(first), device="cpu")).to(examples.embeds.device)
    return replace(examples, embeds=examples.embeds[kept], labels=examples.labels[kept])


def _with_new_labels(before: Examples, new: Examples) -> Examples:
    """Return the examples of both; of an image that is in both, the new label counts."""
    at = new.embeds.device
    groups = copies(rows_of([before.embeds.to(at), new.embeds]))
    old, again = groups[: len(before.labels)], groups[len(before.labels) :]
    kept = ~torch.isin(old, again).to(before.embeds.device)
    left = replace(before, embeds=before.embeds[kept].to(at), labels=before.labels[kept].to(at))
    both = joined(left, new)
    assert both is not None  # there are new ones
    return replace(both, logit_scale=new.logit_scale, false_accept_rate=new.false_accept_rate)
