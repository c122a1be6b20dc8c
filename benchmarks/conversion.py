"""What conversion costs, stage by stage: ``python -m benchmarks conversion [--depths 2 4 8 ...] [--wide 1024]``.

A Llama-like decoder of each depth (and, last, one of 24 layers that is as wide as asked) is converted from scratch.
Nothing in it may grow faster than the number of nodes: milliseconds a node are in the last column.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator

import torch
import transformers

import lrp_fx
from benchmarks.compare import ANY, OTHERS, TEXT, Noise
from benchmarks.page import Page, table
from lrp_fx.runtime.pipeline import ANALYSED, BUILT, CAPTURED

#: Column -> the passes whose seconds it adds up.
STAGES: dict[str, tuple[str, ...]] = {
    "capture": ("capture",),
    "canonicalize": tuple(p.name for p in CAPTURED if p.name != "capture"),
    **{name.split("_")[-1]: (name,) for name in (p.name for p in ANALYSED)},
    "transpose": tuple(p.name for p in BUILT),
}
DEPTHS = (2, 4, 8, 16, 24, 32, 48)


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
    start = time.perf_counter()
    explain.trace(input_ids=ids, attention_mask=torch.ones_like(ids))
    total = time.perf_counter() - start
    seconds: Counter[str] = Counter()
    for step in explain.history:
        seconds[step.name] += step.seconds
    nodes, relevance = len(explain.graph.graph.nodes), len(explain.relevance_graph.graph.nodes)
    return [
        str(layers),
        str(width),
        str(nodes),
        str(relevance),
        *(f"{sum(seconds[p] for p in passes):.1f}" for passes in STAGES.values()),
        f"{total:.1f}",
        f"{1000 * total / nodes:.1f}",
    ]


HEADINGS = (
    "layers",
    "width",
    "nodes",
    "nodes of the relevance graph",
    *STAGES,
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
