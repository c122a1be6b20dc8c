"""Explaining against plain gradient x input: ``python -m benchmarks.speed [--write PAGE] [--models NAME ...] [--lengths
N ...] [--batches N ...]``.

For each model, one process times all contenders in turns, cell by cell (length, batch); ratios are of neighbouring
runs. Peak memory is what the resident set grows by in a process that runs one contender alone, once it is converted. A
cell over the limits (16 GiB, five minutes) is left out, and the page says why. ``--write`` replaces the sections of the
cells that were measured and keeps the others.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.speed import measure
from benchmarks.speed.contenders import BASE, CONTENDERS
from benchmarks.speed.models import LENGTHS, MODELS

BATCHES = (1, 8)
TITLE = re.compile(r"^### (.*), (\d+) tokens, batch (\d+)$", re.MULTILINE)


def intro() -> str:
    return (
        "# Performance\n\n"
        "Written by `python -m benchmarks.speed --write docs/performance.md`: random weights, float32, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread on a CPU. Ratios are to gradient x input of the "
        "untouched model (parameters frozen), "
        "which is a forward and a backward pass; each is the median over runs in turns, with quartiles. Memory is the "
        "growth of the resident set while one "
        "contender runs. What the figures mean is in [performance_notes.md](performance_notes.md).\n"
    )


def cells_of(model: str, lengths: list[int], batches: list[int]) -> list[tuple[int, int]]:
    """Lengths by batches that a model is timed at: long ones one at a time, images at their own length."""
    chosen = [n for n in lengths if n in MODELS[model].lengths] if MODELS[model].words else list(MODELS[model].lengths)
    return [(n, b) for n in chosen for b in (batches if n <= 512 else [1])]


def section(
    model: str,
    cell: tuple[int, int],
    times: dict[str, measure.Found],
    peaks: dict[str, measure.Found],
    names: list[str],
) -> str:
    lines = [f"### {model}, {cell[0]} tokens, batch {cell[1]}", ""]
    if BASE not in times or "why" in times[BASE]:
        return "\n".join([*lines, f"Left out: {times.get(BASE, {}).get('why', 'not measured')}.", ""])
    lines += [
        "| contender | ms | ratio in time | quartiles | peak memory, MiB | ratio in memory |",
        "|---|---|---|---|---|---|",
    ]
    base = peaks.get(BASE, {}).get("mib")
    for name in names:
        found, mib = times.get(name, {"why": "not run"}), peaks.get(name, {}).get("mib")
        if "why" in found:
            lines.append(f"| {name} | {found['why']} | | | | |")
            continue
        memory = (
            f"{mib:.0f} | {mib / base:.2f}" if mib is not None and base else f"{peaks.get(name, {}).get('why', '')} | "
        )
        lines.append(
            f"| {name} | {found['ms']:.1f} | {found['ratio']:.2f} | {found['low']:.2f} to {found['high']:.2f} | "
            f"{memory} |"
        )
    return "\n".join([*lines, ""])


def write(page: Path, sections: dict[tuple[str, int, int], str]) -> None:
    """Put sections into the page, in order, in place of those with the same title."""
    text = page.read_text() if page.exists() else ""
    places = [*TITLE.finditer(text)]
    ends = [*(m.start() for m in places[1:]), len(text)][: len(places)]
    known = {
        (m[1], int(m[2]), int(m[3])): text[m.start() : end].strip() + "\n" for m, end in zip(places, ends, strict=True)
    }
    known |= sections
    order = list(MODELS)
    page.write_text("\n".join([intro(), *(known[k] for k in sorted(known, key=lambda k: (order.index(k[0]), k[1:])))]))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of timing for a cell")
    parser.add_argument("--child", choices=("times", "peaks"), help=argparse.SUPPRESS)
    parser.add_argument("--cells", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    names = [BASE, *(c for c in options.contenders if c != BASE)]
    if options.child:
        (model,) = options.models
        cells = [(int(n), int(b)) for n, b in options.cells]
        found = (
            measure.times(model, cells, options.contenders, options.budget)
            if options.child == "times"
            else measure.peaks(model, cells, options.contenders[0])
        )
        for row in found:
            print(json.dumps(row), flush=True)
        return
    print(intro())
    for model in options.models:
        cells = cells_of(model, options.lengths, options.batches)
        timed = measure.in_child("times", model, cells, names, options.budget)
        ran = {name: [tuple(row["cell"]) for row in timed if "ms" in row["found"].get(name, {})] for name in names}
        memory = {
            name: measure.in_child("peaks", model, ran[name], [name], options.budget) for name in names if ran[name]
        }
        sections = {}
        for cell in cells:
            times = {n: f for row in timed if tuple(row["cell"]) == cell for n, f in row["found"].items()}
            peaks = {
                name: row["found"][name] for name, rows in memory.items() for row in rows if tuple(row["cell"]) == cell
            }
            sections[model, *cell] = section(model, cell, times, peaks, names)
            print(sections[model, *cell], flush=True)
        if options.write:
            write(options.write, sections)


if __name__ == "__main__":
    main(sys.argv[1:])
