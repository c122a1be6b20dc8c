"""Pruning: how many weights, rows and heads a model can lose: ``python -m benchmarks pruning [MODEL ...]``.

Parts are ranked on some examples, by relevance and by what others rank them by, and set to zero from the least on; then
the model answers other examples.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.page import ROOT, Page, table
from lrp_fx.report.parameters import ParameterRelevance
from testing.scoring import load_model
from testing.tasks import TASKS, sequences

MODELS = ("vit_mnist", "synth_rope", "synth_learned", "task_count", "task_neighbour")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Examples that parts are ranked on, and others that answers are counted on, where more can be drawn than are shipped.
RANKED, ANSWERED = 200, 500
BATCH, DRAWS = 50, 5
Amounts = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """Arguments of a model for some examples, and their right answers (N,)."""

    inputs: dict[str, Tensor]
    labels: Tensor

    def part(self, begin: int, end: int) -> Data:
        return Data({n: v[begin:end] for n, v in self.inputs.items()}, self.labels[begin:end])

    def batches(self) -> list[Data]:
        return [self.part(i, i + BATCH) for i in range(0, len(self.labels), BATCH)]


def held_out(name: str) -> tuple[Data, Data]:
    """What parts are ranked on, and what answers are counted on: never the same examples, nor any that were learned."""
    if name.startswith("task_"):
        drawn = (sequences(TASKS[name.removeprefix("task_")], n, seed=s) for n, s in ((RANKED, 11), (ANSWERED, 12)))
        one, other = (Data({n: d[n] for n in ("input_ids", "attention_mask")}, d["labels"]) for d in drawn)
        return one, other
    with np.load(ROOT / "examples" / "models" / name / "eval.npz") as file:
        labels = torch.from_numpy(file["labels"]).long()
        if "images" in file:
            inputs = {"pixel_values": torch.from_numpy(file["images"]).float().unsqueeze(1) / 127.5 - 1}
        else:
            inputs = {n: torch.from_numpy(file[n]).long() for n in ("input_ids", "attention_mask")}
    half = len(labels) // 2
    return Data(inputs, labels).part(0, half), Data(inputs, labels).part(half, len(labels))


def right(model: nn.Module, data: Data) -> float:
    """The share of right answers."""
    with torch.no_grad():
        answers = torch.cat([model(**part.inputs).logits.argmax(-1) for part in data.batches()])
    return float((answers == data.labels).float().mean())


# ------------------------------------------------------------------------------------------------ rankings
def rankings(model: nn.Module, data: Data) -> tuple[dict[str, Amounts], ParameterRelevance]:
    """label -> amounts of every weight, before they are summed by part; and the relevance, for its divisions."""
    calls = [{**part.inputs, "target": part.labels} for part in data.batches()]
    explainer = lrp_fx.convert(model, keep_output=False)
    relevance = explainer.parameters(calls)
    gradient = lrp_fx.convert(model, rules="gradient", conserve="off", keep_output=False)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    found = {
        "relevance": dict(relevance),
        "relevance, absolute": dict(explainer.parameters(calls, absolute=True, divided=False)),
        "gradient x weight": dict(gradient.parameters(calls, divided=False)),
        "gradient of the loss x weight": loss_gradient(model, data),
        "magnitude": {n: p.abs() for n, p in weights.items()},
    }
    return found, relevance


def loss_gradient(model: nn.Module, data: Data) -> Amounts:
    """Weight times the gradient of the cross-entropy, the first order of what the loss loses with a weight."""
    parameters = dict(model.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for part in data.batches():
        loss = nn.functional.cross_entropy(model(**part.inputs).logits, part.labels, reduction="sum")
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for (name, p), grad in zip(parameters.items(), grads, strict=True):
            total[name] += p.detach() * grad if grad is not None else 0.0
    return total


# ------------------------------------------------------------------------------------------------ parts
@dataclass(frozen=True)
class Parts:
    """``amounts``: amounts of weights -> one number for each part (signs kept). ``remove``: set chosen parts (a truth
    value each) to zero in a copy.
    """

    count: int
    amounts: Callable[[Amounts], Tensor]
    remove: Callable[[nn.Module, Tensor], None]


def matrices(relevance: ParameterRelevance) -> list[str]:
    """The weights of learned maps: matrices that an operation multiplies with (no tables, no norms, no biases)."""
    maps = [n for use in relevance.uses if use.rule.startswith("linear.") for n in use.parameters]
    return [n for n in dict.fromkeys(maps) if relevance[n].dim() > 1]


def _cut(values: Tensor, sizes: list[int]) -> list[Tensor]:
    """Pieces of these sizes, one behind the other."""
    ends = list(accumulate(sizes))
    return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def weights(relevance: ParameterRelevance) -> Parts:
    names = matrices(relevance)
    sizes = [relevance[n].numel() for n in names]

    def remove(model: nn.Module, chosen: Tensor) -> None:
        for name, gone in zip(names, _cut(chosen, sizes), strict=True):
            parameter = model.get_parameter(name)
            parameter.masked_fill_(gone.reshape(parameter.shape), 0.0)

    return Parts(sum(sizes), lambda amounts: torch.cat([amounts[n].flatten() for n in names]), remove)


def rows(relevance: ParameterRelevance) -> Parts:
    names = matrices(relevance)
    sizes = [len(relevance[n]) for n in names]

    def remove(model: nn.Module, chosen: Tensor) -> None:
        for name, gone in zip(names, _cut(chosen, sizes), strict=True):
            model.get_parameter(name)[gone] = 0.0

    return Parts(sum(sizes), lambda amounts: torch.cat([amounts[n].flatten(1).sum(1) for n in names]), remove)


def heads(relevance: ParameterRelevance) -> Parts:
    names = list(relevance.by("head"))

    def remove(model: nn.Module, chosen: Tensor) -> None:
        gone = {name for name, out in zip(names, chosen.tolist(), strict=True) if out}
        for part in relevance.divisions:  # whose alone a place is: what reads the head's result goes
            for number, share in enumerate(part.shares):
                if (part.site, number) in gone:
                    model.get_parameter(part.parameter).index_fill_(part.axis, (share == 1).nonzero().flatten(), 0.0)

    def amounts(given: Amounts) -> Tensor:
        return torch.tensor(list(relevance.with_values(given).by("head").values()))

    return Parts(len(names), amounts, remove)


PARTS = {"weights": weights, "rows": rows, "heads": heads}


# ------------------------------------------------------------------------------------------------ curves
def curve(model: nn.Module, parts: Parts, scores: Tensor, data: Data) -> list[float]:
    """Right answers without each share of the parts, from the least score on."""
    order, found = scores.argsort(), []
    for share in SHARES:
        chosen = torch.zeros(parts.count, dtype=torch.bool)
        chosen[order[: round(share * parts.count)]] = True
        pruned = copy.deepcopy(model)
        with torch.no_grad():
            parts.remove(pruned, chosen)
        found.append(right(pruned, data))
    return found


def curves(model: nn.Module, parts: Parts, ranked: dict[str, Amounts], data: Data) -> dict[str, list[float]]:
    """label -> right answers at each share; those that have signs are ranked by amount, and by the signed sum."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {}
    for label, amounts in ranked.items():
        found[label] = curve(model, parts, parts.amounts(amounts).abs(), data)
        if label == "relevance":
            found["relevance, signed"] = curve(model, parts, parts.amounts(amounts), data)
    drawn = [curve(model, parts, torch.rand(parts.count, generator=generator), data) for _ in range(DRAWS)]
    return {**found, "random": [sum(values) / DRAWS for values in zip(*drawn, strict=True)]}


def about(options: argparse.Namespace) -> str:
    return f"""\
Parts of shipped models are ranked on held-out examples, set to zero from the least on, and the model answers other
held-out examples, without any training in between. In the tables: right answers, in per cent, by the share of parts
that is gone; `mean` is that over all shares.

Weights are those of learned maps (no tables, norms or biases), all maps in one ranking; a row is what makes one feature
of a map; a head goes with all that is its own. Ranked by the amount of its summed relevance (`relevance`: preset
pa-lrp, explained is the right class), by the sum with its sign, by the sum over batches of {BATCH} of absolute values,
by gradient x weight of the same score and of the loss, by the sum of absolute weights, and at random ({DRAWS} draws).
In vit_mnist and synth_* one half of the shipped examples ranks and the other answers; task_* are ranked on {RANKED}
drawn sequences and answer {ANSWERED} others."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=f"of {', '.join(MODELS)}")


def body(options: argparse.Namespace) -> Iterator[str]:
    sections: list[str] = []
    means: dict[str, dict[str, list[float]]] = {part: {} for part in PARTS}
    for name in options.models:
        model: Any = load_model(ROOT / "examples" / "models" / name)
        ranked_on, answered = held_out(name)
        ranked, relevance = rankings(model, ranked_on)
        sections.append(f"## {name}: {100 * right(model, answered):.1f} % right as it is")
        for part, make in PARTS.items():
            parts = make(relevance)
            found = curves(model, parts, ranked, answered)
            for label, values in found.items():
                means[part].setdefault(label, []).append(sum(values) / len(values))
            sections += [f"{parts.count} {part}:", _table(found)]
        yield "\n\n".join([*_summary(means, options.models), *sections])


def _table(found: dict[str, list[float]]) -> str:
    best = max(sum(values) for values in found.values())
    rows_ = [
        [label, *(f"{100 * v:.1f}" for v in values), _marked(sum(values) / len(values), sum(values) >= best - 1e-9)]
        for label, values in found.items()
    ]
    return table(["ranked by", *(f"{share:.0%}" for share in SHARES), "mean"], rows_)


def _marked(value: float, best: bool) -> str:
    return f"**{100 * value:.1f}**" if best else f"{100 * value:.1f}"


def _summary(means: dict[str, dict[str, list[float]]], models: list[str]) -> list[str]:
    """The mean over all shares, by ranking and model."""
    parts = ["## Mean over all shares"]
    for part, found in means.items():
        done = models[: len(next(iter(found.values())))]
        best = [max(values[i] for values in found.values()) for i in range(len(done))]
        lines = [
            [label, *(_marked(v, v >= b - 1e-9) for v, b in zip(values, best, strict=True))]
            for label, values in found.items()
        ]
        parts += [f"{part}:", table(["ranked by", *done], lines)]
    return parts


BENCHMARK = Page(
    "pruning",
    "How many weights, rows and heads can a model lose that are ranked by relevance, gradient, size or chance?",
    "pruning.md",
    "Pruning",
    about,
    body,
    add_options,
    selects=("models",),
    noise={OTHERS: Noise(relative=0.1, absolute=2.0)},
)
