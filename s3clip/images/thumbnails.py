"""Pictures small enough to be in a page."""

import base64
import io

from s3clip.images.opening import open_image

THUMBNAIL = 112
"""Pixels of the longer side."""


def thumbnail(source: object) -> str:
    """Return a small JPEG of an image, in any form that `open_image` takes, as a data: URI."""
    image = open_image(source)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
