"""Matrix products that cannot be saved: ``python -m benchmarks work [--models NAME ...] [--lengths N ...]``.

Floating-point operations in matrix products, convolutions and attention kernels of one run, as torch counts them,
relative to gradient x input. No schedule and no compiler changes them: where they take nearly all the time (on a CPU,
in models that are wide), the ratio in time cannot fall below this one by much. The counts are exact; nothing is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.page import Page, table
from benchmarks.speed.contenders import BASE, CONTENDERS
from benchmarks.speed.models import MODELS

LENGTHS = (128, 512)
NAMES = ("forward", "lrp_fx", "lrp_fx, relevance only", "lrp_fx, checkpoint")
aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


#: Kernel -> its count: those that torch knows, and the fused ones of CPUs.
COUNTS: dict[Any, Any] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Counter(TorchDispatchMode):
    """Counts below differentiation: backward kernels too (torch's own counter refuses `torch.autograd.grad`)."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = COUNTS.get(func.overloadpacket)
        self.total += int(count(*args, **(kwargs or {}), out_val=out)) if count is not None else 0
        return out


def operations(model: str, name: str, length: int) -> int:
    """Floating-point operations of one run of a contender (after one that captures)."""
    timed = MODELS[model]
    run, inputs = CONTENDERS[name](timed, timed.build()), timed.inputs(length, 1)
    run(inputs)
    with Counter() as counter:
        run(inputs)
    return counter.total


ABOUT = """\
Floating-point operations in matrix products and attention kernels of one run, relative to gradient x input of the
untouched model. Counted, not timed.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))


def body(options: argparse.Namespace) -> Iterator[str]:
    headings = ("model, tokens", f"{BASE}, 10^9", *NAMES)
    rows: list[list[str]] = []
    for model in options.models:
        for length in options.lengths if MODELS[model].words else MODELS[model].lengths:
            base = operations(model, BASE, length)
            ratios = [operations(model, name, length) / base for name in NAMES]
            rows.append([f"{model}, {length}", f"{base / 1e9:.1f}", *(f"{r:.2f}" for r in ratios)])
            print("|", " | ".join(rows[-1]), "|", flush=True)
            yield table(headings, rows)


BENCHMARK = Page(
    "work",
    "Operations in matrix products, counted: what no schedule can save",
    "work.md",
    "Matrix products",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("models", "lengths"),
)
