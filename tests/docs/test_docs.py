"""Every block of code in the README and the docs runs, in order, in an empty folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from s3clip import cli
from s3clip.demo import held_out_digits, model_folder
from tests import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[\w ]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```", re.M | re.S)

# Blocks under these marks set up a machine (CI runs them), read data that is not in the repository, or need a
# Hub (`test_hub.py` runs them).
SKIPPED = {"main job", "tests", "real data", "hub"}


def blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(held_out_digits()[0][:3]):
        image.save(tmp_path / f"photo{i}.png")
    (tmp_path / "photo.jpg").symlink_to(tmp_path / "photo0.png")
    namespace = what_readers_have()
    for block in blocks(page):
        if block["mark"] in SKIPPED or block["language"] in ("", "text", "json"):
            if block["language"] == "json":
                name = re.search(r"`(\w+\.json)`[^`]*$", page.read_text()[: block.start()])
                assert name, "the sentence before a JSON block names its file"
                (tmp_path / name[1]).write_text(block["code"])
            continue
        if block["language"] == "python":
            exec(compile(block["code"], f"{page.name}", "exec"), namespace)
        else:
            assert block["language"] in ("bash", "console"), (
                f"{page.name}: unknown block {block['language']!r}"
            )
            run_commands(block["code"], monkeypatch)


def what_readers_have() -> dict[str, object]:
    """Names that the pages use without making them."""
    images = held_out_digits()[0]
    generator = torch.Generator().manual_seed(0)
    return {
        "held_out": images[:30],
        "labels": ["tabby cat", "golden retriever", "goldfish"] * 10,
        "other_images": images[30:60],
        "text_embeddings": torch.randn(6, 32, generator=generator).numpy(),
        "text_labels": ["cat", "cat", "dog", "dog", "dog", "sea"],
        "image_embeddings": torch.randn(9, 32, generator=generator).numpy(),
    }


def run_commands(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "s3clip", f"only s3clip commands are run: {line}"
        words = [word.replace("$DEMO", str(model_folder())) for word in words]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, line


def test_ci_runs_the_readmes_test_command():
    marks = [block["mark"] for block in blocks(ROOT / "README.md")]
    assert marks.count("main job") == marks.count("tests") == 1
