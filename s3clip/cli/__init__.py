"""The `s3clip` command: one function a verb, no arithmetic."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError

from s3clip._version import __version__
from s3clip.cli import (
    bench,
    bulk,
    compare,
    editing,
    eval,
    heads,
    inspection,
    labelled,
    report,
    segmentation,
    serving,
    synonyms,
)
from s3clip.cli.options import read_options, take_options
from s3clip.cli.stopping import StoppableGroup, StoppedError, answer_signals, end
from s3clip.cli.wording import Verb, as_typed
from s3clip.printing import say

app = typer.Typer(
    name="s3clip",
    cls=StoppableGroup,
    help="Zero-shot image classification where every class has many names. "
    "Start with `s3clip demo`; then `s3clip fit` your class names, and `s3clip predict` your images.",
    no_args_is_help=True,
    context_settings={"max_content_width": 110},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # else "[texts]" in a help is taken for markup, and is not shown
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"s3clip {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    options: Annotated[
        Path | None,
        typer.Option(
            help="Options of the verb, as JSON or TOML: top-k = 3. Those on the command line go before them."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if options is not None:
        context.obj = str(options)
        take_options(context, read_options(options))


for verb in (
    heads.demo,
    heads.fit,
    heads.schema,
    heads.predict,
    labelled.teach,
    labelled.suggest,
    labelled.calibrate,
    labelled.reject,
    labelled.shares,
    inspection.inspect,
    heads.push,
    heads.export,
    segmentation.segment,
    bulk.label,
    compare.compare,
    report.report,
    bench.bench,
    editing.app,
    serving.serve,
):
    app.command(cls=Verb)(verb)
app.command("eval", cls=Verb)(eval.evaluate)
app.add_typer(synonyms.app, name="synonyms")


_LONGEST = 1_000

_LIBRARIES = {"torch", "transformers", "sklearn", "scipy", "numpy", "gradio", "huggingface_hub"}
"""Whose warnings are about how they are called, which whoever types a command cannot change."""


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    """Print a warning as one line, but not those of libraries."""
    caller = sys._getframe(1)
    while caller.f_back is not None and caller.f_globals.get("__name__") == "warnings":
        caller = caller.f_back
    # Who warns, and not where it is said to be: a warning of ours may be said to be in torch's decorators.
    if str(caller.f_globals.get("__name__")).partition(".")[0] not in _LIBRARIES:
        say(f"warning: {as_typed(str(message))}", error=True)


def _one_line(error: BaseException) -> str:
    from pydantic import ValidationError

    from s3clip.files.problems import first_problem

    if isinstance(error, ValidationError):
        return first_problem(error)
    said = [" ".join(part.split()) for part in (str(error), *getattr(error, "__notes__", ()))]
    line = "; ".join(part for part in said if part) or type(error).__name__
    # It may hold what a file or a server said.
    return line if len(line) <= 2 * _LONGEST else f"{line[:_LONGEST]} ... {line[-_LONGEST:]}"


def main() -> None:
    """Run the command; bad input ends it with status 2 and one line on standard error, Ctrl-C with 130."""
    answer_signals()
    if not sys.stderr.isatty():  # in a log, a progress bar is noise; read when the Hub's client is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.showwarning = _show_warning
    try:
        app()
    except StoppedError as stopped:
        end(stopped)
    except (ValueError, TypeError, OSError, SafetensorError, ImportError) as error:
        if isinstance(error, ImportError) and "s3clip[" not in str(error):
            raise  # no extra that is missing, but something broken
        say(f"error: {_one_line(error)}", error=True)
        sys.exit(2)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch raises nothing more special
            raise
        say(
            "error: a process that opens images was killed, perhaps for want of memory; what is done is "
            "kept: run the command again, with fewer --workers",
            error=True,
        )
        sys.exit(1)
