"""What unrolled recurrences cost: ``python -m benchmarks.recurrence [--write PAGE] [--lengths 4 8 16 ...]``.

Converts tiny models with recurrences at several lengths, each in its own capture, and counts nodes and seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

import lrp_fx

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: Class, configuration, settings: a loop over tokens, a loop with a normaliser, and a form by chunks.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Mamba (2 layers, a loop over tokens)": (
        "MambaForCausalLM", "MambaConfig", dict(vocab_size=96, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=3, **SPECIAL)),
    "RWKV (2 layers, a loop over tokens with a normaliser)": (
        "RwkvForCausalLM", "RwkvConfig", dict(vocab_size=96, hidden_size=16, attention_hidden_size=16, intermediate_size=24, num_hidden_layers=2, **SPECIAL)),
    "Mamba-2 (2 layers, chunks of 16 tokens)": (
        "Mamba2ForCausalLM", "Mamba2Config", dict(vocab_size=96, hidden_size=16, state_size=4, num_heads=4, head_dim=8, n_groups=2, chunk_size=16, num_hidden_layers=2, **SPECIAL)),
}  # fmt: skip
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


def table(name: str, lengths: list[int]) -> list[str]:
    class_name, config, settings = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(getattr(transformers, config)(**settings)).eval()
    lines = ["", f"## {name}", "", "| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lengths = [n for n in lengths if n <= LONGEST or name == next(iter(MODELS))]
    for length in lengths:
        try:
            cells, explainer = measure(model, length)
        except lrp_fx.LrpError as error:
            lines.append(
                f"| {length} | {type(error).__name__}: {str(error).splitlines()[0][:80]} |" + " |" * (len(HEADINGS) - 2)
            )
            break
        lines.append("| " + " | ".join(cells) + " |")
        print(name, *cells, flush=True)
    explainer(input_ids=torch.randint(3, 96, (2, lengths[-1] - 1)))
    lines += [
        "",
        f"One token less with the last of these explainers: {explainer.statistics.captures - 1} further capture(s).",
    ]
    return lines


def page(lengths: list[int]) -> str:
    head = [
        "# What recurrences cost",
        "",
        f"Written by `python -m benchmarks.recurrence --write docs/recurrence.md` (torch {torch.__version__}, "
        f"transformers {transformers.__version__}); do not edit by hand.",
        "",
        "A loop over tokens in a model's Python is captured unrolled: each token's step is in the graph, so nodes "
        "grow with the length,",
        "and a capture holds for its length alone. A recurrence that is written by chunks has a graph that grows with "
        "the number of chunks.",
        "Tiny random models, batch of 2, float32, one thread, preset `attnlrp`; *convert*: export, checks, rewriting, "
        "transposing.",
    ]
    return "\n".join([*head, *(line for name in MODELS for line in table(name, lengths)), ""])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of cancellation in random models
    text = page(options.lengths)
    if options.write is not None:
        options.write.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
