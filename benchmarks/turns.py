"""Turns: CPU seconds of two things in one process, one after the other, and what a call makes a process grow by."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def by_turns(plain: Callable[[], Any], other: Callable[[], Any], rounds: int, *, before: int = 1) -> list[float]:
    """[median CPU seconds of the first, median ratio of the second to it]; before: runs that do not count."""
    taken: list[list[float]] = []
    for _ in range(before + rounds):
        taken.append([])
        for run in (plain, other):
            start = time.process_time()
            run()
            taken[-1].append(time.process_time() - start)
    counted = taken[before:]
    return [statistics.median(t[0] for t in counted), statistics.median(t[1] / t[0] for t in counted)]


def growth(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and how many MiB the process grew by at most meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    found = run()
    return found, _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
