"""examples/label_studio by HTTP: the server of label-studio-ml, and Label Studio itself where it is there.

The heads start from names that the model hardly knows ("goose egg" for zero): there is something to learn.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file
from tests import ROOT
from tests.processes import wait_for

pytest.importorskip(
    "label_studio_ml", reason="label-studio-ml wants an environment of its own: see its README.md"
)
pytest.importorskip("rq", reason="label-studio-ml 1.0.9 imports rq, and does not install it")

EXAMPLE = ROOT / "examples" / "label_studio"
NAMES = [
    each.synonyms[5] for each in SynonymSet.read(synonym_file()).classes
]  # goose egg, single stroke, ...
CONFIG = f"""<View><Image name="photo" value="$image"/><Choices name="digit" toName="photo">
{"".join(f'<Choice value="{name}"/>' for name in NAMES)}</Choices>
<TextArea name="why" toName="photo"/></View>"""
TAUGHT, SCORED = 30, 100
PROJECT = "1.1700000000"


def ask(address: str, given: Any = None, token: str | None = None, **options: Any) -> Any:
    """Return the JSON of an answer, None of an empty one; with something given, by POST."""
    options["headers"] = {"Authorization": f"Token {token}"} if token else {}
    if given is None and "files" not in options:
        answer = requests.get(address, timeout=300, **options)
    else:
        answer = requests.post(address, json=given, timeout=300, **options)
    assert answer.ok, f"{answer.status_code}: {answer.text[:2000]}"
    return answer.json() if answer.content else None


def answers(address: str) -> bool:
    with suppress(OSError):
        return requests.get(address, timeout=10).ok
    return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(line: list[str], address: str, environment: dict[str, str], log: Path) -> Iterator[str]:
    """Run a server until it answers and then as long as it is needed."""
    with log.open("wb") as said:
        process = subprocess.Popen(line, env={**os.environ, **environment}, stdout=said, stderr=said)
        try:
            wait_for(lambda: process.poll() is not None or answers(f"{address}/health"), 400)
            assert process.poll() is None, log.read_text()[-2000:]
            yield address
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(NAMES)
    return head.save_pretrained(tmp_path / "digits head")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Digits as files: those that are taught first, then those that are scored."""
    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{i}.png" for i in range(TAUGHT + SCORED)]
    for path, image in zip(paths, held_out_digits()[0], strict=False):
        image.save(path)
    return paths


LABELS = [NAMES[digit] for digit in held_out_digits()[1][: TAUGHT + SCORED]]


@contextmanager
def backend(tmp_path: Path, head_folder: Path, **environment: str) -> Iterator[str]:
    """The example as `label-studio-ml init` sets it up, and started as `label-studio-ml start` does."""
    made = tmp_path / "backend"
    script = f"{EXAMPLE / 'model.py'}:SynonymBackend"
    environment |= {"S3CLIP_HEAD": str(head_folder), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    init = "import sys; from label_studio_ml.server import main; sys.exit(main())"
    line = [sys.executable, "-c", init, "init", str(made), "--script", script]
    subprocess.run(line, env={**os.environ, **environment}, check=True, capture_output=True)
    port = free_port()
    models = str(tmp_path / "models")
    line = [sys.executable, str(made / "_wsgi.py"), "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with running([*line, "--model-dir", models], address, environment, tmp_path / "backend.log"):
        yield address


def right(found: list[dict[str, Any]], labels: list[str]) -> float:
    """Return the share of predictions that are right; all have their form, and only few are unsure."""
    choices = []
    for each in found:
        choice, text = each["result"]
        assert (choice["from_name"], choice["to_name"], choice["type"]) == ("digit", "photo", "choices")
        assert 0 < choice["score"] == each["score"] <= 1
        assert (text["from_name"], text["type"]) == ("why", "textarea")
        assert text["value"]["text"] == choice["meta"]["text"]
        choices += choice["value"]["choices"]
    return float(np.mean(np.array(choices) == np.array(labels)))


def as_annotation(label: str) -> dict[str, Any]:
    value = {"choices": [label]}
    return {"result": [{"from_name": "digit", "to_name": "photo", "type": "choices", "value": value}]}


def test_the_package_serves_it(tmp_path: Path, head_folder: Path, pictures: list[Path]):
    # As Label Studio names a file of its local storage; the package reads such a file where it lies.
    tasks = [{"id": i, "data": {"image": f"/data/local-files/?d={path}"}} for i, path in enumerate(pictures)]
    annotated = [
        {**task, "annotations": [as_annotation(label)]} for task, label in zip(tasks, LABELS, strict=True)
    ]
    with backend(tmp_path, head_folder, LOCAL_FILES_DOCUMENT_ROOT="/", S3CLIP_NONE="no digit") as address:
        for labels, refused in (("duck egg", True), ("no digit", False)):
            config = CONFIG.replace("goose egg", labels)
            asked = {"tasks": tasks[:1], "project": PROJECT, "label_config": config}
            ask(f"{address}/setup", {"project": PROJECT, "schema": config})
            answer = requests.post(f"{address}/predict", json=asked, timeout=300)
            assert answer.ok != refused
            assert ("'duck egg' is no class" in answer.text) == refused
        setup = {"project": PROJECT, "schema": CONFIG, "hostname": "", "access_token": ""}
        assert ask(f"{address}/setup", setup)["model_version"] == "INITIAL"

        def predictions() -> list[dict[str, Any]]:
            given = {"tasks": tasks[TAUGHT:], "project": PROJECT, "label_config": CONFIG}
            return list(ask(f"{address}/predict", given)["results"])

        before = predictions()
        expected = SynonymousSpaceHead.from_pretrained(head_folder).predict(pictures[TAUGHT:], top_k=1)
        said = [(best.label, best.text, pytest.approx(best.score, abs=1e-5)) for (best,) in expected]
        got = [
            (own["value"]["choices"][0], own["meta"]["text"][0], own["score"])
            for own in (each["result"][0] for each in before)
        ]
        assert got == said

        taught = {"annotations": annotated[:TAUGHT], "project": PROJECT, "label_config": CONFIG}
        ask(f"{address}/train", taught)
        after = predictions()
        accuracy = right(before, LABELS[TAUGHT:]), right(after, LABELS[TAUGHT:])
        assert accuracy[1] >= accuracy[0] + 0.2
        alone = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(NAMES)
        alone.fit_few_shot(pictures[:TAUGHT], LABELS[:TAUGHT])
        assert [each["result"][0]["value"]["choices"][0] for each in after] == [
            best.label for (best,) in alone.predict(pictures[TAUGHT:], top_k=1)
        ]

        # One more, as a webhook: a process of its own adds it to the thirty. A skipped one teaches nothing.
        def known() -> int:
            return len(SynonymousSpaceHead.from_pretrained(head_folder, backbone=None).examples.labels)

        for task, cancelled in zip(annotated[TAUGHT : TAUGHT + 2], (True, False), strict=True):
            annotation = {**task["annotations"][0], "was_cancelled": cancelled}
            event = {"action": "ANNOTATION_CREATED", "task": task, "annotation": annotation}
            ask(f"{address}/webhook", {**event, "project": {"id": 1, "label_config": CONFIG}})
            time.sleep(1.1)  # the package names jobs by the second
        wait_for(lambda: known() == TAUGHT + 1)


def test_label_studio_itself(tmp_path: Path, head_folder: Path, pictures: list[Path]):
    """Import tasks, get predictions, submit thirty annotations, start training, get better predictions."""
    command = shutil.which("label-studio")
    if command is None:
        pytest.skip(
            "label-studio is not installed; it wants an environment of its own, with its bin/ on PATH"
        )
    token, port = "0123456789abcdef0123456789abcdef01234567", free_port()
    studio = f"http://127.0.0.1:{port}"
    environment = {
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "False",
        "LATEST_VERSION_CHECK": "False",
        "SSRF_PROTECTION_ENABLED": "False",  # these two refuse a backend on loopback
        "USE_DEFAULT_BANNED_SUBNETS": "False",
        "SENTRY_DSN": "",
        "PYTHONPATH": "",
    }
    line = [command, "start", "--no-browser", "--username", "a@example.org", "--password", "of the tests"]
    line += ["--user-token", token, "--port", str(port), "--internal-host", "127.0.0.1"]
    line += ["--data-dir", str(tmp_path / "studio"), "--log-level", "WARNING"]
    reached = {"LABEL_STUDIO_URL": studio, "LABEL_STUDIO_API_KEY": token}
    with (
        running(line, studio, environment, tmp_path / "studio.log"),
        backend(tmp_path, head_folder, **reached) as address,
    ):
        project = ask(f"{studio}/api/projects", {"title": "digits", "label_config": CONFIG}, token)["id"]
        given = {"url": address, "project": project, "title": "s3clip"}
        connected = ask(f"{studio}/api/ml", given, token)["id"]
        for start in range(0, len(pictures), 50):
            files = {path.stem: (path.name, path.read_bytes()) for path in pictures[start : start + 50]}
            ask(f"{studio}/api/projects/{project}/import", None, token, files=files)
        tasks = ask(f"{studio}/api/tasks?project={project}&page_size=1000&fields=all", None, token)["tasks"]
        tasks.sort(key=lambda task: int(task["data"]["image"].rpartition("-")[2].removesuffix(".png")))
        assert len(tasks) == TAUGHT + SCORED

        def predictions() -> list[dict[str, Any]]:
            asked = f"{studio}/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
            ask(asked, {"selectedItems": {"all": True, "excluded": []}}, token)
            found = ask(f"{studio}/api/predictions?project={project}", None, token)
            newest = {each["task"]: each for each in sorted(found, key=lambda each: each["id"])}
            return [newest[task["id"]] for task in tasks[TAUGHT:]]

        before = predictions()
        # Else every annotation starts a process of its own, of some seconds.
        for hook in ask(f"{studio}/api/webhooks?project={project}", None, token):
            changed = {"is_active": False}
            requests.patch(
                f"{studio}/api/webhooks/{hook['id']}/",
                json=changed,
                headers={"Authorization": f"Token {token}"},
                timeout=60,
            ).raise_for_status()
        for task, label in zip(tasks[:TAUGHT], LABELS, strict=False):
            ask(f"{studio}/api/tasks/{task['id']}/annotations", as_annotation(label), token)
        saved = (head_folder / "config.json").stat().st_ino
        ask(f"{studio}/api/ml/{connected}/train", {}, token)
        wait_for(lambda: (head_folder / "config.json").stat().st_ino != saved)
        after = predictions()
        accuracy = right(before, LABELS[TAUGHT:]), right(after, LABELS[TAUGHT:])
        assert accuracy[1] >= accuracy[0] + 0.2
        head = SynonymousSpaceHead.from_pretrained(head_folder, backbone=None)
        assert len(head.examples.labels) == TAUGHT
