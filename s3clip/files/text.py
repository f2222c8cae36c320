"""Text from outside: UTF-8, within a bound; errors name the file and say what to do."""

import os
from pathlib import Path

from s3clip.files.json import LARGEST


def read_text(path: str | os.PathLike[str], name: str | None = None) -> str:
    """Return the text of a file, without a byte order mark.

    Args:
        path: the file.
        name: what an error calls it; None: its path.

    Raises:
        ValueError: it is not UTF-8, or too long. And OSError.
    """
    name = os.fspath(path) if name is None else name
    with Path(path).open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{name}: more bytes than are read of a text ({LARGEST:,})")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        reason = "it begins as UTF-16 does" if utf_16 else f"{error.reason} at byte {error.start}"
        raise ValueError(f"{name}: is not UTF-8 ({reason}); save it as UTF-8") from None
