"""Conversions that many tests read: each is made once in a process.

A test that changes the model, counts captures of calls of its own, or replaces a part of the compiler makes its own.
What is shared is for reading: `Converted.relevance` and the rest are of the first explanation, whatever others have
called the explainer with since. Conversions of one architecture share its model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.capture.compare import largest_difference
from testing.architectures import BY_NAME, Architecture
from testing.scoring import load_model

#: Conversions that are kept; the one that was not asked for the longest goes first.
KEPT = 48
TRAINED = Path(__file__).resolve().parents[1] / "examples" / "models"
#: Where the default does not fit: each example's own image against its own text.
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"clip": lambda scores: scores.diagonal()}


@dataclass(frozen=True)
class Converted:
    """A model with random weights, its explainer, and the first explanation: what it gave, its relevance graph, how
    nodes were served, what was counted until then.
    """

    model: nn.Module
    inputs: dict[str, Tensor]
    explainer: lrp_fx.Explainer
    relevance: lrp_fx.Relevance
    graph: fx.GraphModule
    rewritten: Any
    statistics: Any

    @property
    def unexplained(self) -> dict[str, int]:
        found: dict[str, int] = self.rewritten.coverage()["unexplained"]
        return found

    def difference(self) -> float:
        """Between its output and the model's, in units in the last place of the largest output."""
        with torch.no_grad():
            expected = self.model(**self.inputs)
        pairs = zip(floats(self.relevance.output), floats(expected), strict=False)
        return max(largest_difference(got, want) for got, want in pairs)


def converted(name: str, attention: str = "", dtype: torch.dtype = torch.float32, **options: Any) -> Converted:
    """An architecture of `testing.architectures`, by default with its fused attention where it has one; ``options``
    are those of `lrp_fx.convert`.
    """
    return _converted(name, attention or best_attention(BY_NAME[name]), dtype, tuple(sorted(options.items())))


def best_attention(architecture: Architecture) -> str:
    return "sdpa" if architecture.fused else "eager"


def explain(
    architecture: Architecture,
    attention: str,
    dtype: torch.dtype,
    options: dict[str, Any],
    model: nn.Module | None = None,
) -> Converted:
    """A conversion of its own, by default of a model of its own, and its first explanation."""
    model, inputs = model or architecture.build(attention, dtype), inputs_of(architecture, dtype)
    explainer = lrp_fx.convert(model, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights cancel
        relevance = explainer(**inputs, target=TARGETS.get(architecture.name))
    counted = copy.copy(explainer.statistics)
    return Converted(model, inputs, explainer, relevance, explainer.relevance_graph, explainer.rewritten, counted)


def floats(tree: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, Tensor) and t.is_floating_point()]


def parts(relevance: lrp_fx.Relevance) -> dict[str, Tensor]:
    """All that an explanation says, by name: content, position, sinks, the streams at each depth."""
    found = {f"content {n}": R for n, R in relevance.content.items()}
    found |= {f"position {i}": s.relevance for i, s in enumerate(relevance.position)}
    found |= {f"sink {n}": s for n, s in relevance.ledger.sinks.items()}
    return found | {f"stream {i}": s.depth for i, s in enumerate(relevance.streams)}


def inputs_of(architecture: Architecture, dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in architecture.inputs().items()}


@lru_cache(maxsize=KEPT)
def _converted(name: str, attention: str, dtype: torch.dtype, options: tuple[tuple[str, Any], ...]) -> Converted:
    return explain(BY_NAME[name], attention, dtype, dict(options), _built(name, attention, dtype))


@lru_cache(maxsize=KEPT)
def _built(name: str, attention: str, dtype: torch.dtype) -> nn.Module:
    """A model of several conversions: what is captured of it is captured once."""
    return BY_NAME[name].build(attention, dtype)


@lru_cache(maxsize=KEPT)
def trained(
    name: str,
    rules: str = "pa-lrp",
    attention: str = "eager",
    dtype: torch.dtype = torch.float32,
    conserve: str = "total",
) -> lrp_fx.Explainer:
    """The explainer of a trained model of ``examples/models``; its model is ``.model``."""
    return lrp_fx.convert(trained_model(name, attention, dtype), rules=rules, conserve=conserve)


@lru_cache(maxsize=KEPT)
def trained_model(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> nn.Module:
    """A trained model of ``examples/models``, to be read: explainers of it share what is captured."""
    return load_model(TRAINED / name, attention).to(dtype)
