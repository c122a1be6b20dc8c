"""Several targets at once against one after the other: ``python -m benchmarks sharing [MODEL] [--length N] [--targets K
...]``.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import lrp_fx
from benchmarks.page import Command
from benchmarks.speed.models import MODELS

ROUNDS = 5


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sharing", description=__doc__)
    parser.add_argument("model", nargs="?", choices=list(MODELS), default="Llama-like, 256 wide, 4 layers")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--targets", type=int, nargs="*", default=[2, 4, 8])
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    timed = MODELS[options.model]
    inputs, explain = timed.inputs(options.length, 1), lrp_fx.convert(timed.build(), keep_output=False)
    print("| targets | one by one, ms | together, ms | ratio |\n|---|---|---|---|")
    for count in options.targets:
        goals = list(range(count))
        runs = (
            lambda goals=goals: [explain(**inputs, target=g) for g in goals],
            lambda goals=goals: explain(**inputs, targets=goals),
        )
        for run in runs:
            run()
        pairs = [tuple(seconds(run) for run in runs) for _ in range(ROUNDS)]
        apart, together = (1e3 * statistics.median(p[i] for p in pairs) for i in range(2))
        print(
            f"| {count} | {apart:.0f} | {together:.0f} | {statistics.median(p[1] / p[0] for p in pairs):.2f} |",
            flush=True,
        )


BENCHMARK = Command("sharing", "Several targets at once against one after the other", main)
