"""Fixtures: a tiny real CLIP, made in milliseconds; a Hub on loopback; a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.file_download
import pytest
import torch
import transformers.utils.hub
from hypothesis import settings

from s3clip import SynonymousSpaceHead
from tests import SHARED
from tests.hub_server import running
from tests.tiny_models import build

# A machine that is busy is no failure.
settings.register_profile("any pace", deadline=None)
settings.load_profile("any pace")

# The tensors are small, and two threads that wait for each other are slower than one.
torch.set_num_threads(1)

# Tests count what is encoded, and leave the cache of whoever runs them alone.
os.environ["S3CLIP_CACHE"] = ""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real embeddings and models beside the checkout; tests that need it skip without."""
    if not SHARED.is_dir():
        pytest.skip("real data is not in the repository; ../shared is not here")
    return SHARED


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of this machine, driven by playwright, which asks for nothing by itself; skips without."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 's3clip[browser]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        own = running.chromium.launch(executable_path=chromium, args=options)
        yield own
        own.close()


@pytest.fixture
def head() -> SynonymousSpaceHead:
    """An unfitted head on a tiny random CLIP."""
    torch.manual_seed(0)
    model, processor = build("clip")
    return SynonymousSpaceHead(model, processor)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub on loopback, which huggingface_hub takes for the real one; its cache is `tmp_path / "cache"`."""
    with running() as (hub, address):
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", address)
        # Before huggingface_hub 1 the module that fetches files has its own copy of the name.
        for module in (constants, huggingface_hub.file_download):
            if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
                template = address + "/{repo_id}/resolve/{revision}/{filename}"
                monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # transformers 5 keeps a client of the first address that it was asked for.
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        yield hub
