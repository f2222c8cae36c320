"""The processes of a run: one, or as many as `accelerate launch` or torchrun started."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

_LONGEST_WAIT = timedelta(days=7)
"""For the slowest process: how long its shards take, nobody knows."""


@dataclass(frozen=True)
class Processes:
    """One process among those of a run.

    Attributes:
        index: its number, from 0; number 0 scores and reports.
        count: how many there are.
        device: where it computes.
    """

    index: int
    count: int
    device: str

    def gather(self, value: Any) -> list[Any]:
        """Wait for all processes, and return the value that each of them brings, in their order."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        found: list[Any] = gather_object([value])
        return found


def join_processes(device: str | None = None) -> Processes:
    """Return which process this is; in one that a launcher started, meet the others.

    Args:
        device: where to compute; None: the process's own GPU where there is one, else the CPU.

    Raises:
        ImportError: there are several processes, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(
            "several processes need accelerate: pip install 's3clip[distributed]'; or start one, without a "
            "launcher"
        ) from error
    state = PartialState(cpu=device == "cpu", timeout=_LONGEST_WAIT)
    # A process that ends while threads of its group still listen can be aborted after its work is done.
    atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes, device or str(state.device))
