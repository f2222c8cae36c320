"""What a run shows of a benchmark: the images of its worst classes, small, and the first of many warnings."""

import io
from collections.abc import Sequence

from PIL import Image

WORST_CLASSES = 8
EXAMPLES = 4
THUMBNAIL = 96
"""Pixels of its longer side."""


def thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG of an image."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def first_of(texts: Sequence[str], limit: int = 3) -> str:
    """Return the first of some texts, and how many more there are."""
    more = f"; and {len(texts) - limit} more" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more
