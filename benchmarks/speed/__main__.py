"""Explaining against plain gradient x input: ``python -m benchmarks.speed [--write PAGE] [--models NAME ...] [--lengths N ...] [--batches N ...]``.

Every cell (model, length, batch) is a process of its own, in which all contenders take turns; ratios are of neighbouring
runs. Peak memory is what the resident set grew by in a process that runs one contender alone, once it is converted. A cell
or contender over the limits (16 GiB, five minutes) is left out, and the page says why.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.contenders import BASE, CONTENDERS, Unavailable
from benchmarks.speed.models import LENGTHS, MODELS

GIGABYTES, SECONDS = 16, 300
BATCHES = (1, 8)


def measure_times(model_name: str, length: int, batch: int, names: list[str], budget: float) -> dict[str, Any]:
    """Seconds and ratios to the gradient of each contender, in turns, for about ``budget`` seconds."""
    timed = MODELS[model_name]
    inputs = timed.inputs(length, batch)
    runs, out = {}, {}
    for name in names:
        model = timed.build()  # one each: some contenders patch theirs
        try:
            runs[name] = CONTENDERS[name](timed, model, inputs)
            start = time.perf_counter()
            runs[name]()
            if time.perf_counter() - start > budget / 3:
                raise Unavailable(f"one run takes {time.perf_counter() - start:.0f} s")
        except Unavailable as error:
            out[name] = {"why": str(error)}
            runs.pop(name, None)
        except Exception as error:
            out[name] = {"why": f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"}
            runs.pop(name, None)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + budget
    while len(seconds[BASE]) < 5 or (time.perf_counter() < end and len(seconds[BASE]) < 40):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        if time.perf_counter() > end + budget:
            break
    for name, times in seconds.items():
        ratios = sorted(t / b for t, b in zip(times, seconds[BASE], strict=True))
        quarter = len(ratios) // 4
        out[name] = {"ms": 1e3 * statistics.median(times), "ratio": statistics.median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter], "runs": len(times)}
    return out


def measure_memory(model_name: str, length: int, batch: int, name: str) -> dict[str, Any]:
    """By how many MiB the resident set grows over what it is once all is prepared and has run."""
    timed = MODELS[model_name]
    inputs = timed.inputs(length, batch)
    run = CONTENDERS[name](timed, timed.build(), inputs)
    run()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what conversion left behind with the allocator would hide what a run takes
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    for _ in range(2):
        run()
    return {"mib": (_status("VmHWM") - before) / 1024}


def _status(field: str) -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1])


def child(*arguments: str) -> dict[str, Any]:
    """One measurement in a process with limits."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))

    try:
        done = subprocess.run([sys.executable, "-m", "benchmarks.speed", *arguments], capture_output=True, text=True, timeout=2 * SECONDS, preexec_fn=limits, check=False)
    except subprocess.TimeoutExpired:
        return {"why": f"more than {2 * SECONDS} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1][:120] if done.stderr.strip() else f"signal {-done.returncode}"
        return {"why": f"more than {GIGABYTES} GiB" if "memory" in last.lower() or done.returncode < 0 else last}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def table(model: str, length: int, batch: int, names: list[str], budget: float) -> list[str]:
    cell = [model, str(length), str(batch)]
    times = child("--cell", *cell, "--contenders", *names, "--budget", str(budget))
    lines = ["", f"### {model}, {length} tokens, batch {batch}", ""]
    if "why" in times:
        return [*lines, f"Left out: {times['why']}."]
    lines += ["| contender | ms | ratio in time | quartiles | peak memory, MiB | ratio in memory |", "|---|---|---|---|---|---|"]
    base = 0.0
    for name in names:
        found = times.get(name, {"why": "not run"})
        if "why" in found:
            lines.append(f"| {name} | {found['why']} | | | | |")
            continue
        memory = child("--cell", *cell, "--contenders", name, "--memory")
        mib = memory.get("mib")
        base = mib if name == BASE and mib else base
        ratio = f"{mib / base:.2f}" if mib is not None and base else memory.get("why", "")
        lines.append(f"| {name} | {found['ms']:.1f} | {found['ratio']:.2f} | {found['low']:.2f} to {found['high']:.2f} | {'' if mib is None else f'{mib:.0f}'} | {ratio} |")
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of timing for a cell")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.cell:
        name, length, batch = options.cell[0], int(options.cell[1]), int(options.cell[2])
        found = measure_memory(name, length, batch, options.contenders[0]) if options.memory else measure_times(name, length, batch, options.contenders, options.budget)
        print(json.dumps(found))
        return
    names = [BASE, *(c for c in options.contenders if c != BASE)]
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks.speed --write docs/performance.md`: random weights, float32, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads on a CPU. Ratios are to gradient x input of the untouched model (parameters frozen), which "
        "is a forward and a backward pass; each is the median over runs in turns, with quartiles. Memory is the growth of the resident set while one contender runs.",
    ]
    print("\n".join(lines))
    for model in options.models:
        for length in [n for n in options.lengths if n in MODELS[model].lengths] or MODELS[model].lengths[:1]:
            for batch in options.batches if length <= 512 else (1,):
                rows = table(model, length, batch, names, options.budget)
                print("\n".join(rows), flush=True)
                lines += rows
                if options.write:
                    options.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
