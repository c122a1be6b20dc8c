"""Checks before any work: a model or an input that cannot be explained is refused, never turned into a wrong number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.compare import inference_configuration, own_tensors
from lrp_fx.errors import InputError
from lrp_fx.ir.program import CONTENT_ROLE


def check_mode(model: nn.Module) -> None:
    """A model in training mode is refused: dropout would make every run another."""
    training = [n or type(model).__name__ for n, m in model.named_modules() if m.training]
    if training:
        raise InputError(
            f"the model is in training mode ({training[0]} and {len(training) - 1} more modules); call model.eval() "
            "first"
        )


def check_weights(model: nn.Module) -> None:
    """Weights that are not finite are refused, and those that cannot be traced."""
    made_inside = [n for n, p in model.named_parameters() if p.is_inference()]
    if made_inside:
        raise InputError(
            f"the weights are inference tensors ({made_inside[0]} and {len(made_inside) - 1} more), which cannot be "
            "traced: the model was made inside torch.inference_mode()\n    next: explain copy.deepcopy(model), made "
            "outside of it"
        )
    bad = [n for n, p in model.named_parameters() if p.is_floating_point() and p.numel() and not _is_finite(p.detach())]
    if bad:
        raise InputError(f"the weights are not finite: {', '.join(bad[:5])}")


def _is_finite(weight: Tensor) -> bool:
    """By its extremes, which NaN and infinity reach: `isfinite` would write out a copy of the largest weight."""
    return all(bool(extreme.isfinite()) for extreme in weight.aminmax())


def check_inputs(bound: dict[str, Any], roles: dict[str, str]) -> None:
    """Empty, non-finite or wholly non-tensor inputs are refused before any work."""
    tensors = {n: v for n, v in bound.items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(
            "no tensor among the inputs; call the explainer like the model, for example explainer(input_ids=...)"
        )
    for name, value in tensors.items():
        if value.numel() == 0:
            raise InputError(f"{name} is empty (shape {tuple(value.shape)}): there is nothing to explain")
        if value.is_floating_point() and roles[name] != "mask" and not bool(value.isfinite().all()):
            raise InputError(f"{name} contains NaN or infinity")
    if CONTENT_ROLE not in roles.values():
        raise InputError(
            f"none of the inputs {', '.join(tensors)} is content; name one with convert(model, "
            f"roles={{...: 'content'}})"
        )


def run_model(model: nn.Module, bound: dict[str, Any]) -> Any:
    """What the model gives; raises `InputError` when its own forward refuses the inputs."""
    try:
        with torch.no_grad(), inference_configuration(model):
            return model(**own_tensors(bound))
    except Exception as error:
        given = ", ".join(f"{n}: {v.dtype} {tuple(v.shape)}" for n, v in bound.items() if isinstance(v, Tensor))
        raise InputError(
            f"the model's own forward fails on these inputs ({given}): {type(error).__name__}: {error}"
        ) from error
