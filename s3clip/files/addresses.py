"""Opening a file wherever it lies: a path of this machine, or an address that fsspec reads."""

import io
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

LARGEST_FILE = 256 << 20
"""Bytes that are read of a file which is read whole: at an address, in a compressed tar, named in a table."""
_HUB_BLOCK = 16 * 2**20  # bytes that one request fetches


def checked_path(path: str | os.PathLike[str], argument: str) -> str:
    """Return a path as a text. Raises ValueError for an empty one, which pathlib takes for "."."""
    if not (text := os.fspath(path)):
        raise ValueError(f"{argument}: expected a path, got an empty text; the folder one is in is '.'")
    return text


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
    if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
        return regular_file(name).open("rb")
    with reaching(address):
        return cast(BinaryIO, _StoreFile(filesystem.open(name, "rb", **options), address))


def regular_file(path: str | os.PathLike[str]) -> Path:
    """Return the path; ValueError where it is a pipe, which would be waited for, or a device without end."""
    path = Path(path)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, the system says so when it is opened
        raise ValueError("a pipe or a device, not a file")
    return path


def read_address(
    address: str, *, timeout: float | None = None, hosts: Collection[str] | None = None
) -> bytes:
    """Return the content of a file at an address; of http and https without another package.

    Args:
        address: where.
        timeout: seconds that a web server may be silent; None: 30.
        hosts: web hosts that may be of this machine or of a private network; None: the one of the address,
            which the caller has named, and none that it redirects to.

    Raises:
        FileNotFoundError: there is none; so says the server, or the store.
        PermissionError: it may not be read.
        PrivateHostError: `hosts` are given, and it would be fetched from a private host that is none of them.
        ConnectionError: it cannot be reached, or is larger than `LARGEST_FILE`.
        ImportError: the package that reads such addresses is not installed.
    """
    if not address.lower().startswith(("http://", "https://")):
        with open_binary(address) as file:
            return read_whole(file)
    from s3clip.files import web  # urllib takes a while to import

    own = (web.host_of(address),) if hosts is None else hosts
    passed: tuple[type[Exception], ...] = () if hosts is None else (web.PrivateHostError,)
    with reaching(address, *passed):
        return web.fetch(address, LARGEST_FILE, timeout=timeout, hosts=own)


def read_whole(file: BinaryIO) -> bytes:
    """Return the rest of a file; ValueError where it is larger than `LARGEST_FILE`."""
    content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
    return content


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
def reaching(address: str, *others: type[Exception]) -> Iterator[None]:
    """Raise ConnectionError for whatever the client of a store raises, but for a file that is not there.

    Args:
        address: that is read.
        others: errors that are raised as they are, too.
    """
    known: tuple[type[Exception], ...]
    known = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, *others)
    try:
        yield
    except known:
        raise
    except Exception as error:  # of any client: few of them are OSErrors
        raise ConnectionError(f"{address}: cannot be reached ({error}); try again") from error
