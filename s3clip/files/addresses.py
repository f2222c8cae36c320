"""Opening a file wherever it lies: a path of this machine, or an address that fsspec reads."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from s3clip._version import __version__

LARGEST_DOWNLOAD = 256 << 20
"""Bytes that are read of a file at a web address."""
_TIMEOUT = 30  # seconds that a server may be silent
_HUB_BLOCK = 16 * 2**20  # bytes that one request fetches


def is_address(path: object) -> bool:
    """Whether a path is an address that fsspec reads, such as "s3://bucket/name", and not of this machine."""
    return isinstance(path, str) and "://" in path


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading anywhere in it: a path, or an address that fsspec reads.

    Of an address a few MB are fetched at a time; nothing is stored, and what is skipped is not fetched.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a pipe or a device.
        ConnectionError: the store cannot be reached; so says the file too, when it is read.
        ImportError: the package that reads such addresses is not installed.
    """
    if not is_address(path):
        return regular_file(path).open("rb")
    import fsspec

    address = str(path)
    options: dict[str, Any] = {}
    if address.startswith("hf://"):
        # The next block is fetched while this one is read; some are kept, since a table is read at its end
        # and then from its beginning.
        cache = {"cache_type": "background", "cache_options": {"maxblocks": 4}}
        options = {"block_size": _HUB_BLOCK, **cache}
    filesystem, name = fsspec.core.url_to_fs(address)
    with reaching(address):
        return cast(BinaryIO, _StoreFile(filesystem.open(name, "rb", **options), address))


def regular_file(path: str | os.PathLike[str]) -> Path:
    """Return the path; ValueError where it is a pipe, which would be waited for, or a device without end."""
    path = Path(path)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, the system says so when it is opened
        raise ValueError("a pipe or a device, not a file")
    return path


def read_address(address: str, *, timeout: float | None = None) -> bytes:
    """Return the content of a file at an address; of http and https without another package.

    Args:
        address: where.
        timeout: seconds that a web server may be silent; None: 30.

    Raises:
        FileNotFoundError: there is none; so says the server, or the store.
        PermissionError: it may not be read.
        ConnectionError: it cannot be reached, or is larger than `LARGEST_DOWNLOAD`.
        ImportError: the package that reads such addresses is not installed.
    """
    if not address.startswith(("http://", "https://")):
        with open_binary(address) as file:
            return file.read()
    import urllib.error  # these take a while to import
    import urllib.request

    request = urllib.request.Request(address, headers={"User-Agent": f"s3clip/{__version__}"})
    with reaching(address):
        try:
            with _web().open(request, timeout=_TIMEOUT if timeout is None else timeout) as answer:
                content: bytes = answer.read(LARGEST_DOWNLOAD + 1)
                length = answer.headers.get("Content-Length") or "0"
        except urllib.error.HTTPError as error:
            gone, denied = FileNotFoundError, PermissionError
            kinds = {404: gone, 410: gone, 401: denied, 403: denied}
            raise kinds.get(error.code, OSError)(f"{address}: {error}") from error
        if len(content) > LARGEST_DOWNLOAD:
            raise ValueError(f"it has more than {LARGEST_DOWNLOAD:,} bytes")
        if length.isdecimal() and len(content) < int(length):
            raise EOFError(f"it ended after {len(content):,} of {length} bytes")
    return content


@cache
def _web() -> Any:
    """Return what opens web addresses; it follows no redirect to another scheme, but from http to https."""
    import urllib.request

    class SameScheme(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.startswith(("https://", f"{req.type}://")):
                raise ValueError(f"it is redirected to {newurl}")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return urllib.request.build_opener(SameScheme)


class _StoreFile(io.RawIOBase):
    """A file of a store. Each store has a client with errors of its own; here they are those of files."""

    def __init__(self, file: Any, address: str) -> None:
        self._file = file
        self._address = address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def read(self, size: int | None = -1) -> bytes:
        with reaching(self._address):
            return bytes(self._file.read(-1 if size is None else size))

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        with reaching(self._address):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Raise ConnectionError for whatever the client of a store raises, but for a file that is not there."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        raise
    except Exception as error:  # of any client: few of them are OSErrors
        raise ConnectionError(f"{address}: cannot be reached ({error}); try again") from error
