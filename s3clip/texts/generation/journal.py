"""Answers on disk, each written at once, so that a run that is killed asks nothing again."""

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from pydantic import BaseModel, ConfigDict, Field

from s3clip.files.json import parse_json
from s3clip.texts.synonyms import SynonymClass

SUFFIX = ".partial.jsonl"


class Question(BaseModel):
    """What an answer depends on, besides the class."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    prompt_version: int
    domain: str | None


class _Line(Question):
    server: str | None = None
    position: int
    own: SynonymClass = Field(alias="class")


class Journal:
    """A file of an answer a line, beside the output.

    An answer is found again by the question, the server, the class's position and its name; lines of other
    questions are left alone. A line that a kill broke off is no answer.

    Args:
        path: of the file.
        question: what answers depend on.
        server: its address or provider: another one may have another model of that name.
    """

    def __init__(self, path: Path, question: Question, server: str | None = None) -> None:
        self.path = path
        self._question = {**question.model_dump(), "server": server}
        self._lock = Lock()
        self._file: int | None = None

    def read(self, names: Mapping[int, str]) -> dict[int, SynonymClass]:
        """Return the answers there are for these classes, by position."""
        found: dict[int, SynonymClass] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_bytes().split(b"\n"):
            try:
                answer = _Line.model_validate(parse_json(line, str(self.path)))
            except ValueError:
                continue
            asked = answer.model_dump(include=set(self._question)) == self._question
            if asked and names.get(answer.position) == answer.own.name:
                found[answer.position] = answer.own
        return found

    def add(self, answers: Mapping[int, SynonymClass]) -> None:
        """Append answers, and wait until they are on the disk."""
        content = b""
        for position, own in answers.items():
            line = _Line.model_validate({**self._question, "position": position, "class": own})
            content += line.model_dump_json(by_alias=True, exclude_defaults=True).encode() + b"\n"
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
