"""Explaining against plain gradient x input: ``python -m benchmarks speed [--models NAME ...] [--lengths N ...]
[--batches N ...]``.

For each model, one process times all contenders in turns, cell by cell (length, batch); ratios are of neighbouring
runs. Peak memory is what the resident set grows by in a process that runs one contender alone, once it is converted. A
cell over the limits (16 GiB, five minutes) is left out, and the page says why. The page keeps the sections of cells
that are not measured.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.compare import ANY, TEXT, Noise
from benchmarks.page import Page
from benchmarks.speed import measure
from benchmarks.speed.contenders import BASE, CONTENDERS
from benchmarks.speed.models import LENGTHS, MODELS

BATCHES = (1, 8)
TITLE = re.compile(r"^### (.*), (\d+) tokens, batch (\d+)$", re.MULTILINE)


def about(options: argparse.Namespace) -> str:
    return f"""\
Random weights, float32, torch {torch.__version__}, {torch.get_num_threads()} thread on a CPU. Ratios are to gradient x
input of the untouched model (parameters frozen), which is a forward and a backward pass; each is the median over runs
in turns, with quartiles. Memory is the growth of the resident set while one contender runs. What the figures mean is in
[performance_notes.md](performance_notes.md)."""


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


Key = tuple[str, int, int]


def sections_of(page: Path) -> dict[Key, str]:
    """The sections of a page by model, tokens and batch."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    places = [*TITLE.finditer(text)]
    ends = [*(m.start() for m in places[1:]), len(text)][: len(places)]
    return {(m[1], int(m[2]), int(m[3])): text[m.start() : end].strip() for m, end in zip(places, ends, strict=True)}


def in_order(sections: dict[Key, str]) -> str:
    """By model, as they are listed, then by length and batch."""
    order = list(MODELS)
    return "\n\n".join(sections[k].strip() for k in sorted(sections, key=lambda k: (order.index(k[0]), k[1:])))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of timing for a cell")


def body(options: argparse.Namespace) -> Iterator[str]:
    names = [BASE, *(c for c in options.contenders if c != BASE)]
    sections = sections_of(options.page)
    yield in_order(sections)
    for model in options.models:
        measured = sections_measured(model, names, options)
        print(*measured.values(), sep="\n", flush=True)
        sections |= measured
        yield in_order(sections)


def sections_measured(model: str, names: list[str], options: argparse.Namespace) -> dict[Key, str]:
    """A section for each cell of a model."""
    cells = cells_of(model, options.lengths, options.batches)
    timed = measure.in_child("times", model, cells, names, options.budget)
    ran = {name: [tuple(row["cell"]) for row in timed if "ms" in row["found"].get(name, {})] for name in names}
    memory = {name: measure.in_child("peaks", model, ran[name], [name], options.budget) for name in names if ran[name]}
    found = {}
    for cell in cells:
        times = {n: f for row in timed if tuple(row["cell"]) == cell for n, f in row["found"].items()}
        peaks = {
            name: row["found"][name] for name, rows in memory.items() for row in rows if tuple(row["cell"]) == cell
        }
        found[model, *cell] = section(model, cell, times, peaks, names)
    return found


#: Milliseconds are one machine's; ratios are held to.
RATIO = Noise(relative=0.2, absolute=0.1)
BENCHMARK = Page(
    "speed",
    "Time and memory of an explanation, against the gradient of the untouched model and other libraries",
    "performance.md",
    "Performance",
    about,
    body,
    add_options,
    selects=("contenders",),
    noise={
        **dict.fromkeys(("ms", "quartiles", TEXT), ANY),
        **dict.fromkeys(("ratio in time", "ratio in memory"), RATIO),
        "peak memory, MiB": Noise(relative=0.2, absolute=5.0),
    },
    notes="performance_notes.md",
)
