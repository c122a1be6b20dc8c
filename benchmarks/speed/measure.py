"""Measuring: times in turns, peaks of the resident set, each in a process of its own with limits."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from benchmarks.page import ROOT
from benchmarks.speed.contenders import BASE, CONTENDERS, GRADIENTS, Inputs, Run, Unavailable
from benchmarks.speed.models import MODELS
from benchmarks.turns import growth

GIGABYTES, SECONDS = 16, 300
LEAST_ROUNDS, MOST_ROUNDS = 3, 40
Found = dict[str, Any]
Cell = tuple[int, int]


def _reason(error: Exception) -> str:
    text = str(error)
    if "memory" in text.lower() or isinstance(error, MemoryError):
        return f"more than {GIGABYTES} GiB"
    return (
        text
        if isinstance(error, Unavailable)
        else f"{type(error).__name__}: {text.splitlines()[0][:100] if text else ''}"
    )


def times(model_name: str, cells: list[Cell], names: list[str], budget: float) -> Iterator[Found]:
    """For each cell, milliseconds and ratios to the gradient of each contender, in turns, for about ``budget``
    seconds.
    """
    timed = MODELS[model_name]
    runs: dict[str, Run] = {}
    refused: dict[str, Found] = {}
    for name in names:
        try:
            runs[name] = CONTENDERS[name](timed, timed.build())
        except Exception as error:
            refused[name] = {"why": _reason(error)}
    for length, batch in cells:
        inputs = timed.inputs(length, batch)
        single, why = _once(runs, inputs)
        found = refused | {name: {"why": reason} for name, reason in why.items()}
        if BASE in single:
            found |= _in_turns(
                {name: runs[name] for name in single},
                inputs,
                rounds=int(min(MOST_ROUNDS, max(LEAST_ROUNDS, budget / sum(single.values())))),
            )
        yield {"cell": [length, batch], "found": found}


def _once(runs: dict[str, Run], inputs: Inputs) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds that a run of each contender takes, and why some have none; the yardstick's first, and none without
    it.
    """
    single: dict[str, float] = {}
    why: dict[str, str] = {}
    spent = 0.0
    for name in sorted(runs, key=lambda n: n != BASE):
        if name != BASE and BASE not in single:
            break
        spent += _gradients(name) * single.get(BASE, 0.0)
        if spent > SECONDS:
            why[name] = f"left out: with it, the cell would take more than {SECONDS // 60} minutes"
            continue
        try:
            runs[name](inputs)  # captures, compiles
            single[name] = _seconds(runs[name], inputs)
        except Exception as error:
            why[name] = _reason(error)
            continue
        if name == BASE and (spent := _gradients(BASE) * single[BASE]) > SECONDS:
            del single[BASE]
            why[BASE] = f"{BASE} alone would take more than {SECONDS // 60} minutes"
    return single, why


def _gradients(name: str) -> float:
    """How many gradients' time all runs of a contender take, by a guess."""
    return (2 + _rounds_of(name, LEAST_ROUNDS)) * GRADIENTS.get(name, 1)


def _rounds_of(name: str, rounds: int) -> int:
    """What computes twenty gradients need not be run as often to be told from one."""
    return max(1, int(rounds / max(1.0, GRADIENTS.get(name, 1) / 5)))


def _in_turns(runs: dict[str, Run], inputs: Inputs, rounds: int) -> dict[str, Found]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name, run in runs.items():
            if i < _rounds_of(name, rounds):
                seconds[name].append(_seconds(run, inputs))
    found = {}
    for name, each in seconds.items():
        ratios = sorted(t / b for t, b in zip(each, seconds[BASE], strict=False))
        quarter = len(ratios) // 4
        found[name] = {
            "ms": 1e3 * statistics.median(each),
            "ratio": statistics.median(ratios),
            "low": ratios[quarter],
            "high": ratios[-1 - quarter],
            "runs": len(each),
        }
    return found


def _seconds(run: Run, inputs: Inputs) -> float:
    start = time.perf_counter()
    run(inputs)
    return time.perf_counter() - start


def peaks(model_name: str, cells: list[Cell], name: str) -> Iterator[Found]:
    """For each cell, by how many MiB the resident set grows over what it is once all is prepared and has run."""
    timed = MODELS[model_name]
    run = CONTENDERS[name](timed, timed.build())
    for length, batch in cells:
        inputs = timed.inputs(length, batch)
        try:
            run(inputs)
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(
                0
            )  # what conversion left behind with the allocator would hide what a run takes
            found: Found = {"mib": growth(lambda now=inputs: run(now))[1]}
        except Exception as error:
            found = {"why": _reason(error)}
        yield {"cell": [length, batch], "found": {name: found}}


def in_child(what: str, model: str, cells: list[Cell], names: list[str], budget: float) -> list[Found]:
    """The rows that a process with limits measured; those of cells that it did not reach say why it ended."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))

    what_to_measure = [what, model, json.dumps(cells), json.dumps(names), str(budget)]
    command = [sys.executable, "-m", "benchmarks.speed.measure", *what_to_measure]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limits, check=False)
    rows = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    reached = {tuple(row["cell"]) for row in rows}
    last = done.stderr.strip().splitlines()[-1][:120] if done.stderr.strip() else ""
    why = f"more than {GIGABYTES} GiB" if done.returncode < 0 or "memory" in last.lower() else last
    return rows + [
        {"cell": list(cell), "found": {name: {"why": why} for name in names}} for cell in cells if cell not in reached
    ]


def main(what: str, model: str, cells: str, names: str, budget: str) -> None:
    """In the child: a row of JSON for each cell."""
    warnings.simplefilter("ignore")
    each, chosen = [(int(n), int(b)) for n, b in json.loads(cells)], json.loads(names)
    for row in times(model, each, chosen, float(budget)) if what == "times" else peaks(model, each, chosen[0]):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
