"""A file of options for a whole command: `s3clip --options predict.toml predict photos`."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from s3clip.arguments import did_you_mean
from s3clip.files.folders import beside
from s3clip.files.json import read_json


def read_options(path: Path) -> dict[str, Any]:
    """Return what a JSON or TOML file says, an entry for each option.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--options: {path}: no such file; expected one of JSON or TOML{beside(path)}"
        )
    if path.suffix.lower() != ".toml":
        content = read_json(path)
    else:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ones
            raise ValueError(f"{path}: not TOML ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{path}: expected an entry for each option, {{"top-k": 3}}, got {type(content).__name__}'
        )
    return content


def take_options(context: typer.Context, content: Mapping[str, Any]) -> None:
    """Make entries the defaults of the verb that is called, whether it stands in this group or in one below.

    Args:
        context: of the group, in its callback; `obj` is the name of the file, for errors.
        content: an entry for each option, named as on the command line without the dashes.

    Raises:
        ValueError: an entry that is no option of the verb, or a value of another kind.
    """
    name = str(context.invoked_subcommand)
    command: Any = context.command
    called = command.commands[name]
    inside = content if hasattr(called, "commands") else _defaults(called, content, context)
    context.default_map = {name: inside}


def _defaults(command: Any, content: Mapping[str, Any], context: typer.Context) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for parameter in command.params:
        if parameter.name != "help":
            known |= dict.fromkeys(_names(parameter), parameter)
    found: dict[str, Any] = {}
    for key, value in content.items():
        parameter = known.get(key.replace("_", "-"))
        if parameter is None:
            near = did_you_mean(key, known, f"it has {', '.join(known)}")
            raise ValueError(f"{context.obj}: {key!r} is no option of {_verb(context)}; {near}")
        if parameter.name in found:
            raise ValueError(f"{context.obj}: {key}: is given twice, by another name too; give it once")
        if value is not None:
            found[parameter.name] = _value(parameter, value, f"{context.obj}: {key}")
    return found


def _verb(context: typer.Context) -> str:
    """Return the verb that a group calls, as it is typed."""
    within: Any = context
    names = [str(context.invoked_subcommand)]
    while within.parent is not None:
        names.insert(0, within.info_name)
        within = within.parent
    return " ".join(["s3clip", *names])


def _names(parameter: Any) -> list[str]:
    """Return what a parameter is called on the command line: an option's names, or an argument's."""
    if parameter.param_type_name == "argument":
        return [(parameter.metavar or parameter.name).lower().replace("_", "-")]
    return [name.lstrip("-") for name in parameter.opts]


def _value(parameter: Any, value: Any, where: str) -> Any:
    """Return a value as the command line would have it: texts, true and false for flags, lists of several."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError(f"{where}: expected true or false, got {value!r}")
        return value
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    if isinstance(value, list) and not several:
        raise ValueError(f"{where}: expected one value, got {len(value)}")
    texts = [_text(each, where) for each in (value if isinstance(value, list) else [value])]
    return texts if several else texts[0]


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool | list) or value in (None, ""):
        raise ValueError(f"{where}: expected a text or a number, got {value!r}")
    return json.dumps(value) if isinstance(value, dict) else str(value)
