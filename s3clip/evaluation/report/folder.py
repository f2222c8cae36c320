"""The folder of a report: what is written into it, and which folders it may be."""

import json
import os
from pathlib import Path
from typing import Any

from s3clip.files.folders import check_own, visible
from s3clip.files.json import read_json
from s3clip.files.writing import write_atomically

REPORTS = ("run", "comparison", "words")
"""What the JSON of a report is called; several may lie in one folder."""

BEST_CLASSES = "best_classes.json"
"""What the classes of a method that has texts of its own are written to, where it is the best."""

_BEFORE = {"embeddings", "thumbnails", BEST_CLASSES}
"""What a command that was killed has left, when there is no report yet."""


def check_report_folder(folder: str | os.PathLike[str], argument: str = "folder") -> Path:
    """Return a folder for a report.

    Args:
        folder: is missing, empty, or holds reports.
        argument: what named it, for errors.

    Raises:
        ValueError: it is a file, or holds something else.
    """
    check_own(folder, argument, _is_ours, "report of s3clip")
    return Path(folder)


def _is_ours(folder: Path) -> bool:
    there = [path for name in REPORTS if (path := folder / f"{name}.json").exists()]
    return all(map(_is_report, there)) if there else _BEFORE.issuperset(visible(os.listdir(folder)))


def _is_report(path: Path) -> bool:
    """Whether a file is the JSON of a report, of whatever version; all of them have settings and versions."""
    try:
        content = read_json(path)
    except ValueError:
        return False
    return isinstance(content, dict) and {"settings", "versions"} <= content.keys()


def save_report(folder: str | os.PathLike[str], name: str, content: dict[str, Any], markdown: str) -> Path:
    """Write what was found as JSON and as Markdown into a folder, made if need be, and return it.

    Args:
        folder: see `check_report_folder`, also for the errors.
        name: one of `REPORTS`.
        content: ready for JSON.
        markdown: the same for people.
    """
    place = check_report_folder(folder)
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for ending, written in (("json", text), ("md", markdown)):
        write_atomically(place / f"{name}.{ending}", written.encode("utf-8", "backslashreplace"))
    return place
