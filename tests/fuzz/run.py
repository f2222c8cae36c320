"""Run a target: `python -m tests.fuzz.run TARGET [--count N] [--seed S] [--first I]`.

Each case has a random number generator of its own, `random.Random(f"{seed}:{number}")`: one that fails is run
again alone by `--first NUMBER --count 1`. The cases run in a child process that may take no more memory than
`MEMORY` beyond what it has once all is imported, and no more than `SECONDS` each. A child that dies, hangs or
raises what is not documented is a failure; it is named, and the next child goes on after it.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS, quiet

MEMORY = 2 << 30
SECONDS = 20
_MOST_FAILURES = 20


def run(name: str, count: int, seed: int = 0, first: int = 0, *, report: float = 0.0) -> list[str]:
    """Run cases, and return what is wrong with each that failed.

    Args:
        name: of the target.
        count: of cases.
        seed: of all of them.
        first: the number of the first.
        report: seconds between lines that say how far it is; 0: none.
    """
    context = multiprocessing.get_context("fork")
    done = context.Value("q", first, lock=False)
    failures: list[str] = []
    end, said = first + count, time.monotonic()
    while done.value < end and len(failures) < _MOST_FAILURES:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(name, seed, done.value, end, done, theirs))
        child.start()
        theirs.close()
        seen, moved = done.value, time.monotonic()
        while child.is_alive():
            child.join(0.2)
            now = time.monotonic()
            if done.value != seen:
                seen, moved = done.value, now
            elif now - moved > 10 * SECONDS:  # preparing takes a while, too
                child.kill()
            if report and now - said > report:
                said = now
                print(f"{name}: {done.value - first:,} of {count:,}, {len(failures)} failures", flush=True)
        if done.value < end:
            try:
                why = ours.recv()
            except EOFError:
                why = f"the process ended with {child.exitcode}"
            failures.append(f"{name} --seed {seed} --first {done.value}: {why}")
            done.value += 1
    return failures


def _child(name: str, seed: int, first: int, end: int, done: Any, pipe: Any) -> None:
    os.environ["S3CLIP_CACHE"] = ""
    quiet()
    here = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        (here / "base").mkdir()
        case = TARGETS[name].prepare(here / "base")
        folder = here / "case"
        folder.mkdir()
        case(random.Random("warm"), folder)  # imports what is imported late
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.signal(signal.SIGALRM, _too_long)
        for number in range(first, end):
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            case(random.Random(f"{seed}:{number}"), folder)
            signal.setitimer(signal.ITIMER_REAL, 0)
            done.value = number + 1
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(traceback.format_exc(limit=-6))
    finally:
        shutil.rmtree(here, ignore_errors=True)
        pipe.close()
        os._exit(0)  # pyarrow's and torch's threads are not those of a process that was forked


class _TooLong(BaseException):
    pass


def _too_long(*_: Any) -> None:
    raise _TooLong(f"more than {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--count", type=int, help="of cases; else what the target asks for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    failed = 0
    for name in TARGETS if asked.target == "all" else [asked.target]:
        count = TARGETS[name].long if asked.count is None else asked.count
        began = time.monotonic()
        failures = run(name, count, asked.seed, asked.first, report=60.0)
        failed += len(failures)
        print("\n".join(failures), end="\n" if failures else "")
        print(
            f"{name}: {count:,} cases from {asked.first} of seed {asked.seed} in "
            f"{time.monotonic() - began:,.0f} s, {len(failures)} failures",
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
