"""What a preset costs beside the default: ``python -m benchmarks preset_cost [--rules NAME] [--write]``.

In one process a preset and ``pa-lrp`` explain the same text in turns, and the ratio is the median of those of their CPU
seconds. Memory is what a fresh process grows by at most while one of them explains. One thread, float32.
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
from benchmarks.turns import by_turns, growth

BASE, RULES = "pa-lrp", "pa-lrp-path"
#: (layers, width, tokens, rounds)
SIZES = ((12, 768, 512, 7), (4, 256, 512, 11), (4, 256, 2048, 5), (2, 256, 8192, 3))
HEADINGS = ("decoder", "tokens", "CPU seconds", "ratio", "memory, MiB", "ratio of memory")


def build(layers: int, width: int) -> Any:
    import transformers

    torch.manual_seed(0)
    sizes = dict(hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers)
    config = transformers.LlamaConfig(
        **sizes, vocab_size=4096, num_attention_heads=width // 64, max_position_embeddings=8192
    )
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def measure(what: str, layers: str, width: str, tokens: str, rounds: str, rules: str) -> list[float]:
    """[CPU seconds of pa-lrp, ratio] or [MiB of a preset]."""
    import lrp_fx

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = build(int(layers), int(width))
    ids = torch.randint(5, 4000, (1, int(tokens)), generator=torch.Generator().manual_seed(0))
    if what == "memory":
        explain = lrp_fx.convert(model, rules=rules)
        explain.trace(input_ids=ids)
        return [growth(lambda: explain(input_ids=ids))[1]]
    plain, other = (lrp_fx.convert(model, rules=name) for name in (BASE, rules))
    return by_turns(lambda: plain(input_ids=ids), lambda: other(input_ids=ids), int(rounds))


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[list[str]] = []
    for layers, width, tokens, rounds in SIZES:
        size = (str(layers), str(width), str(tokens), str(rounds))
        seconds, ratio = measured_in(ROOT, __name__, "time", *size, options.rules)
        (ours,), (base,) = (measured_in(ROOT, __name__, "memory", *size, rules) for rules in (options.rules, BASE))
        rows.append(
            [f"{layers} x {width}", str(tokens), f"{seconds:.2f}", f"{ratio:.2f}", f"{ours:.0f}", f"{ours / base:.2f}"]
        )
        print(*rows[-1], flush=True)
        yield f"## {options.rules}\n\n{table(HEADINGS, rows)}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", default=RULES, help="the preset that is compared")


ABOUT = """\
A decoder (random weights) explains one text; CPU seconds are those of `pa-lrp`, ratios are to it. In one process both
take turns; memory is what a fresh process grows by at most while it explains.
"""
BENCHMARK = Page(
    "preset_cost",
    "What the path rule costs beside the default: time and memory",
    "preset_cost.md",
    "What a preset costs",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("rules",),
    noise={
        HEADINGS[2]: Noise(relative=1.0),
        HEADINGS[3]: Noise(absolute=0.15),
        HEADINGS[4]: Noise(relative=0.3),
        HEADINGS[5]: Noise(absolute=0.1),
    },
)
