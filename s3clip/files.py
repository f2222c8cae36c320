"""Opening a file wherever it lies, and writing one so that nobody sees a part, and one process alone does."""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None  # type: ignore[assignment]

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
    with _reaching(address):
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
        with _reaching(self._address):
            return bytes(self._file.read(-1 if size is None else size))

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        with _reaching(self._address):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        raise
    except Exception as error:  # of any client: few of them are OSErrors
        raise ConnectionError(f"{address}: cannot be reached ({error}); try again") from error


def in_utf8(text: str) -> str:
    r"""Return a path as a text that can be written: a byte that is no UTF-8 becomes `\xNN`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def lock(file: BinaryIO) -> bool:
    """Lock an open file against other processes, until it is closed; return False if one has done so.

    Where there are no locks, on Windows and some file systems, every process may write.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that the path holds the old content or the new, never a part.

    Raises:
        OSError: it cannot be written, as where it is a folder or lies in none.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; give what an ordinary open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
