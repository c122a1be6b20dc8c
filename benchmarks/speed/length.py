"""Memory against length: ``python -m benchmarks length [--model NAME] [--lengths N ...]``.

Peak memory of one explanation as the benchmark `speed` measures it, for texts of growing length, one at a time and
without padding. What is written out query by key would show as growth with the square: twice the length, four times the
memory.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from benchmarks.compare import OTHERS, Noise
from benchmarks.page import Page, table
from benchmarks.speed import measure
from benchmarks.speed.contenders import BASE, CONTENDERS
from benchmarks.speed.models import MODELS

LENGTHS = (1024, 2048, 4096, 8192)
NAMES = (BASE, "lrp_fx", "lrp_fx, relevance only", "lrp_fx, checkpoint")


def exponent(lengths: list[int], mib: list[float]) -> float:
    """Of the power of the length that memory grows with, by least squares in logarithms: 1 is linear, 2 a square."""
    x, y = [math.log(n) for n in lengths], [math.log(m) for m in mib]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), default="Llama-like, 256 wide, 4 layers")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--contenders", nargs="*", choices=list(CONTENDERS), default=list(NAMES))


def about(options: argparse.Namespace) -> str:
    return f"""\
{options.model}, random weights, float32, on a CPU: peak memory of one run in MiB, and the power of the length that it
grows with (1 is linear)."""


def body(options: argparse.Namespace) -> Iterator[str]:
    headings = ("contender", *(f"{n} tokens" for n in options.lengths), "power")
    rows: list[list[str]] = []
    for name in options.contenders:
        measured = measure.in_child("peaks", options.model, [(n, 1) for n in options.lengths], [name], 0.0)
        found = {int(row["cell"][0]): row["found"][name] for row in measured}
        known = {n: f["mib"] for n, f in found.items() if "mib" in f}
        power = f"{exponent(list(known), list(known.values())):.2f}" if len(known) > 1 else ""
        rows.append([name, *(f"{known[n]:.0f}" if n in known else found[n]["why"] for n in options.lengths), power])
        print("|", " | ".join(rows[-1]), "|", flush=True)
        yield table(headings, rows)


BENCHMARK = Page(
    "length",
    "Memory of one explanation against the length of the text",
    "length.md",
    "Memory against length",
    about,
    body,
    add_options,
    selects=("model", "lengths", "contenders"),
    noise={OTHERS: Noise(relative=0.15, absolute=10.0), "power": Noise(absolute=0.1)},
)
