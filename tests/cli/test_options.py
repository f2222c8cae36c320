"""Laws of the options of all verbs, files of options, and the schema of settings."""

import inspect
import json
import random
import sys
import typing
import warnings
from collections import defaultdict
from pathlib import Path
from types import NoneType

import jsonschema
import pytest
import typer

from s3clip import HeadConfig, cli
from s3clip.cli import _show_warning
from s3clip.cli.common import Output
from s3clip.cli.options import read_options
from s3clip.config import config_schema
from s3clip.demo import write_photos
from s3clip.space.metrics import METRICS
from s3clip.space.scale_rules import SCALE_RULES

# Why one name has two defaults, or says two things.
OTHER_DEFAULTS = {
    "--top-k": "a line of a terminal beside a column of a file",
    "--port": "a server is where others look for it, the app where there is room",
}
OTHER_HELP = {"--out": "each verb writes something else", "--adapt": "one way, or several", "CLASSES": ""}


def verbs(app: typer.Typer, path: tuple[str, ...] = ()):
    for command in app.registered_commands:
        yield (*path, command.name or command.callback.__name__), command.callback
    for group in app.registered_groups:
        yield from verbs(group.typer_instance, (*path, group.name))


def options():
    """By the name on the command line, each verb with the type, the default and the help there."""
    found = defaultdict(list)
    for path, function in verbs(cli.app):
        hints = typing.get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            kind, info = typing.get_args(hints[parameter.name])[:2]
            is_option = type(info).__name__ == "OptionInfo"
            name = "--" + parameter.name.replace("_", "-") if is_option else info.metavar or parameter.name
            if is_option and isinstance(info.default, str):  # where typer puts the first of the names
                name = info.default
            found[name].append((" ".join(path), kind, parameter.default, info.help))
    return found


def plain(kind: object) -> object:
    """A type without None, without "several of", and whether a file or a text names a place."""
    args = [each for each in typing.get_args(kind) if each is not NoneType]
    if args:
        return plain(args[0])
    return str if kind is Path else kind


@pytest.mark.parametrize("name", options())
def test_one_name_means_one_thing(name: str):
    own = options()[name]
    said = {verb: str(help_) for verb, _, _, help_ in own}
    assert all(said.values()), said
    assert len({plain(kind) for _, kind, _, _ in own}) == 1, own
    defaults = {verb: default for verb, _, default, _ in own if default is not inspect.Parameter.empty}
    if name not in OTHER_DEFAULTS:
        assert len({str(each) for each in defaults.values() if each != Path("s3clip-demo")}) <= 1, defaults
    if name not in OTHER_HELP:
        assert len({help_.split()[0].strip(":,.") for help_ in said.values()}) == 1, said


@pytest.mark.parametrize("verb", [" ".join(path) for path, _ in verbs(cli.app)])
def test_the_head_is_an_option_where_images_are_the_argument(verb: str):
    function = next(own for path, own in verbs(cli.app) if " ".join(path) == verb)
    hints = typing.get_type_hints(function, include_extras=True)
    kinds = {
        name: type(typing.get_args(hint)[1]).__name__ for name, hint in hints.items() if name != "return"
    }
    if kinds.get("images") == "ArgumentInfo" or kinds.get("inputs") == "ArgumentInfo":
        assert kinds["head"] == "OptionInfo"
    assert ("output" in kinds) <= (typing.get_args(hints.get("output"))[1:] == typing.get_args(Output)[1:])


# They compute, and encode no image of the user's; `bench` says itself in which types it computes.
WITHOUT_IMAGES = {"fit", "export", "bench", "synonyms check"}


def test_every_verb_that_encodes_images_says_in_which_type():
    found = {
        name: {verb for verb, *_ in own}
        for name, own in options().items()
        if name in ("--device", "--dtype", "--compile")
    }
    computing = found["--device"] | {verb for verb, *_ in options()["--backbone"]}
    assert found["--dtype"] == found["--compile"] == computing - WITHOUT_IMAGES


def command(monkeypatch: pytest.MonkeyPatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["s3clip", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    done = capsys.readouterr()
    return int(stopped.value.code or 0), done.out, done.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    return tmp_path


def test_a_file_of_options_is_the_same_as_the_line(place: Path, monkeypatch, capsys):
    line = ["predict", "photos/one", "--classes", "one,two,six", "--backbone", "demo", "--top-k", 2]
    code, typed, _ = command(monkeypatch, capsys, *line, "--format", "csv")
    assert code == 0
    given = {
        "images": ["photos/one"],
        "classes": "one,two,six",
        "backbone": "demo",
        "top_k": 2,
        "format": "csv",
    }
    (place / "o.json").write_text(json.dumps(given))
    (place / "o.toml").write_text(
        "".join(f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in given.items())
    )
    for file in ("o.json", "o.toml"):
        assert command(monkeypatch, capsys, "--options", file, "predict")[:2] == (0, typed)
    # The command line goes first, lists too.
    code, out, _ = command(
        monkeypatch, capsys, "--options", "o.toml", "predict", "photos/two/0.png", "--top-k", 1
    )
    assert code == 0
    assert [row.split(",")[0] for row in out.splitlines()] == ["file", "photos/two/0.png"]


@pytest.mark.parametrize(
    ("content", "verb", "said"),
    [
        ('{"topk": 1}', ["predict"], "o.json: 'topk' is no option of s3clip predict; did you mean 'top-k'?"),
        ('{"zzz": 1}', ["push"], "it has head, repository, private"),
        ('{"top-k": [1, 2]}', ["predict"], "o.json: top-k: expected one value, got 2"),
        ('{"top-k": 1, "top_k": 2}', ["predict"], "o.json: top_k: is given twice"),
        ('{"sets": 1}', ["predict"], "o.json: sets: expected true or false, got 1"),
        ('{"backbone": true}', ["predict"], "o.json: backbone: expected a text or a number, got True"),
        ('{"dictonary": "x"}', ["synonyms", "check"], "s3clip synonyms check; did you mean 'dictionary'?"),
        ("[1]", ["predict"], "expected an entry for each option"),
        ('{"top-k": 1,}', ["predict"], "JSON has no comma before ] or }"),
        ('{"top-k": 1 // one\n}', ["predict"], "JSON has no comments"),
    ],
)
def test_a_wrong_file_of_options_is_refused(place: Path, monkeypatch, capsys, content, verb, said):
    (place / "o.json").write_text(content)
    code, _, error = command(monkeypatch, capsys, "--options", "o.json", *verb)
    assert code == 2
    assert said in error.strip().splitlines()[-1]
    assert error.startswith("error: ")


def test_files_that_are_not_there_and_no_toml(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"--options: .*no such file"):
        read_options(tmp_path / "none.json")
    (tmp_path / "o.toml").write_text("a = ")
    with pytest.raises(ValueError, match=r"o\.toml: not TOML"):
        read_options(tmp_path / "o.toml")


def test_the_schema_takes_what_the_settings_take(capsys, monkeypatch):
    code, out, _ = command(monkeypatch, capsys, "schema")
    assert (code, json.loads(out)) == (0, config_schema())
    validator = jsonschema.Draft202012Validator(config_schema())
    validator.check_schema(config_schema())
    draw = random.Random(0)
    options_of = {"metric_options": METRICS, "scale_options": SCALE_RULES}
    every = [option for table in options_of.values() for each in table.values() for option in each.options]
    right = 0
    for _ in range(600):
        given = {}
        if draw.random() < 0.6:
            given["metric"] = draw.choice([*METRICS, "centre"])
        if draw.random() < 0.6:
            given["scale_rule"] = draw.choice([*SCALE_RULES, None, "largest"])
        for field, table in options_of.items():
            if draw.random() < 0.4:
                option = draw.choice([*every, "nothing"])
                defaults = {n: o.default for each in table.values() for n, o in each.options.items()}
                given[field] = {option: defaults.get(option, 1)}
        if draw.random() < 0.3:
            given[draw.choice(["centering", "keep_name", "points", "logit_scale", "metrik"])] = draw.choice(
                ["class_mean", None, "always", "texts", 50, -1, 0]
            )
        try:
            HeadConfig(**given)
        except ValueError:
            assert not validator.is_valid(given), given
        else:
            assert validator.is_valid(given), given
            right += 1
    assert 100 < right < 500


def test_warnings_of_libraries_stay_off_the_terminal(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _show_warning
        exec("import warnings; warnings.warn('of torch')", {"__name__": "torch.nn"})
        exec("import warnings; warnings.warn('of ours', stacklevel=2)", {"__name__": "s3clip.head"})
    assert capsys.readouterr().err == "warning: of ours\n"
