"""Pages of the docs as a reader uses them: blocks run in order, in an empty folder, with what the page made.

A page has

- ``json`` and ``toml``: a file, whose name stands in backticks in the sentence before;
- ``bash``: commands `s3clip ...`;
- ``python``: one session for the whole page;
- ``text`` under the mark ``<!-- output -->``: what the block before it prints.

Blocks under a mark such as ``<!-- needs mlflow -->`` run where that package is, and are left out with their
output elsewhere.

    python -m tests.docs.pages    # writes into the pages what their blocks print now
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from s3clip import cli
from tests import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[\w ]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```", re.M | re.S)

# Blocks under these marks set up a machine (CI runs them), read data that is not in the repository, or need a
# Hub (`test_hub.py` runs them).
SKIPPED = {"tests", "real data", "hub"}

NEEDS = "needs "

Block = re.Match[str]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, with the groups mark, language and code."""
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


def lacking(block: Block) -> list[str]:
    """Return the packages that a block needs and that are not here."""
    mark = block["mark"] or ""
    named = mark.removeprefix(NEEDS).split() if mark.startswith(NEEDS) else []
    return [package for package in named if find_spec(package) is None]


def run_page(page: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in a folder.

    Yields:
        Each block that says what the one before it prints, with what that printed.
    """
    text = page.read_text(encoding="utf-8")
    session: dict[str, object] = {"__name__": "__main__"}
    said: str | None = ""
    with contextlib.chdir(folder):
        for block in blocks(page):
            if block["mark"] == "output":
                if said is not None:
                    yield block, said
            elif lacking(block):
                said = None
            elif block["language"] in ("json", "toml"):
                name = re.search(r"`(\w+\.(?:json|toml))`[^`]*$", text[: block.start()])
                assert name, f"{page.name}: the sentence before a block of JSON or TOML names its file"
                Path(name[1]).write_text(block["code"])
            elif block["language"] in ("python", "bash") and block["mark"] not in SKIPPED:
                said = _run(block, session, page.name)
            else:
                assert block["language"] in ("", "text", "python", "bash"), (
                    f"{page.name}: {block['language']}"
                )


def _run(block: Block, session: dict[str, object], name: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if block["language"] == "python":
            exec(compile(block["code"], name, "exec"), session)
        else:
            code = block["code"].replace("\\\n", " ")
            if block["mark"] == "main job":  # CI installs; here the last of its commands
                code = code.rpartition("&&")[2]
            for line in code.splitlines():
                _command(shlex.split(line, comments=True))
    return printed.getvalue()


def _command(words: list[str]) -> None:
    if not words:
        return
    assert Path(words[0]).name == "s3clip", f"only s3clip commands are run: {words}"
    before, sys.argv = sys.argv, words
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = before
    assert not stopped.value.code, words


def same(expected: str, said: str) -> bool:
    """Whether two outputs have the same words and, but for 5 % or 0.06, the same numbers."""
    own, other = (re.split(r"(\d+(?:\.\d+)?)", " ".join(text.split())) for text in (expected, said))
    if len(own) != len(other) or own[::2] != other[::2]:
        return False
    pairs = zip(map(float, own[1::2]), map(float, other[1::2]), strict=True)
    return all(abs(a - b) <= max(0.05 * abs(a), 0.06) for a, b in pairs)


def main() -> None:
    """Write what the blocks print into the pages."""
    os.environ["S3CLIP_CACHE"] = ""
    for page in PAGES:
        text, changed = page.read_text(encoding="utf-8"), 0
        with tempfile.TemporaryDirectory() as folder:
            found = list(run_page(page, Path(folder)))
        for block, said in reversed(found):
            if not same(block["code"], said):
                start, end = block.span("code")
                text, changed = text[:start] + said.strip("\n") + "\n" + text[end:], changed + 1
        page.write_text(text, encoding="utf-8")
        sys.stderr.write(f"{page.name}: {changed} of {len(found)} outputs written anew\n")


if __name__ == "__main__":
    main()
