"""What unrolled recurrences cost: ``python -m benchmarks recurrence [--lengths 4 8 16 ...]``.

Converts tiny models with recurrences at several lengths, each in its own capture, and counts nodes and seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
import transformers

import lrp_fx
from benchmarks.compare import ANY, TEXT, Noise
from benchmarks.page import Page, table

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = dict(vocab_size=96, hidden_size=16, num_hidden_layers=2, **SPECIAL)
#: Class, configuration, settings: a loop over tokens, a loop with a normaliser, and a form by chunks.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Mamba (2 layers, a loop over tokens)": (
        "MambaForCausalLM",
        "MambaConfig",
        dict(SMALL, state_size=4, time_step_rank=3),
    ),
    "RWKV (2 layers, a loop over tokens with a normaliser)": (
        "RwkvForCausalLM",
        "RwkvConfig",
        dict(SMALL, attention_hidden_size=16, intermediate_size=24),
    ),
    "Mamba-2 (2 layers, chunks of 16 tokens)": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        dict(SMALL, state_size=4, num_heads=4, head_dim=8, n_groups=2, chunk_size=16),
    ),
}
#: Lengths above are left out for all but the first model: exporting them takes minutes.
LONGEST = 32
HEADINGS = (
    "tokens",
    "nodes captured",
    "scan products",
    "nodes of the relevance graph",
    "convert (s)",
    "run (ms)",
    "capture",
)


def measure(model: torch.nn.Module, length: int) -> tuple[list[str], lrp_fx.Explainer]:
    """One length: a fresh explainer, converted, then run twice; the second run is timed."""
    inputs = torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(0))
    explainer = lrp_fx.convert(model, rules="attnlrp")
    start = time.perf_counter()
    explainer.trace(input_ids=inputs)
    traced = time.perf_counter() - start
    explainer(input_ids=inputs)
    start = time.perf_counter()
    explainer(input_ids=inputs)
    run = time.perf_counter() - start
    counts = (
        len(explainer.graph.graph.nodes),
        explainer.coverage["rule"].get("scan.frozen", 0),
        len(explainer.relevance_graph.graph.nodes),
    )
    method = explainer.rewritten.program.method
    return [str(length), *map(str, counts), f"{traced:.1f}", f"{1000 * run:.0f}", method], explainer


def section(name: str, lengths: list[int]) -> Iterator[str]:
    """The part of one model, after each length."""
    class_name, config, settings = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(getattr(transformers, config)(**settings)).eval()
    rows: list[list[str]] = []
    lengths = [n for n in lengths if n <= LONGEST or name == next(iter(MODELS))]
    for length in lengths:
        try:
            cells, explainer = measure(model, length)
        except lrp_fx.LrpError as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            rows.append([str(length), said, *[""] * (len(HEADINGS) - 2)])
            break
        rows.append(cells)
        print(name, *cells, flush=True)
        yield f"## {name}\n\n{table(HEADINGS, rows)}"
    explainer(input_ids=torch.randint(3, 96, (2, lengths[-1] - 1)))
    again = explainer.statistics.captures - 1
    said = f"One token less with the last of these explainers: {again} further capture(s)."
    yield f"## {name}\n\n{table(HEADINGS, rows)}\n\n{said}"


def about(options: argparse.Namespace) -> str:
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"""\
A loop over tokens in a model's Python is captured unrolled: each token's step is in the graph, so nodes grow with the
length, and a capture holds for its length alone. A recurrence that is written by chunks has a graph that grows with the
number of chunks. Tiny random models, batch of 2, float32, one thread, preset `attnlrp`; *convert*: export, checks,
rewriting, transposing ({versions})."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 16, 32, 64])


def body(options: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(1)
    done: list[str] = []
    for name in MODELS:
        part = ""
        for part in section(name, options.lengths):
            yield "\n\n".join([*done, part])
        done.append(part)


BENCHMARK = Page(
    "recurrence",
    "What unrolled recurrences cost against the length of the text",
    "recurrence.md",
    "What recurrences cost",
    about,
    body,
    add_options,
    selects=("lengths",),
    noise={"convert (s)": Noise(relative=0.5, absolute=1.0), "run (ms)": Noise(relative=0.5, absolute=5.0), TEXT: ANY},
)
