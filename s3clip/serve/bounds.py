"""What a service takes, and what it refuses."""

import os
from dataclasses import dataclass, fields

from s3clip.arguments import is_number, whole_number
from s3clip.files.reach import allowed_places


class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        headers: beside it.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


@dataclass(frozen=True)
class Bounds:
    """How much at once. What is beyond is refused, and nothing grows with what is asked.

    Attributes:
        batch_size: pictures that go through the image tower at once.
        longest_wait: seconds that a picture waits for others while the image tower has nothing to do.
        waiting: pictures, or embeddings, of all requests that are not answered yet; beyond, 503.
        pictures: or embeddings in a request; beyond, 413.
        body_bytes: of a request; beyond, 413.
        pixels: of a picture, which is not decoded beyond.
        decoders: threads that decode.
        addresses: what an address in the place of a picture may begin with, as for `allow_addresses` of
            `s3clip.bulk.label`; none: no address is fetched.
    """

    batch_size: int = 32
    longest_wait: float = 0.005
    waiting: int = 256
    pictures: int = 64
    body_bytes: int = 32 << 20
    pixels: int = 50_000_000
    decoders: int = max(1, min(8, os.cpu_count() or 1))
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type in (int, "int"):
                whole_number(getattr(self, each.name), each.name)
        if not (is_number(self.longest_wait) and 0 <= self.longest_wait <= 60):
            raise ValueError(f"longest_wait: expected seconds in [0, 60], got {self.longest_wait!r}")
        if self.waiting < self.pictures:
            raise ValueError(
                f"waiting: expected {self.pictures}, the pictures of one request, or more, got {self.waiting}"
            )
        allowed_places(self.addresses)
