"""Messages of the library in the words of the command line: options for arguments, commands for calls."""

import re
from contextvars import ContextVar
from typing import Any

from typer.core import TyperCommand

_VERBS = {"calibrate": "calibrate", "fit_few_shot": "teach", "fit_rejection": "reject"} | {
    "set_class_shares": "shares",
    "predict_sets": "predict --sets",
}
"""Commands by the call that does the same, as messages of the library name it."""

_CALL = re.compile(rf"\b({'|'.join(_VERBS)})\(([^()]*)\)")

_OTHERWISE = {
    "folder": ["out", "photos"],
    "path": ["out", "picture"],
    "name": ["backbone"],
    "batch_size": ["text_batch_size"],
    "method": ["adapt"],
    "methods": ["method"],
    "parts": ["only"],
    "pictures": ["most_pictures"],
    "pixels": ["most_pixels"],
    "body_bytes": ["most_bytes"],
    "templates": ["template"],
    "hive": ["partition"],
}
"""Parameters of verbs by what the library calls the argument that they become, where that is another name."""

_BEFORE = re.compile(r"^(\w+(?:, \w+)*): ")
_INSIDE = re.compile(r"(?<![\w-])([a-z]\w*)=")

_running: ContextVar[Any] = ContextVar("running", default=None)


class Verb(TyperCommand):
    """A command whose errors name what was typed, and that takes no empty text, which a path is "." by."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        for before, each in zip(["", *args], args, strict=False):
            option, mark, value = each.partition("=")
            if not each or (each.startswith("--") and mark and not value):
                where = option or (before if before.startswith("-") else "an argument")
                raise ValueError(f"{where}: expected something, got an empty text")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Call the verb."""
        token = _running.set(ctx)
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, ImportError) as error:
            if len(error.args) == 1 and isinstance(error.args[0], str):  # of its kind, with other words
                error.args = (as_typed(error.args[0]),)
            if hasattr(error, "__notes__"):
                error.__notes__ = [as_typed(note) for note in error.__notes__]
            raise
        finally:
            _running.reset(token)


def as_typed(said: str) -> str:
    """Return a message of the library as whoever typed the command reads it.

    ``coverage: ...`` is ``--coverage: ...`` where that was given, ``give it as backbone=`` is ``give it as
    --backbone``, and ``calibrate(coverage=0.9)`` is ``s3clip calibrate --coverage 0.9``. Outside of a verb it
    is as it was, but for calls.
    """
    context = _running.get()
    if context is not None:
        said = _with_options(said, context)
    return _CALL.sub(_command, said)


def _command(call: re.Match[str]) -> str:
    options = [each.strip().partition("=") for each in call[2].split(",") if "=" in each]
    named = [f"--{name.replace('_', '-')} {value}".strip() for name, _, value in options]
    return " ".join(["s3clip", _VERBS[call[1]], *named])


def _with_options(said: str, context: Any) -> str:
    shown = {each.name: _shown(each) for each in context.command.params}
    given = {name for name in shown if _source(context, name) != "DEFAULT"}

    def before(found: re.Match[str]) -> str:
        names = [_parameter(name, given) for name in found[1].split(", ")]
        return found[0] if None in names else f"{', '.join(shown[str(name)] for name in names)}: "

    def inside(found: re.Match[str]) -> str:
        name = _parameter(found[1], set(shown))
        if name is None:
            return found[0]
        follows = found.string[found.end() : found.end() + 1]
        return shown[name] + (" " if follows and follows not in " ,;.:)" else "")

    calls = [found.span() for found in _CALL.finditer(said)]
    parts, end = [], 0
    for start, stop in [*calls, (len(said), len(said))]:  # options in a call are those of another verb
        parts += [_INSIDE.sub(inside, said[end:start]), said[start:stop]]
        end = stop
    return _BEFORE.sub(before, "".join(parts))


def _parameter(argument: str, names: set[str]) -> str | None:
    """Return which of some parameters of a verb an argument of the library is; None: none of them."""
    return next((each for each in (argument, *_OTHERWISE.get(argument, ())) if each in names), None)


def _source(context: Any, name: str) -> str:
    """Return where a value is from: COMMANDLINE, DEFAULT_MAP (a file of options) or DEFAULT."""
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else str(source.name)


def _shown(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).strip("[]").upper()
    return str(max(parameter.opts, key=len))
