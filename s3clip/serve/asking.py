"""Requests read: what is asked for, checked, and pictures made into pixels."""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from s3clip.backbone.image_transform import ImageTransform
from s3clip.files.addresses import is_address
from s3clip.files.json import checked, parse_json
from s3clip.files.reach import Named, Reach
from s3clip.images.opening import open_image
from s3clip.serve.bounds import Bounds, RefusedError

_NOWHERE = "request://"
"""What names in a request are relative to: no folder of this machine."""


class Asked(BaseModel):
    """What a request to compute something holds, as JSON or in the fields of a form.

    Attributes:
        images: base64 text, also as a data URI, and addresses where those are allowed; or files of a form.
        embeddings: instead, of the backbone of the head, of any length.
        top_k: how many classes.
        level: as of `predict`.
        among: as of `predict`, which says what is wrong with it.
        language: as of `predict`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    images: list[str | bytes] | None = None
    embeddings: list[list[float]] | None = None
    top_k: int = Field(5, ge=1)
    # `predict` checks these, and takes no True for a position.
    level: Any = None
    among: Any = None
    language: Any = None


def asked_in_json(body: bytes) -> Asked:
    """Return what a JSON body asks for. Raises RefusedError."""
    try:
        return checked(parse_json(body, "the body"), Asked, "the body", strict=True)
    except ValueError as error:
        raise RefusedError(422, str(error)) from error


def asked_in_form(fields: Sequence[tuple[str, str | bytes]]) -> Asked:
    """Return what a form asks for: files are bytes, and `among` may be there several times."""
    given: dict[str, Any] = {}
    for name, value in fields:
        if name in ("images", "among"):
            given.setdefault(name, []).append(value)
        elif name in given:
            raise RefusedError(422, f"the form: {name} is given twice")
        else:
            given[name] = value
    if "embeddings" in given:
        raise RefusedError(422, "the form: embeddings go into JSON")
    try:
        return checked(given, Asked, "the form")
    except ValueError as error:
        raise RefusedError(422, str(error)) from error


def pixels_of(
    source: str | bytes, place: int, bounds: Bounds, transform: ImageTransform
) -> dict[str, Tensor]:
    """Return what the image tower reads of one picture of a request.

    Args:
        source: the bytes of a file, base64 text, or an address.
        place: its number among the pictures, for errors.
        bounds: on its pixels, and what addresses are allowed.
        transform: what makes pixels of pictures.

    Raises:
        ValueError, OSError: it is no picture, has too many pixels, or may not be fetched.
    """
    name = f"images[{place}]"
    content = source if isinstance(source, bytes) else _content(source, name, bounds)
    try:
        with Image.open(io.BytesIO(content)) as found:
            width, height = found.size
    except Exception:  # open_image says in plain words what is wrong
        width = height = 0
    if width * height > bounds.pixels:
        raise ValueError(f"{name}: {width:,} x {height:,} pixels, and {bounds.pixels:,} are decoded at most")
    return transform([open_image(content, name=name)])


def _content(text: str, name: str, bounds: Bounds) -> bytes:
    # Never given to open_image as it is: to that a text may be a path of this machine.
    if is_address(text):
        try:
            content = Named(text, Reach(_NOWHERE, bounds.addresses)).read()
        except ImportError as error:  # the package of a store
            raise ValueError(f"{name}: {error}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: not fetched ({error})") from error
        if len(content) > bounds.body_bytes:
            raise ValueError(f"{name}: {len(content):,} bytes, and {bounds.body_bytes:,} are read at most")
        return content
    head, mark, rest = text.partition(",") if text.startswith("data:") else ("", "", text)
    if mark and not head.endswith(";base64"):
        raise ValueError(f"{name}: expected data:image/...;base64,...")
    try:
        return base64.b64decode("".join(rest.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{name}: expected base64 of a picture's file, got {text[:40]!r} ({error})"
        ) from error
