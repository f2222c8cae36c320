"""A Chromium of this machine, driven by playwright; tests that need one skip without (extra `browser`)."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that asks for nothing by itself."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 's3clip[browser]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        own = running.chromium.launch(executable_path=chromium, args=options)
        yield own
        own.close()
