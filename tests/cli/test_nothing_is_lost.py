"""No verb writes over a file that it was given to read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, cli
from s3clip.demo import model_folder, write_photos

VERBS = {
    "teach": ("teach --head {head} --labels {labels} --images {photos}", ["--check"], ["labels"]),
    "inspect": ("inspect {head} --class one", ["--page", "--picture"], []),
    "suggest": ("suggest {photos} --head {head}", ["--out"], []),
    "export": ("export {head}", ["--out"], []),
    "label": ("label {photos} --head {head} --out results", ["--csv"], []),
    "segment": (
        "segment {photo} --classes {classes} --backbone {model}",
        ["--out", "--overlay", "--rle"],
        ["classes"],
    ),
    "restore": ("synonyms restore {classes} --removed {removed}", ["--out"], ["removed"]),
    "segment by a head": ("segment {photo} --head {head}", ["--rle"], []),
}
"""By verb, what it is called with, its options that name a file to write, and what it reads beside a head."""


def cases() -> Iterator[tuple[str, str, str]]:
    for verb, (line, options, read) in VERBS.items():
        files = [*read, "config", "tensors"] if "{head}" in line else read
        yield from ((verb, option, file) for option in options for file in files)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of digits: their pictures, labels and synonyms, and a head of them."""
    folder = tmp_path_factory.mktemp("made")
    write_photos(folder / "all")
    for name in ("one", "zero"):
        (folder / "photos").mkdir(exist_ok=True)
        (folder / "all" / name).rename(folder / "photos" / name)
    (folder / "removed.json").write_text("[]")
    (folder / "classes.json").write_text(json.dumps({"one": ["1"], "zero": ["0"]}))
    files = [f"{name}/{i}.png,{name}" for name in ("one", "zero") for i in range(10)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *files]))
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(folder / "classes.json")
    head.save_pretrained(folder / "head")
    return folder


@pytest.mark.parametrize(("verb", "option", "file"), list(cases()))
def test_what_is_read_stays(
    verb: str, option: str, file: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    places = {
        "head": made / "head",
        "labels": made / "labels.csv",
        "classes": made / "classes.json",
        "removed": made / "removed.json",
        "photos": made / "photos",
        "photo": made / "photos" / "one" / "0.png",
        "model": model_folder(),
        "config": made / "head" / "config.json",
        "tensors": next((made / "head").glob("*.safetensors")),
    }
    before = {path: path.read_bytes() for path in made.rglob("*.*")}
    (tmp_path / "link").symlink_to(places[file])
    for target in (places[file], tmp_path / "link"):
        line = [part.format(**places) for part in VERBS[verb][0].split()]
        result = CliRunner().invoke(cli.app, [*line, option, str(target)])
        assert result.exit_code != 0
        assert isinstance(result.exception, (ValueError, OSError, ImportError)), result.exception
        assert option in str(result.exception) or "s3clip[" in str(result.exception)
        assert {path: path.read_bytes() for path in made.rglob("*.*")} == before
