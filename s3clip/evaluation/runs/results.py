"""What a run says of a set of either task: how many images, what is wrong with them, its worst classes."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from PIL import Image

from s3clip.evaluation.benchmarks.sets import EvaluationSet
from s3clip.evaluation.runs.cache import Seen
from s3clip.images.sources import Record
from s3clip.printing import counted

WORST_CLASSES = 8
EXAMPLES = 4
THUMBNAIL = 96
"""Pixels of its longer side."""


class Scored(NamedTuple):
    """What came of a set.

    Attributes:
        benchmark: what `run.json` says of it.
        thumbnails: the JPEGs that this names.
        times: milliseconds that each method took.
    """

    benchmark: dict[str, Any]
    thumbnails: dict[str, bytes]
    times: dict[str, dict[str, float | None]]


class Mistakes(NamedTuple):
    """A class that a method is bad at.

    Attributes:
        facts: how bad.
        taken_for: names of other classes, and how often.
        images: that show it, and in words what they were taken for; the worst first.
    """

    facts: dict[str, float]
    taken_for: list[list[Any]]
    images: Iterable[tuple[Record, str]]


def describe_set(
    which: EvaluationSet, images: Sequence[Seen], scored: int, left_out: int = 0, unusable: str = "read"
) -> dict[str, Any]:
    """Return what is said of a set of either task.

    Args:
        which: the set.
        images: all that were found.
        scored: how many of them were.
        left_out: how many have a label that is no class.
        unusable: what cannot be done with the others.
    """
    broken = [record for record, _ in images if record.error is not None]
    warnings = list(which.problems)
    if broken:
        said = first_of([str(record.error) for record in broken])
        warnings.append(f"cannot be {unusable}: {len(broken)} of the images: {said}")
    expected = which.expected_images
    if expected not in (None, len(images)):
        warnings.append(
            f"{counted(len(images), 'image')} found where the table says {expected}: these are not the "
            f"scores of {which.name}"
        )
    return {
        "name": which.name,
        "task": which.task,
        "split": which.split,
        "convention": which.convention,
        "headline": which.headline,
        "counts": {
            "scored": scored,
            "of": len(images) if expected is None else expected,
            "found": len(images),
            "expected": expected,
            "broken": len(broken),
            "left_out": left_out,
        },
        "warnings": warnings,
        "broken": [{"key": record.key, "error": record.error} for record in broken],
    }


def worst_classes(
    which: EvaluationSet, method: str, order: Sequence[int], mistakes_of: Callable[[int], Mistakes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the classes that a method is worst at, with a few images, and the thumbnails of these.

    Args:
        which: the set.
        method: its name.
        order: of the classes that it is bad at, the worst first.
        mistakes_of: what it does with a class.
    """
    shards = {shard.name: shard for shard in which.shards}
    thumbnails: dict[str, bytes] = {}
    rows = []
    for label in order[:WORST_CLASSES]:
        facts, taken_for, images = mistakes_of(label)
        examples = []
        for record, words in images:
            name = None
            try:
                image = next(shards[record.shard].samples(record.index)).open()
            except (OSError, ValueError, StopIteration):  # it cannot be read any more
                pass
            else:
                name = f"thumbnails/{which.name}-{len(thumbnails):03}.jpg"
                thumbnails[name] = _thumbnail(image)
            examples.append({"key": record.key, "taken_for": words, "thumbnail": name})
            if len(examples) == EXAMPLES:
                break
        row = {"class": which.class_names[label], **facts, "taken_for": taken_for, "examples": examples}
        rows.append(row)
    return {"method": method, "classes": rows}, thumbnails


def _thumbnail(image: Image.Image) -> bytes:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def first_of(texts: Sequence[str], limit: int = 3) -> str:
    """Return the first of some texts, and how many more there are."""
    more = f"; and {len(texts) - limit} more" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more
