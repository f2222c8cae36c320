"""Is this file what it was? One answer, for whatever is kept of files: size, version, and both ends."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s3clip.files.addresses import is_address, reaching

END = 64 * 1024
"""Bytes at the beginning and at the end of a file that its state has a digest of."""

_VERSIONS = ("etag", "ETag", "oid", "blob_id", "md5Hash", "mtime", "last_modified", "LastModified")
"""What stores call that which changes with the content."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells that a file has changed. Its text, `str(state)`, is read by `FileState.parse`.

    Attributes:
        size: in bytes.
        version: the time of its last change in nanoseconds, or what the store says; "" if it says nothing.
        ends: digest of the first and the last 64 KiB, which sees a change that keeps size and time; None of
            what is not of this machine, cannot be read, or was recorded without.
    """

    size: int
    version: str = ""
    ends: str | None = None

    def agrees(self, now: "FileState") -> bool:
        """Whether a file that was recorded in this state is unchanged; what either does not know is equal."""
        same_ends = self.ends is None or now.ends is None or self.ends == now.ends
        return (self.size, self.version) == (now.size, now.version) and same_ends

    def __str__(self) -> str:
        return f"{self.size} {self.ends or '-'} {self.version}"

    @classmethod
    def parse(cls, text: str) -> "FileState":
        """Return the state that a text is of. Raises ValueError where it is none."""
        size, _, rest = text.partition(" ")
        ends, mark, version = rest.partition(" ")
        if not (size.isascii() and size.isdecimal() and ends and mark):
            raise ValueError(f"expected 'size ends version' of a file, got {text[:80]!r}")
        return cls(int(size), version, None if ends == "-" else ends)


def file_state(path: str | os.PathLike[str]) -> FileState:
    """Return the state of a file as it is now: a path, or an address that fsspec reads.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be asked for; ConnectionError: nor can its store.
    """
    if is_address(path):
        import fsspec

        filesystem, name = fsspec.core.url_to_fs(str(path))
        with reaching(str(path)):
            filesystem.invalidate_cache(name)
            return store_state(filesystem.info(name))
    status = os.stat(path)
    ends = _ends(path, status.st_size) if stat.S_ISREG(status.st_mode) else None
    return FileState(status.st_size, str(status.st_mtime_ns), ends)


def store_state(info: Mapping[str, Any]) -> FileState:
    """Return the state of a file as fsspec describes it: `info`, or a value of `find(detail=True)`."""
    version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
    return FileState(int(info["size"] or 0), version)


def _ends(path: str | os.PathLike[str], size: int) -> str | None:
    try:
        with open(path, "rb", buffering=0) as file:
            digest = hashlib.blake2b(file.read(END), digest_size=8)
            if size > END:
                file.seek(max(END, size - END))
                digest.update(file.read(END))
    except OSError:  # it is there all the same; whoever reads it will say why it cannot be read
        return None
    return digest.hexdigest()
