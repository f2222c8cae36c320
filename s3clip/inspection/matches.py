"""Which texts matched which images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s3clip.head import SynonymousSpaceHead
from s3clip.images.thumbnails import thumbnail


@dataclass(frozen=True)
class ImageMatch:
    """The best answer for one image.

    Attributes:
        file: its name, without folders.
        class_index: the class.
        row: the text among those of the class that is nearest to the image; None where texts are not known.
        score: the probability of the class, in [0, 1].
        thumbnail: the image as a data: URI.
    """

    file: str
    class_index: int
    row: int | None
    score: float
    thumbnail: str


def match_images(
    head: SynonymousSpaceHead, files: Sequence[str | os.PathLike[str]], *, batch_size: int = 32
) -> list[ImageMatch]:
    """Classify image files; one that cannot be read is left out, with a warning.

    Raises:
        ValueError: the head is not fitted or has no backbone.
    """
    space = head.space
    kept = set(space.kept.tolist())
    first_row = [0]
    for each in head.classes:
        first_row.append(first_row[-1] + each.rows)
    matches = []
    answers = head.predict(list(files), top_k=1, batch_size=batch_size)
    for file, answer in zip(files, answers, strict=True):
        for best in answer:
            texts = head.classes[best.class_index].texts or []
            start = first_row[best.class_index]
            rows = [row for row, text in enumerate(texts) if text == best.text and start + row in kept]
            matches.append(
                ImageMatch(
                    Path(file).name, best.class_index, rows[0] if rows else None, best.score, thumbnail(file)
                )
            )
    return matches
