"""Is an explanation as fast as it was? This tree against a commit of its history, and both against gradient x input.

    python -m benchmarks as_fast --against COMMIT [--models NAME ...] [--times 3]

Each tree explains in a process of its own, in turns; inside one, explanation and gradient x input take turns, and the
ratio of their CPU seconds is the median. Memory is what a process grows by at most while it explains alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.history import measured_in, unpacked
from benchmarks.page import ROOT, Command

TOKENS = 128
MODELS = ("llama-256x4", "bert-base")


def build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model with frozen random weights, and a text for it."""
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    llama = name == MODELS[0]
    model = t.LlamaForCausalLM(t.LlamaConfig(**sizes)) if llama else t.BertForSequenceClassification(t.BertConfig())
    ids = torch.randint(5, 900, (1, TOKENS))
    return model.eval().requires_grad_(False), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def gradient_x_input(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    x = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    logits = model(inputs_embeds=x, attention_mask=inputs["attention_mask"]).logits
    logits.reshape(-1, logits.shape[-1])[-1].max().backward()
    return x * x.grad


def measure(name: str, what: str) -> float:
    """The ratio of times, or the MiB that the resident set grows by at most."""
    import lrp_fx

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, inputs = build(name)
    explain = lrp_fx.convert(model)
    if what == "memory":
        explain.trace(**inputs)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        explain(**inputs)
        return _status("VmHWM") - before
    explain(**inputs)
    gradient_x_input(model, inputs)
    ratios = []
    for _ in range(25 if name == MODELS[0] else 9):
        start = time.process_time()
        explain(**inputs)
        between = time.process_time()
        gradient_x_input(model, inputs)
        ratios.append((between - start) / (time.process_time() - between))
    return statistics.median(ratios)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main(arguments: list[str]) -> int:
    """Prints a line for each model and measure: medians before and now, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks as_fast", description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="90f4218", help="a commit of this repository")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--times", type=int, default=3, help="processes for each tree")
    options = parser.parse_args(arguments)
    with unpacked(options.against) as before:
        for name in options.models:
            for what, unit in (("time", "of gradient x input"), ("memory", "MiB")):
                turns = [
                    [measured_in(tree, __name__, name, what) for tree in (before, ROOT)] for _ in range(options.times)
                ]
                then, now = (statistics.median(turn[k] for turn in turns) for k in (0, 1))
                print(f"{name:<14}{what:<8}{then:>9.3f} -> {now:>9.3f} {unit}, ratio {now / then:.3f}", flush=True)
    return 0


BENCHMARK = Command("as_fast", "Is an explanation as fast, and as small, as it was? Against a commit", main)
