"""examples/cvat: what it tells CVAT is what the head says, asked of `s3clip serve` or in the process."""

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from s3clip import SynonymousSpaceHead
from s3clip.demo import model_folder, synonym_file, write_photos
from tests import ROOT

EXAMPLE = ROOT / "examples" / "cvat"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cvat_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def main() -> ModuleType:
    return example("main")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> tuple[SynonymousSpaceHead, Path]:
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    return head, head.save_pretrained(tmp_path_factory.mktemp("head"))


@pytest.fixture(scope="module")
def address(head: tuple[SynonymousSpaceHead, Path]) -> Iterator[str]:
    pytest.importorskip("uvicorn", reason="pip install 's3clip[serve]'")
    pytest.importorskip("s3clip.serve", reason="pip install 's3clip[serve]'")
    line = [sys.executable, "-m", "s3clip", "serve", str(head[1]), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "S3CLIP_SERVE_TOKEN": "of the tests"}
    service = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    assert service.stdout is not None
    said = service.stdout.readline()
    yield said.split()[-1]
    service.terminate()
    service.wait(60)


def asked(main: ModuleType, content: bytes, **more: Any) -> tuple[int, Any]:
    """Return status and answer, as nuclio would."""
    context = SimpleNamespace(Response=lambda **said: said)
    event = SimpleNamespace(body={"image": base64.b64encode(content).decode(), **more})
    said = main.handler(context, event)
    assert said["content_type"] == "application/json"
    return said["status_code"], json.loads(said["body"])


def test_it_tags_as_the_head_predicts(
    main: ModuleType, head: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("S3CLIP_SERVE", address + "/")
    monkeypatch.setenv("S3CLIP_SERVE_TOKEN", "of the tests")
    for path in write_photos(tmp_path)[::17]:
        ((best,),) = head[0].predict(path, top_k=1)
        status, (tag,) = asked(main, path.read_bytes(), threshold=0)
        assert (status, tag["type"], tag["label"]) == (200, "tag", best.label)
        assert float(tag["confidence"]) == pytest.approx(best.score, abs=1e-5)
        assert asked(main, path.read_bytes(), threshold=1.01) == (200, [])
    status, said = asked(main, b"no picture")
    assert status == 400
    assert said["error"]


def test_the_configuration_names_the_handler_and_the_variables():
    config = yaml.safe_load((EXAMPLE / "function.yaml").read_text())
    annotations, spec = config["metadata"]["annotations"], config["spec"]
    assert annotations["type"] == "detector"
    assert [each["type"] for each in json.loads(annotations["spec"])] == ["tag", "tag"]
    assert spec["handler"] == "main:handler"
    read = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', (EXAMPLE / "main.py").read_text()))
    assert {each["name"] for each in spec["env"]} == read


def test_the_function_for_the_command_line(head: Any, tmp_path: Path):
    """CVAT's own classes check what it declares and what it returns."""
    pytest.importorskip("cvat_sdk", reason="pip install cvat-sdk")
    import cvat_sdk.auto_annotation as cvataa

    function = example("function").create(str(head[1]))
    spec = function.spec
    assert isinstance(spec, cvataa.DetectionFunctionSpec)
    assert [(each.name, each.id, each.type) for each in spec.labels] == [
        (name, i, "tag") for i, name in enumerate(head[0].class_names)
    ]
    for path in write_photos(tmp_path)[::17]:
        ((best,),) = head[0].predict(path, top_k=1)
        with Image.open(path) as image:
            (tag,) = function.detect(SimpleNamespace(conf_threshold=None), image)
            assert tag.label_id == best.class_index
            assert function.detect(SimpleNamespace(conf_threshold=1.01), image) == []
