"""Ctrl-C and SIGTERM: one line says what is kept and the command that goes on, and the status is 130."""

import atexit
import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from typer.core import TyperGroup

from s3clip.printing import say

STATUS = 128 + signal.SIGINT
"""Of a command that was stopped, as shells have it."""

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class StoppedError(BaseException):
    """A command was stopped; `str` says what is kept. Not KeyboardInterrupt, which typer ends in silence."""


class StoppableGroup(TyperGroup):
    """Verbs of which those without `keeps` keep nothing."""

    def invoke(self, ctx: Any) -> Any:
        """Call the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise StoppedError("nothing is kept; to begin anew") from error


def keeps(
    what: Callable[..., str],
) -> Callable[[Callable[Arguments, Returned]], Callable[Arguments, Returned]]:
    """Decorate a verb with what it leaves when it is stopped.

    Args:
        what: from the verb's arguments to the words before the command: "... is kept; to go on".
    """

    def decorated(verb: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
        @wraps(verb)
        def stoppable(*args: Arguments.args, **options: Arguments.kwargs) -> Returned:
            try:
                return verb(*args, **options)
            except KeyboardInterrupt as error:
                raise StoppedError(what(**options)) from error

        return stoppable

    return decorated


def encoded_texts() -> str:
    """Return what is kept of the texts that were encoded."""
    if os.environ.get("S3CLIP_CACHE") == "":
        return "nothing is kept, since S3CLIP_CACHE is empty"
    return "texts that were encoded are kept in their cache, but for the last 16,384 prompts"


def answer_signals() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and the next one end the process at once."""

    def stop(number: int, frame: object) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) != signal.SIG_IGN:  # as under nohup, or in a script's background
            signal.signal(each, stop)


def end(stopped: StoppedError) -> NoReturn:
    """Say the line, and end the process without waiting for threads, which may wait for a server."""
    if int(os.environ.get("RANK", "0")) == 0:
        say(f"stopped: {stopped}: {_command()}", error=True)
    atexit._run_exitfuncs()  # such as what ends worker processes
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STATUS)


def _command() -> str:
    """Return the command as it can be typed again."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "the same launcher with the same arguments"
    program = Path(sys.argv[0])
    typed = [sys.executable, "-m", "s3clip.cli"] if program.name == "__main__.py" else [program.name]
    return shlex.join([*typed, *sys.argv[1:]])
