"""Where the time goes: ``python -m benchmarks profile MODEL [--length N] [--batch B] [--rules R]
[--relevance-only] [--top K]``.

Kernels of one explanation and of one gradient x input, by operator, as torch.profiler counts them (own time, without
what they call), and the relevance graph's nodes by what they are for.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.profiler import ProfilerActivity, profile

import lrp_fx
from benchmarks.page import Command
from benchmarks.speed.contenders import gradient
from benchmarks.speed.models import MODELS

RUNS = 3


def by_operator(run: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """Operator -> (own milliseconds, calls) of one run."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(RUNS):
            run()
    return {e.key: (e.self_cpu_time_total / 1e3 / RUNS, e.count // RUNS) for e in found.key_averages()}


class Timer(fx.Interpreter):
    """Seconds of each node of a graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seconds: dict[fx.Node, float] = defaultdict(float)

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        try:
            return super().run_node(n)
        finally:
            self.seconds[n] += time.perf_counter() - start


def by_purpose(module: fx.GraphModule, tensors: list[Any]) -> dict[tuple[str, str], tuple[float, int]]:
    """(rule or "forward", what for) -> (milliseconds, nodes) of one run of a relevance graph."""
    timer = Timer(module)
    with torch.no_grad():
        timer.run(*tensors)
        timer.seconds.clear()
        for _ in range(RUNS):
            timer.run(*tensors)
    totals: dict[tuple[str, str], float] = Counter()
    nodes: Counter[tuple[str, str]] = Counter()
    for node, seconds in timer.seconds.items():
        where = node.meta.get("lrp")
        key = (str(where[1]), str(node.target)) if where else ("forward", str(node.target))
        totals[key] += 1e3 * seconds / RUNS
        nodes[key] += 1
    return {key: (ms, nodes[key]) for key, ms in totals.items()}


def show(title: str, rows: dict[Any, tuple[float, int]], top: int) -> None:
    print(f"\n{title}: {sum(ms for ms, _ in rows.values()):.1f} ms")
    for key, (ms, calls) in sorted(rows.items(), key=lambda r: -r[1][0])[:top]:
        print(f"{ms:9.2f} ms {calls:6d}  {' '.join(key) if isinstance(key, tuple) else key}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rules", default="pa-lrp")
    parser.add_argument("--conserve", default="total")
    parser.add_argument("--relevance-only", action="store_true", help="without the model's own output")
    parser.add_argument("--top", type=int, default=18)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    timed = MODELS[options.model]
    inputs, model = timed.inputs(options.length, options.batch), timed.build()
    explain = lrp_fx.convert(
        model, rules=options.rules, conserve=options.conserve, keep_output=not options.relevance_only
    )
    found, run = explain(**inputs), gradient(timed, model)
    show("gradient x input, by operator", by_operator(lambda: run(inputs)), options.top)
    show("explainer, by operator", by_operator(lambda: explain(**inputs)), options.top)
    graph = explain.relevance_graph
    names = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
    if not any(n.startswith("target_") for n in names):
        show("relevance graph, by purpose", by_purpose(graph, [inputs[n] for n in names]), options.top)
    print(f"\nledger closes to {float(found.ledger.error.max()):.1e}")


BENCHMARK = Command("profile", "Where the time of one explanation goes, by operator and by purpose", main)
