"""Labels of images, as positions of classes."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from s3clip.arguments import is_whole, plain
from s3clip.printing import counted
from s3clip.space.synonymous_space import as_tensor
from s3clip.texts.labels import NameIndex


def class_positions(
    labels: Iterable[int | str],
    class_names: Sequence[str],
    class_ids: Sequence[int | str | None],
    argument: str = "labels",
) -> list[int | None]:
    """Return the class of each label, None for a string that is the id or name of no class.

    A number is a position. A string is looked up as by `names_and_ids`. An error names the `argument`.

    Raises:
        ValueError: a position out of range, or a name or id that several classes have.
        TypeError: a label that is neither.
    """
    index = _index(class_names, class_ids)
    listed = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    found: list[int | None] = []
    for label in listed:
        if isinstance(label, str):
            meant = index.find(label)
            if len(meant) > 1:
                raise ValueError(
                    f"{argument}: {label!r} is the id or name of several classes, {meant}; give positions"
                )
            found.append(meant[0] if meant else None)
        elif is_whole(label):
            if not 0 <= label < len(class_names):
                raise ValueError(
                    f"{argument}: position {label} is out of range for {counted(len(class_names), 'class')}; "
                    f"give ids or names as strings"
                )
            found.append(operator.index(label))
        else:
            raise TypeError(
                f"{argument}: expected positions or strings, got {label!r} ({type(label).__name__})"
            )
    return found


class Identified(Protocol):
    """What is known of a class here."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def id(self) -> int | str | None:
        """What it is called elsewhere."""


def names_and_ids(classes: Iterable[Identified]) -> NameIndex:
    """Return what labels mean: the class of an id first, "5" as the id 5 too, then that of a name."""
    listed = list(classes)
    return _index([each.name for each in listed], [each.id for each in listed])


def _index(class_names: Sequence[str], class_ids: Sequence[int | str | None]) -> NameIndex:
    ids = [(str(own), position) for position, own in enumerate(class_ids) if own is not None]
    return NameIndex(ids, [(name, position) for position, name in enumerate(class_names)])


def checked_labels(labels: Any, classes: Sequence[Identified], images: int) -> Tensor:
    """Return labels as (images,) positions or (images, classes) booleans.

    Args:
        labels: positions, names, ids as texts, or a table of zeros and ones.
        classes: of the head.
        images: how many there are.

    Raises:
        ValueError: a name that no class or several classes have, a position out of range, or a wrong count.
    """
    if isinstance(labels, str):
        raise TypeError(f"labels: expected one label for each image, got the text {labels!r}")
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "OSU":  # names, in an array
        labels = labels.tolist()
    if not isinstance(labels, Tensor | np.ndarray):
        labels = [plain(label) for label in labels]
    if len(labels) != images:
        raise ValueError(f"labels: expected one for each of {counted(images, 'image')}, got {len(labels)}")
    if isinstance(labels, list) and any(isinstance(label, str) for label in labels):
        labels = _positions_of_names(labels, classes)
    table = _comparable(as_tensor(labels))
    if table.ndim == 2:
        if table.shape[1] != len(classes) or not bool(((table == 0) | (table == 1)).all()):
            raise ValueError(
                f"labels: expected zeros and ones of shape (images, {len(classes)}), got "
                f"{tuple(table.shape)} {table.dtype}"
            )
        return table.bool()
    if table.ndim != 1 or table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise TypeError(
            f"labels: expected class positions, names, or a table of zeros and ones (images, classes), got "
            f"{tuple(table.shape)} {table.dtype}"
        )
    outside = (table < 0) | (table >= len(classes))
    if bool(outside.any()):
        raise ValueError(f"labels: expected positions in 0..{len(classes) - 1}, got {int(table[outside][0])}")
    return table.long()


def _comparable(labels: Tensor) -> Tensor:
    """Return labels in a type that torch can compare."""
    return labels.long() if labels.dtype in (torch.uint16, torch.uint32, torch.uint64) else labels


def _positions_of_names(labels: Sequence[Any], classes: Sequence[Identified]) -> list[int]:
    if other := [label for label in labels if not isinstance(label, str)]:
        raise ValueError(f"labels: expected names or positions throughout, got {other[0]!r} among names")
    positions = class_positions(labels, [each.name for each in classes], [each.id for each in classes])
    found = []
    for label, position in zip(labels, positions, strict=True):
        if position is None:
            raise ValueError(f"labels: {label!r}: no class has it")
        found.append(position)
    return found
