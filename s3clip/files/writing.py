"""Writing a file so that nobody sees a part, and one process alone does."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None  # type: ignore[assignment]


_DEVICES = "/dev"
_UNFINISHED = ".unfinished"
_OLD = 3600  # seconds; nothing takes so long to write


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


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes that ask the same out of a folder; wait for one that is there.

    Where there are no locks, on Windows and some file systems, every process may write.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file at once; for the rest see `written_atomically`."""
    with written_atomically(path) as file:
        file.write(content)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into, so that the path holds the old content or the new, never a part.

    What killed processes have left in the folder is removed once it is an hour old.

    Raises:
        OSError: it cannot be written, as where it is a folder or lies in none, or is a device such as
            /dev/stdout, in whose place there would be a file afterwards. It names the path.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}; make it first")
    # /dev/stdout may lead to a file, and is not that file.
    if (path.exists() and not path.is_file()) or os.path.realpath(folder) == _DEVICES:
        raise OSError(f"{path}: is no file that can be replaced, but a device or a pipe; give another name")
    _remove_unfinished(folder)
    unfinished = folder / f".{secrets.token_hex(8)}{_UNFINISHED}"
    try:
        with unfinished.open("xb") as file:  # of the mode that any new file gets
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):  # what was wrong before is to be said
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(unfinished)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # of its kind
        raise


@cache  # once in each process: nothing is left but by processes that were killed
def _remove_unfinished(folder: Path) -> None:
    for left in folder.glob(f".*{_UNFINISHED}"):
        with suppress(OSError):  # another process has removed it, or it is not ours to remove
            if time.time() - left.stat().st_mtime > _OLD:
                left.unlink()
