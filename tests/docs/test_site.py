"""The documentation as a site: it builds without a warning and asks nobody for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import s3clip
from tests import ROOT


def test_the_site_builds_strictly_and_requests_nothing(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="pip install 's3clip[docs]'")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        [*command, "-f", str(ROOT / "docs" / "site" / "mkdocs.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").glob("*.html"))
    written = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert written <= {page.stem for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        outside = re.findall(r"<(?:script|img|iframe)[^>]* src=[\"']?(?:https?:)?//[^\"' >]*", text)
        outside += re.findall(r"<link[^>]* rel=[\"']?stylesheet[\"']?[^>]*href=[\"']?(?:https?:)?//", text)
        assert not outside, page.name
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert not [name for name in s3clip.__all__ if f'id="s3clip.{name}"' not in api and name != "__version__"]
    assert 'id="s3clip.SynonymousSpaceHead.fit_classes"' in api
