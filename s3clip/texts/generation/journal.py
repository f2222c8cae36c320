"""Answers on disk, each written at once, so that a run that is killed asks nothing again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import ValidationError

from s3clip.texts.synonyms import SynonymClass

SUFFIX = ".partial.jsonl"


class Journal:
    """A file of an answer a line, beside the output.

    An answer is found again by the model, the version of the prompt, the domain, the class's position and its
    name; lines of other questions are left alone. A line that a kill broke off is no answer.
    """

    def __init__(self, path: Path, question: Mapping[str, Any]) -> None:
        self.path = path
        self._question = dict(question)
        self._lock = Lock()
        self._file: int | None = None

    def read(self, names: Mapping[int, str]) -> dict[int, SynonymClass]:
        """Return the answers there are for these classes, by position."""
        found: dict[int, SynonymClass] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
                position, own = record.pop("position"), record.pop("class")
                if record == self._question and names.get(position) == own["name"]:
                    found[position] = SynonymClass.model_validate(own)
            except (ValueError, TypeError, KeyError, AttributeError, ValidationError):
                continue
        return found

    def add(self, answers: Mapping[int, SynonymClass]) -> None:
        """Append answers, and wait until they are on the disk."""
        lines = [
            {**self._question, "position": position, "class": own.model_dump(exclude_defaults=True)}
            for position, own in answers.items()
        ]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        with self._lock:
            if self._file is None:
                self._file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
                content = b"\n" + content  # the last line may be broken off
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
