"""What is timed: each contender is made once for a model, and is then a function of the inputs that explains them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.speed.models import Timed
from benchmarks.speed.peers import LxtUnavailable, lxt_patches

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], object]
BASE = "gradient x input"
STEPS = 20


class Unavailable(Exception):
    """Why a contender cannot run here."""


def score(model: nn.Module, inputs: Inputs) -> Tensor:
    """The predicted class, or next token after the last one, of each example."""
    logits = model(
        **inputs, **({"use_cache": False} if "input_ids" in inputs or "inputs_embeds" in inputs else {})
    ).logits
    return (logits if logits.dim() == 2 else logits[:, -1]).amax(-1)


def forward(timed: Timed, model: nn.Module) -> Run:
    def run(inputs: Inputs) -> object:
        with torch.no_grad():
            return score(model, inputs)

    return run


def gradient(timed: Timed, model: nn.Module) -> Run:
    def run(inputs: Inputs) -> object:
        name, embedded = timed.embed(model, inputs)
        embedded.requires_grad_()
        rest = {n: v for n, v in inputs.items() if n not in ("input_ids", name)}
        (found,) = torch.autograd.grad(score(model, {name: embedded, **rest}).sum(), embedded)
        return (found * embedded).sum(-1)

    return run


def explainer(**options: Any) -> Callable[[Timed, nn.Module], Run]:
    def prepare(timed: Timed, model: nn.Module) -> Run:
        explain = lrp_fx.convert(model, **options)
        return lambda inputs: explain(**inputs)

    return prepare


def lxt(timed: Timed, model: nn.Module) -> Run:
    """AttnLRP as lxt does it: the model's module is patched, then gradient x input is its relevance."""
    run = gradient(timed, model)
    try:
        with lxt_patches(model):
            run(timed.inputs(16, 1))
    except Exception as error:
        raise Unavailable(
            str(error) if isinstance(error, LxtUnavailable) else f"lxt fails: {type(error).__name__}: {str(error)[:80]}"
        ) from error

    def patched(inputs: Inputs) -> object:
        with lxt_patches(model):
            return run(inputs)

    return patched


def integrated(timed: Timed, model: nn.Module) -> Run:
    """captum's LayerIntegratedGradients on the embedding."""
    if importlib.util.find_spec("captum") is None:
        raise Unavailable("captum is not installed")
    from captum.attr import IntegratedGradients, LayerIntegratedGradients

    if not timed.words:
        method = IntegratedGradients(lambda x: score(model, {"pixel_values": x}))
        return lambda inputs: method.attribute(
            inputs["pixel_values"], n_steps=STEPS, internal_batch_size=len(inputs["pixel_values"])
        )

    words = (model.get_encoder() if timed.decoder else model).get_input_embeddings()  # type: ignore[operator]

    def run(inputs: Inputs) -> object:
        rest = {n: v for n, v in inputs.items() if n != "input_ids"}
        names, ids = list(rest), inputs["input_ids"]
        layer = LayerIntegratedGradients(
            lambda ids, *others: score(model, {"input_ids": ids, **dict(zip(names, others, strict=True))}), words
        )
        return layer.attribute(
            ids,
            torch.zeros_like(ids),
            additional_forward_args=tuple(rest.values()),
            n_steps=STEPS,
            internal_batch_size=len(ids),
        )

    return run


#: In the order of the tables.
CONTENDERS: dict[str, Callable[[Timed, nn.Module], Run]] = {
    BASE: gradient,
    "forward": forward,
    "lrp_fx": explainer(),
    "lrp_fx, relevance only": explainer(keep_output=False),
    "lrp_fx, checkpoint": explainer(checkpoint=True),
    "lrp_fx, every site": explainer(conserve="site"),
    "lrp_fx, compiled": explainer(compile=True),
    "lrp_fx, compiled, relevance only": explainer(compile=True, keep_output=False),
    "lxt": lxt,
    "lrp_fx, rules of lxt": explainer(rules="attnlrp"),
    "integrated gradients, 20 steps": integrated,
}
#: How many gradients' time a contender takes, about, where that is known before it runs.
GRADIENTS = {
    "integrated gradients, 20 steps": STEPS,
    "forward": 0.5,
    "lrp_fx, every site": 1.5,
    "lrp_fx, checkpoint": 1.2,
}
