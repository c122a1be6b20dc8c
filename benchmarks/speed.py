"""Explaining against plain gradient x input, alternating in one process: ``python -m benchmarks.speed [--attention eager]``.

The model is a random 4-layer, 256-wide decoder with rotary positions, 256 tokens, batch 1, float32, parameters frozen.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import transformers

import lrp_fx


def build(attention: str) -> torch.nn.Module:
    config = transformers.LlamaConfig(vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, intermediate_size=688)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()
    return model.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = build(options.attention)
    ids = torch.randint(5, 900, (1, 256), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def gradient_times_input() -> None:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        score = model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"], use_cache=False).logits[:, -1].amax(-1)
        (gradient,) = torch.autograd.grad(score.sum(), embedded)
        (gradient * embedded).sum(-1)

    runs: dict[str, Callable[[], object]] = {"gradient x input": gradient_times_input}
    for rules, conserve in (("attnlrp", "total"), ("pa-lrp", "total"), ("pa-lrp", "site")):
        explain = lrp_fx.convert(model, rules=rules, conserve=conserve)
        runs[f"{rules}, conserve={conserve}"] = lambda explain=explain: explain(**inputs)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["gradient x input"]
    for name, times in seconds.items():
        ratios = sorted(t / b for t, b in zip(times, base, strict=True))
        spread = f"quartiles {ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}"
        print(f"{name:<28}{statistics.median(times) * 1e3:8.1f} ms   ratio {statistics.median(ratios):.2f}   ({spread})")


if __name__ == "__main__":
    main()
