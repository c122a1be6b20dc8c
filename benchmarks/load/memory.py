"""Memory: explainers made and dropped. ``python -m benchmarks.load.memory COUNT`` is run in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load.model import answer, explainer

_PAGE = 4096


def resident() -> int:
    """Bytes of this process that lie in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def make(count: int) -> None:
    """Make and drop explainers, and say after each what is resident; the collector is left to itself."""
    for number in range(count):
        explain = explainer(number)
        answer(explain, number)
        answer(explain, number + 1)
        del explain
        print(number + 1, resident(), flush=True)


def curve(count: int) -> Iterator[tuple[int, int]]:
    """(explainers made so far, bytes resident), measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.load.memory", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            made, held = map(int, line.split())
            yield made, held


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    make(int(sys.argv[1]))
