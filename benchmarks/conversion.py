"""Seconds to convert each architecture of the tests: ``python -m benchmarks.conversion [NAME ...]``.

One line each: capture, the rest of the compiler, nodes of the captured and of the relevance graph, ledger error.
"""

from __future__ import annotations

import sys
import time
import warnings

import lrp_fx
from tests.architectures import ARCHITECTURES
from tests.test_models import TARGETS


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    print(f"{'architecture':<14}{'first call s':>13}{'next call s':>13}{'nodes':>8}{'relevance':>11}{'ledger error':>14}  method")
    for architecture in ARCHITECTURES:
        if names and architecture.name not in names:
            continue
        model, inputs = architecture.build("sdpa" if architecture.fused else "eager"), architecture.inputs()
        target = TARGETS.get(architecture.name)
        explain = lrp_fx.convert(model)
        start = time.perf_counter()
        relevance = explain(**inputs, target=target)
        first = time.perf_counter() - start
        start = time.perf_counter()
        explain(**inputs, target=target)
        again = time.perf_counter() - start
        nodes, joint = len(explain.graph.graph.nodes), len(explain.relevance_graph.graph.nodes)
        error = float(relevance.ledger.error.max())
        print(f"{architecture.name:<14}{first:>13.1f}{again:>13.3f}{nodes:>8}{joint:>11}{error:>14.1e}  {explain.rewritten.program.method}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
