"""What conversion costs, stage by stage: ``python -m benchmarks conversion [--depths 2 4 8 ...] [--wide 1024]``.

A Llama-like decoder of each depth (and, last, one of 24 layers that is as wide as asked) is converted from scratch.
Nothing in it may grow faster than the number of nodes: milliseconds a node are in the last column.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers

import lrp_fx
from benchmarks.compare import ANY, OTHERS, TEXT, Noise
from benchmarks.page import Page, table
from lrp_fx.runtime import compiler as stages

STAGES = ("capture", "canonicalize", "drop_full_masks", "find_provenance", "rewrite", "find_anatomy", "transpose")
DEPTHS = (2, 4, 8, 16, 24, 32, 48)


@contextmanager
def clocks() -> Iterator[Counter[str]]:
    """Seconds spent in each stage while this is open."""
    seconds: Counter[str] = Counter()
    kept = {name: getattr(stages, name) for name in STAGES}

    def timed(name: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return kept[name](*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - start

        return run

    for name in STAGES:
        setattr(stages, name, timed(name))
    try:
        yield seconds
    finally:
        for name, function in kept.items():
            setattr(stages, name, function)


def build(layers: int, width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    heads = max(width // 64, 2)
    sizes = dict(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=int(width * 8 / 3) // 16 * 16,
    )
    return transformers.LlamaForCausalLM._from_config(
        transformers.LlamaConfig(vocab_size=1000, **sizes), attn_implementation="sdpa"
    ).eval()  # type: ignore[no-any-return]


def row(layers: int, width: int) -> list[str]:
    model = build(layers, width)
    ids = torch.randint(5, 900, (2, 16), generator=torch.Generator().manual_seed(0))
    explain = lrp_fx.convert(model)
    with clocks() as seconds, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        explain.trace(input_ids=ids, attention_mask=torch.ones_like(ids))
        total = time.perf_counter() - start
    nodes, relevance = len(explain.graph.graph.nodes), len(explain.relevance_graph.graph.nodes)
    return [
        str(layers),
        str(width),
        str(nodes),
        str(relevance),
        *(f"{seconds[s]:.1f}" for s in STAGES),
        f"{total:.1f}",
        f"{1000 * total / nodes:.1f}",
    ]


HEADINGS = (
    "layers",
    "width",
    "nodes",
    "nodes of the relevance graph",
    *(s.removeprefix("find_").replace("_", " ") for s in STAGES),
    "seconds",
    "ms a node",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depths", nargs="*", type=int, default=list(DEPTHS))
    parser.add_argument("--wide", type=int, default=1024, help="width of the last model, of 24 layers; 0 for none")


def about(options: argparse.Namespace) -> str:
    return f"Seconds in each stage, with torch {torch.__version__} on {torch.get_num_threads()} thread(s)."


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[list[str]] = []
    print(table(HEADINGS, rows))
    row(1, 64)  # what the first conversion of a process pays for imports is nobody's stage
    for layers, width in [*((n, 64) for n in options.depths), *([(24, options.wide)] if options.wide else [])]:
        rows.append(row(layers, width))
        print("|", " | ".join(rows[-1]), "|", flush=True)
        yield table(HEADINGS, rows)


EXACTLY = dict.fromkeys(HEADINGS[:4], Noise())
BENCHMARK = Page(
    "conversion",
    "What conversion costs, stage by stage, against depth and width",
    "conversion.md",
    "Conversion",
    about,
    body,
    add_options,
    selects=("depths", "wide"),
    noise={**EXACTLY, TEXT: ANY, OTHERS: Noise(relative=0.5, absolute=1.0)},
)
