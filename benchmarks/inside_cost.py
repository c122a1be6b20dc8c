"""What reading inside a model costs: ``python -m benchmarks inside_cost [--write]``.

In one process a call, and the same call with places asked for, take turns; the ratio is the median of those of their
CPU seconds. Memory is what a fresh process grows by at most while it explains, less the answers' own. One thread,
float32.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.compare import Noise
from benchmarks.history import measured_in
from benchmarks.page import ROOT, Page, table
from benchmarks.preset_cost import build
from benchmarks.turns import by_turns, growth

#: (layers, width, tokens, rounds)
SIZE = (6, 768, 256, 9)
ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "at: heads": {"at": "heads"},
    "at: residual": {"at": "residual"},
    "at: heads, mlp, neurons, residual": {"at": ["heads", "mlp", "neurons", "residual"]},
    "through: one head": {"through": {"heads.3": [1]}},
}
HEADINGS = ("asked", "CPU seconds", "ratio", "answers, MiB", "peak less answers, MiB", "ratio of that")


def measure(what: str, asked: str) -> list[float]:
    """[CPU seconds of a plain call, ratio] or [MiB of the answers, MiB beside them at the peak]."""
    import lrp_fx

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    layers, width, tokens, rounds = SIZE
    explain = lrp_fx.convert(build(layers, width))
    ids = torch.randint(5, 4000, (1, tokens), generator=torch.Generator().manual_seed(0))
    given = ASKED[asked]
    if what == "memory":
        explain.trace(input_ids=ids, **given)
        held, peak = growth(lambda: explain(input_ids=ids, **given))
        answers = sum(a.value.nbytes + a.coefficient.nbytes for a in held.at.values()) / 2**20
        return [answers, peak - answers]
    return by_turns(lambda: explain(input_ids=ids), lambda: explain(input_ids=ids, **given), rounds, before=2)


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[list[str]] = []
    plain = 1.0
    for asked in ASKED:
        seconds, ratio = measured_in(ROOT, __name__, "time", asked)
        answers, beside = measured_in(ROOT, __name__, "memory", asked)
        plain = beside if asked == "nothing" else plain
        memory = (f"{answers:.1f}", f"{beside:.0f}", f"{beside / plain:.2f}")
        rows.append([asked, f"{seconds:.2f}", f"{ratio:.2f}", *memory])
        print(*rows[-1], flush=True)
        yield table(HEADINGS, rows)


BENCHMARK = Page(
    "inside_cost",
    "What reading inside a model costs beside a plain call: time and memory",
    "inside_cost.md",
    "What reading inside a model costs",
    lambda options: (
        f"""\
A decoder of {SIZE[0]} x {SIZE[1]} (random weights) explains a text of {SIZE[2]} tokens. Ratios are to a call that asks
for nothing inside; "answers" is the memory of values and coefficients that were asked for. (What is an answer and kept
by the call anyway is counted as an answer: the ratio may be below 1.)
"""
    ),
    body,
    noise={
        HEADINGS[1]: Noise(relative=1.0),
        HEADINGS[2]: Noise(absolute=0.1),
        HEADINGS[4]: Noise(relative=0.3),
        HEADINGS[5]: Noise(absolute=0.15),
    },
)
