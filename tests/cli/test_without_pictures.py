"""What says how pictures are encoded is refused where none is, by every verb that has such a case."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, cli
from s3clip.demo import model_folder, synonym_file

OF_PICTURES = {
    "--dtype": ["bfloat16"],
    "--compile": [],
    "--near-size": [],
    "--workers": ["2"],
    "--allow-addresses": ["https"],
}
ALWAYS_PICTURES = {
    *("predict", "teach", "suggest", "calibrate", "reject", "segment", "eval"),
    *("serve", "app"),  # which answer to what is sent
}
"""Verbs that encode pictures whatever they are given."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """A call without pictures of every other verb, which is fine as it is."""
    folder = tmp_path_factory.mktemp("calls")
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.save_pretrained(folder / "head")
    embeds = np.random.default_rng(0).normal(size=(20, head.space.raw.shape[1])).astype(np.float32)
    np.save(folder / "embeds.npy", embeds)
    np.savez(folder / "labelled.npz", image_embeds=embeds, labels=np.arange(20) % 10)
    return {
        "label": [str(folder / "embeds.npy"), "--head", str(folder / "head")],
        "inspect": [str(folder / "head")],
        "compare": [
            *(str(synonym_file()), "--backbone", "demo", "--embeddings", str(folder / "labelled.npz")),
            *("--bootstrap", "1", "--method", "softmax_max"),
        ],
    }


def commands() -> dict[str, Any]:
    """The verbs that have an option of pictures, with their options."""
    group: Any = typer.main.get_command(cli.app)
    found = {
        name: {option for each in command.params for option in each.opts}
        for name, command in group.commands.items()
    }
    return {name: options for name, options in found.items() if "--dtype" in options}


def run(verb: str, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, [verb, *arguments])


def test_every_verb_is_of_pictures_or_has_a_call_without(calls: dict[str, list[str]]):
    assert set(commands()) == ALWAYS_PICTURES | set(calls)


@pytest.mark.parametrize("verb", ["label", "inspect", "compare"])
def test_what_is_of_pictures_alone_is_refused_by_name(verb: str, calls: dict[str, list[str]], tmp_path: Path):
    options = commands()[verb]
    out = ["--out", str(tmp_path / "out")] if "--out" in options else []
    of_pictures = {option: value for option, value in OF_PICTURES.items() if option in options}
    if verb == "label":
        del of_pictures["--allow-addresses"]  # a table of embeddings has cells too
    if verb != "compare":
        of_pictures["--backbone"] = ["demo"]
    for option, value in of_pictures.items():
        result = run(verb, *calls[verb], *out, option, *value)
        assert isinstance(result.exception, ValueError), (option, result.output)
        assert str(result.exception).startswith(f"{option}: says how pictures are encoded")
        assert not (tmp_path / "out").exists()
    result = run(verb, *calls[verb], *out)
    assert result.exit_code == 0, result.output
