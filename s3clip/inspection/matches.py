"""Which texts matched which images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from s3clip.head import SynonymousSpaceHead
from s3clip.images.thumbnails import thumbnail
from s3clip.prediction.answers import as_predictions
from s3clip.prediction.batches import embedded_batches
from s3clip.prediction.class_labels import class_positions
from s3clip.prediction.scope import scope_of


@dataclass(frozen=True)
class ImageMatch:
    """The best answer for one image.

    Attributes:
        file: its name, without folders.
        class_index: the class.
        row: the text among those of the class that is nearest to the image; None where texts are not known.
        score: the probability of the class, in [0, 1].
        thumbnail: the image as a data: URI.
        embedding: (dim,) of the image.
        truth: the class that its folder is called after; None where it is called otherwise.
    """

    file: str
    class_index: int
    row: int | None
    score: float
    thumbnail: str
    embedding: Tensor = field(repr=False, compare=False)
    truth: int | None = None


@torch.inference_mode()
def match_images(
    head: SynonymousSpaceHead, files: Sequence[str | os.PathLike[str]], *, batch_size: int = 32
) -> list[ImageMatch]:
    """Classify image files; one that cannot be read is left out, with a warning.

    Raises:
        ValueError: the head is not fitted or has no backbone.
    """
    kept = set(head.space.kept.tolist())
    everything = scope_of(head.classes)
    truth = {name: _truth(head, name) for name in {Path(file).absolute().parent.name for file in files}}
    first_row = [0]
    for each in head.classes:
        first_row.append(first_row[-1] + each.rows)
    matches, remaining = [], iter(files)
    for readable, logits, embeds in embedded_batches(head, list(files), None, batch_size, skip_broken=True):
        answers = zip(
            as_predictions(head, head.current_calibration, logits, embeds, 1, everything),
            embeds.cpu(),
            strict=True,
        )
        for is_readable, file in zip(readable, remaining, strict=False):
            if not is_readable:
                continue
            (best,), embedding = next(answers)
            texts = head.classes[best.class_index].texts or []
            start = first_row[best.class_index]
            rows = [row for row, text in enumerate(texts) if text == best.text and start + row in kept]
            place = Path(file)
            matches.append(
                ImageMatch(
                    place.name,
                    best.class_index,
                    rows[0] if rows else None,
                    best.score,
                    thumbnail(file),
                    embedding,
                    truth[place.absolute().parent.name],
                )
            )
    return matches


def _truth(head: SynonymousSpaceHead, folder: str) -> int | None:
    """Return the class that a folder is called after; None where there is none, or several are."""
    try:
        return class_positions([folder], head.class_names, [each.id for each in head.classes])[0]
    except ValueError:  # of a name that several classes have
        return None
