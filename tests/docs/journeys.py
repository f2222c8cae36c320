"""Which functions of the package are called, in which order: to hold the journeys of a page against."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import s3clip

PACKAGE = Path(s3clip.__file__).parent


def called_by(action: Callable[[], Any]) -> list[str]:
    """Return the functions that an action calls, as `room.module.function`, in order."""
    found: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{PACKAGE}/"):
            parts = Path(path).relative_to(PACKAGE).with_suffix("").parts
            module = ".".join(part for part in parts if part != "__init__")
            name = f"{module}.{frame.f_code.co_qualname}".removesuffix(".__init__")
            if found[-1:] != [name]:
                found.append(name)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]
    return found
