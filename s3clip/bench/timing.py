"""How something is timed: in turns with what it is compared with, so that a machine that slows, slows all."""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Row:
    """One comparison of the table.

    Attributes:
        part: which part of s3clip.
        what: what was measured.
        against: what it is compared with.
        reading: "times faster": the other's time divided by ours; "times as much": ours divided by the
            other's, of time or of memory.
        ratio: the number, the median over the repeats.
        ours: seconds, or MiB where `unit` says so.
        other: the same of what it is compared with.
        unit: "s" or "MiB".
        settings: sizes, counts, repeats and whatever else the number hangs on.
    """

    part: str
    what: str
    against: str
    reading: Literal["times faster", "times as much"]
    ratio: float
    ours: float
    other: float
    unit: Literal["s", "MiB"] = "s"
    settings: Mapping[str, Any] = field(default_factory=dict)


Calls = Mapping[str, Callable[[], Any]]


def interleaved(calls: Calls, repeats: int, device: torch.device | str = "cpu") -> dict[str, list[float]]:
    """Return the seconds of each call, once per repeat, all calls in turn in each."""
    synchronize: Callable[[], object] = (
        torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def faster(part: str, what: str, against: str, ours: list[float], other: list[float], **settings: Any) -> Row:
    """Return how many times less time ours takes."""
    ratio = median(b / a for a, b in zip(ours, other, strict=True))
    settings["repeats"] = len(ours)
    return Row(part, what, against, "times faster", ratio, median(ours), median(other), settings=settings)


def as_much(part: str, what: str, against: str, ours: list[float], other: list[float], **more: Any) -> Row:
    """Return how many times the other's time ours takes."""
    row = faster(part, what, against, other, ours, **more)
    return replace(row, reading="times as much", ours=row.other, other=row.ours)


def can_measure_memory() -> bool:
    """Whether the system says the peak memory of a process, and lets it forget the last one (Linux)."""
    return sys.platform == "linux" and _STATUS.exists() and _FORGET_PEAK.exists()


def peak_growth(call: Callable[[], Any]) -> float:
    """Return by how many MiB the memory of this process grows during a call, at its peak (Linux)."""
    before = forget_peak()
    call()
    return _resident("VmHWM") - before


def memory_rows(
    part: str, what: str, against: str, ours: float | None, other: float | None, settings: dict[str, Any]
) -> list[Row]:
    """Return the row that compares two amounts of MiB; none where they are not known, or too small to see."""
    if ours is None or not other:
        return []
    return [Row(part, what, against, "times as much", ours / other, ours, other, "MiB", settings)]


def extra_memory(call: Callable[[], Any], device: torch.device | str) -> float | None:
    """Return the MiB that a call needs on top of what is held, None where that is not known."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return peak_growth(call) if torch.device(device).type == "cpu" and can_measure_memory() else None


def forget_peak() -> float:
    """Give back free memory and forget the peak so far; return the MiB in memory now (Linux)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _FORGET_PEAK.write_text("5")
    return _resident("VmRSS")


def peak_memory() -> float:
    """Return the largest memory of this process since the peak was forgotten, in MiB (Linux)."""
    return _resident("VmHWM")


def _resident(key: str) -> float:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024
