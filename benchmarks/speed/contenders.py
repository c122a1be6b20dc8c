"""What is timed: each contender is a function without arguments that explains once."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.speed.models import Timed

Run = Callable[[], object]
BASE = "gradient x input"
STEPS = 20


class Unavailable(Exception):
    """Why a contender cannot run here."""


def score(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The predicted class, or next token after the last one, of each example."""
    logits = model(**inputs, **({"use_cache": False} if "input_ids" in inputs or "inputs_embeds" in inputs else {})).logits
    return (logits if logits.dim() == 2 else logits[:, -1]).amax(-1)


def forward(timed: Timed, model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    def run() -> object:
        with torch.no_grad():
            return score(model, inputs)

    return run


def gradient(timed: Timed, model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    def run() -> object:
        name, embedded = timed.embed(model, inputs)
        embedded.requires_grad_()
        rest = {n: v for n, v in inputs.items() if n not in ("input_ids", name)}
        (found,) = torch.autograd.grad(score(model, {name: embedded, **rest}).sum(), embedded)
        return (found * embedded).sum(-1)

    return run


def explainer(**options: Any) -> Callable[[Timed, nn.Module, dict[str, Tensor]], Run]:
    def prepare(timed: Timed, model: nn.Module, inputs: dict[str, Tensor]) -> Run:
        explain = lrp_fx.convert(model, **options)
        explain(**inputs)
        return lambda: explain(**inputs)

    return prepare


def lxt(timed: Timed, model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    """AttnLRP as lxt does it: the model's module is patched, then gradient x input is its relevance."""
    if importlib.util.find_spec("lxt") is None:
        raise Unavailable("lxt is not installed")
    try:
        from lxt.efficient import monkey_patch

        monkey_patch(importlib.import_module(type(model).__module__))
    except Exception as error:
        raise Unavailable(f"lxt does not support it: {type(error).__name__}: {error}") from error
    return gradient(timed, model, inputs)


def integrated(timed: Timed, model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    """captum's LayerIntegratedGradients on the embedding."""
    if importlib.util.find_spec("captum") is None:
        raise Unavailable("captum is not installed")
    from captum.attr import IntegratedGradients, LayerIntegratedGradients

    if not timed.words:
        method = IntegratedGradients(lambda x: score(model, {"pixel_values": x}))
        return lambda: method.attribute(inputs["pixel_values"], n_steps=STEPS, internal_batch_size=len(inputs["pixel_values"]))
    rest = {n: v for n, v in inputs.items() if n != "input_ids"}
    names = list(rest)
    layer = LayerIntegratedGradients(lambda ids, *others: score(model, {"input_ids": ids, **dict(zip(names, others, strict=True))}), model.get_input_embeddings())  # type: ignore[operator]
    ids = inputs["input_ids"]
    return lambda: layer.attribute(ids, torch.zeros_like(ids), additional_forward_args=tuple(rest.values()), n_steps=STEPS, internal_batch_size=len(ids))


CONTENDERS: dict[str, Callable[[Timed, nn.Module, dict[str, Tensor]], Run]] = {
    BASE: gradient,
    "forward": forward,
    "lrp_fx": explainer(),
    "lrp_fx, relevance only": explainer(keep_output=False),
    "lrp_fx, every site": explainer(conserve="site"),
    "lrp_fx, compiled": explainer(compile=True),
    "lrp_fx, compiled, relevance only": explainer(compile=True, keep_output=False),
    "lrp_fx, attnlrp": explainer(rules="attnlrp"),
    "lxt": lxt,
    "integrated gradients, 20 steps": integrated,
}
