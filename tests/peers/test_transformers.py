"""transformers' own tests of its zero-shot image classification pipeline, run with our class in its place.

Neither wheel nor sdist of transformers has the file: give the folder of a checkout of its repository,

    TRANSFORMERS_CHECKOUT=transformers pytest -rs tests/peers/test_transformers.py

A Hub on loopback has a tiny CLIP under the names that those tests load. Those marked as slow want real
weights, and are not run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ZeroShotImageClassificationOutputElement
from PIL import Image
from transformers.testing_utils import compare_pipeline_output_to_hub_spec

from s3clip import S3ZeroShotImageClassificationPipeline
from tests import ROOT
from tests.checkpoints import put, saved
from tests.hub_server import running
from tests.tiny_models import build

FILE = "tests/pipelines/test_pipelines_zero_shot_image_classification.py"
CARD = b"---\nlibrary_name: transformers\npipeline_tag: zero-shot-image-classification\n---\n"


def checkout() -> Path:
    folder = Path(os.environ.get("TRANSFORMERS_CHECKOUT", ""))
    if not (folder / FILE).is_file():
        pytest.skip("TRANSFORMERS_CHECKOUT is no checkout of transformers")
    return folder.resolve()


def tiny():
    """A CLIP that finds all labels alike, as the one does that transformers' tests load."""
    model, processor = build("clip")
    model.logit_scale.data.fill_(-20.0)
    return model, processor


def test_their_file(tmp_path: Path):
    folder = checkout()
    names = set(re.findall(r"hf-internal-testing/[\w.-]+", (folder / FILE).read_text(encoding="utf-8")))
    with running() as (hub, address):
        for name in names:
            put(hub, name, {**saved(*tiny()), "README.md": CARD})
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "our_pipeline", FILE],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
    sys.stdout.write(done.stdout)
    assert "made by s3clip: " in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


def test_answers_are_of_the_form_that_the_hub_asks_for():
    """The check that transformers runs on every answer of its pipelines."""
    model, processor = build("clip")
    classify = S3ZeroShotImageClassificationPipeline(model=model, processor=processor)
    for answer in classify(Image.new("RGB", (64, 48)), candidate_labels={"cat": ["feline"], "dog": []}):
        compare_pipeline_output_to_hub_spec(answer, ZeroShotImageClassificationOutputElement)
