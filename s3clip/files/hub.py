"""Errors of the HTTP library of huggingface_hub: requests in its older versions, httpx in its newer ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

TRANSPORT_ERROR: Any = HfHubHTTPError.__mro__[1]
"""The base of the errors of that library."""


@contextmanager
def hub_connection() -> Iterator[None]:
    """Raise ConnectionError for errors of huggingface_hub's HTTP library that it lets through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not isinstance(error, TRANSPORT_ERROR):
            raise
        raise ConnectionError(f"the connection to the Hub failed ({error}); try again") from error
