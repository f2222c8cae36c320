"""The connection to the Hub: what a repository is called, and the errors of its HTTP library."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

TRANSPORT_ERROR: Any = HfHubHTTPError.__mro__[1]
"""The base of the errors of its HTTP library: requests in older versions, httpx in newer ones."""


@contextmanager
def hub_connection() -> Iterator[None]:
    """Raise ConnectionError for errors of huggingface_hub's HTTP library that it lets through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not isinstance(error, TRANSPORT_ERROR):
            raise
        raise ConnectionError(f"the connection to the Hub failed ({error}); try again") from error


def is_repository(name: str) -> bool:
    """Whether a name has the form user/name of a repository on the Hub, and no such folder is here."""
    return _REPOSITORY.fullmatch(name) is not None and not os.path.isdir(name)
