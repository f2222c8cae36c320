"""Fixtures: a tiny real CLIP, made in milliseconds."""

import os
from pathlib import Path

import pytest
import torch

from s3clip import SynonymousSpaceHead
from tests.tiny_models import build

# The tensors are small, and two threads that wait for each other are slower than one.
torch.set_num_threads(1)

# Tests count what is encoded, and leave the cache of whoever runs them alone.
os.environ["S3CLIP_CACHE"] = ""

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real embeddings and models beside the checkout; tests that need it skip without."""
    if not SHARED.is_dir():
        pytest.skip("real data is not in the repository; ../shared is not here")
    return SHARED


@pytest.fixture
def head() -> SynonymousSpaceHead:
    """An unfitted head on a tiny random CLIP."""
    torch.manual_seed(0)
    model, processor = build("clip")
    return SynonymousSpaceHead(model, processor)
