"""Choices of the path rule that its books do not fix: ``python -m benchmarks path_choices [FOLDER]``.

FOLDER holds models with known causal tokens (as ``examples/models`` does). Where the path starts (uniform weights,
weights of scores that are a share of what they are, weights for the mean query), along which path (`rules/path.py`, or
straight in the scores), and how much of the product goes to the weights: each closes the books, and each is compared
with the rule as it stands.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lrp_fx
from benchmarks.compare import Noise
from benchmarks.faithful.rankings import instead
from benchmarks.page import ROOT, Page, table
from lrp_fx.kernels.logarithmic_mean import logarithmic_mean
from lrp_fx.rule import Call, Rule, carry, registered, share
from lrp_fx.rules.attention import OPS, scores_and_weights, shares
from testing.scoring import hit_and_mass, load_model, load_sequences, without_last

MODELS = ("synth_rope", "synth_learned", "task_first", "task_neighbour", "task_count", "task_majority")


@dataclass(frozen=True)
class Choice:
    """``of_scores``: the path starts at this share of the scores. ``query``: it starts where all queries are the mean
    one. ``straight``: along a straight line in the scores, by quadrature with so many nodes. ``weights``: the share of
    the product that the weights get.
    """

    label: str
    of_scores: float = 0.0
    query: bool = False
    straight: int = 0
    weights: float = 0.5


CHOICES = (
    Choice("as it stands"),
    Choice("straight in the scores", straight=24),
    Choice("straight, its middle alone (temperature 2)", straight=1),
    Choice("from a quarter of the scores", of_scores=0.25),
    Choice("from half of the scores", of_scores=0.5),
    Choice("from three quarters of the scores", of_scores=0.75),
    Choice("from the mean query", query=True),
    Choice("a tenth to the weights", weights=0.1),
    Choice("a quarter to the weights", weights=0.25),
    Choice("three quarters to the weights", weights=0.75),
)


class _Frozen(torch.autograd.Function):
    """A value with a symmetric matrix as its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, matrix: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.matrix = matrix
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.matrix(grads[0]), None, None


def matrix(choice: Choice, start: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Weights at the start, weights, and the matrix that takes what scores gain (``moved``) to the difference."""
    log_p0, log_p = (torch.log_softmax(s, -1) for s in (start, start + moved))
    p0, p = log_p0.exp(), log_p.exp()
    if choice.straight:
        places, parts = np.polynomial.legendre.leggauss(choice.straight)
        power = 3 if choice.straight > 1 else 1  # nodes crowd at the start, where saturated weights change
        u = [((x + 1) / 2, w / 2) for x, w in zip(places, parts, strict=True)]
        nodes = [(torch.softmax(start + t**power * moved, -1), w * power * t ** (power - 1)) for t, w in u]
        return p0, p, lambda g: sum((w * n * (g - (n * g).sum(-1, keepdim=True)) for n, w in nodes), torch.zeros(()))
    w = logarithmic_mean(p, p0, torch.where(p0 == 0, 0.0, log_p - log_p0))
    total = w.sum(-1, keepdim=True)
    return p0, p, lambda g: w * (g - (w * g).sum(-1, keepdim=True) / total)


def rule(choice: Choice) -> Rule:
    """Written out: queries by keys, for queries, keys and values that carry, and masks that do not."""

    def surrogate(call: Call) -> Any:
        w_q, w_k, _, w_p = shares(call)
        q, k, v = call.args[:3]
        scores, _, _ = scores_and_weights(call)
        hidden = scores.isinf()
        scale = call.kwargs.get("scale") or 1 / math.sqrt(q.shape[-1])

        def times_keys(queries: Tensor, keys: Tensor) -> Tensor:
            return ((queries - queries.mean(-2, keepdim=True) if choice.query else queries) * scale) @ keys.mT

        moved = times_keys(q.detach(), k.detach()).masked_fill(hidden, 0.0) * (1 - choice.of_scores)
        start = scores - moved if choice.query or choice.of_scores else torch.zeros_like(scores)
        p0, p, apply = matrix(choice, start.masked_fill(hidden, float("-inf")), moved)
        gained = times_keys(share(q, w_q / w_p), share(k, w_k / w_p)).masked_fill(hidden, 0.0) * (1 - choice.of_scores)
        looked: Tensor = _Frozen.apply(gained, p - p0, apply)  # type: ignore[no-untyped-call]
        out = p0 @ v + share(looked, choice.weights) @ share(v, 1 - choice.weights)
        return carry(call.value if isinstance(call.value, Tensor) else out, out)

    name = f"attention.{choice.label.replace(' ', '_').replace(',', '')}"
    return Rule(name, "attention", choice.label, ("achtibat2024",), OPS, surrogate, remainder="softmax")


def rows(folder: Path, count: int) -> list[list[str]]:
    """Of each choice: position's share, the sink, hit and mass with and without the last token."""
    model, sequences = load_model(folder, "sdpa"), load_sequences(folder, count)
    found = []
    for choice in CHOICES:
        own = rule(choice)
        with registered(own):
            ruleset = instead(choice.label, "pa-lrp", attention=own.name)
            relevance = lrp_fx.convert(model, rules=ruleset)(
                input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
            )
        named = {name: float(share.median()) for name, share in relevance.ledger.shares().items()}
        tokens = relevance.per_token("signed")
        assert isinstance(tokens, Tensor)
        figures = [*hit_and_mass(tokens, sequences), *hit_and_mass(tokens, without_last(sequences))]
        books = (named.get("position", 0.0), named.get("softmax", 0.0))
        found.append([choice.label, *(f"{x:.3f}" for x in (*books, *figures))])
    return found


HEADINGS = ("choice", "position", "sink softmax", "hit", "mass", "hit without the last", "mass without the last")
ABOUT = """\
Position's share of the score and what is left to the sink (medians); hit and mass of signed token relevance as in
`docs/measured/known_answers.md`, with the last token, which reads the answer, and without it. In task_count and
task_majority position is no cause; in the others it decides. All rules are written out here, with `pa-lrp` for the
rest.

What an elementwise function adds from zero to where it is, along any path, is `f(x) - f(0)`: the rule for SiLU and GELU
is its path rule already, and nothing is left over there. Statistics of norms are coefficients and leave nothing over
either."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "examples" / "models", help="of models")
    parser.add_argument("--count", type=int, default=100, help="sequences of each model")


def body(options: argparse.Namespace) -> Iterator[str]:
    sections = []
    for name in MODELS:
        sections.append(f"## {name}\n\n{table(HEADINGS, rows(options.folder / name, options.count))}")
        print(sections[-1], flush=True)
        yield "\n\n".join(sections)


BENCHMARK = Page(
    "path_choices",
    "Choices of the path rule: where it starts, along which path, and what the weights get of the product",
    "path_choices.md",
    "Choices of the path rule, measured",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("folder", "count"),
    noise={"*": Noise(absolute=0.003)},
)
