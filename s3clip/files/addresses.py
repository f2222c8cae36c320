"""Opening a file wherever it lies: a path of this machine, or an address that fsspec reads."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

_HUB_BLOCK = 16 * 2**20  # bytes that one request fetches


def is_address(path: object) -> bool:
    """Whether a path is an address that fsspec reads, such as "s3://bucket/name", and not of this machine."""
    return isinstance(path, str) and "://" in path


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading anywhere in it: a path, or an address that fsspec reads.

    Of an address a few MB are fetched at a time; nothing is stored, and what is skipped is not fetched.

    Raises:
        FileNotFoundError: there is none.
        ConnectionError: the store cannot be reached; so says the file too, when it is read.
        ImportError: the package that reads such addresses is not installed.
    """
    if not is_address(path):
        return Path(path).open("rb")
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
