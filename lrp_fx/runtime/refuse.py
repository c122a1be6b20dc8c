"""Refuse: targets that the model's output does not have, before anything is captured.

One run of the model gives the output; no target is compiled for it. A graph that serves the call already knows the
shape of its output, and needs no run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.checks import run_model
from lrp_fx.errors import TargetError
from lrp_fx.targets import Custom, Target


def refuse_targets(call: ModelCall, goals: Sequence[Target], name: str | None) -> None:
    """Raise `TargetError` for a target that the output lacks, or a function that does not give one number an example.

    name: of the output that is explained, None for the one that is chosen by itself. Raises `InputError` where the
    model refuses the inputs.
    """
    output = explained_output(run_model(call.model, call.bound), name)
    if output is None:  # what there is to explain, capture says
        return
    for goal in goals:
        goal.arguments(tuple(output.shape), output.device)
        if isinstance(goal, Custom):
            _check_function(goal, output)


def explained_output(result: Any, name: str | None) -> Tensor | None:
    """The tensor of a model's result that targets read."""
    found = {
        ".".join(_key(k) for k in path): value
        for path, value in pytree.tree_flatten_with_path(result)[0]
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    named = [v for n, v in found.items() if n.split(".")[-1] == (name or "logits") or n == name]
    return named[0] if named else next(iter(found.values()), None) if name is None else None


def _key(entry: Any) -> str:
    return str(next((getattr(entry, a) for a in ("key", "idx", "name") if hasattr(entry, a)), entry))


def _check_function(goal: Custom, output: Tensor) -> None:
    try:
        with torch.no_grad():
            score = goal.function(output.detach().clone())
    except Exception as error:
        raise TargetError(
            f"the target {goal!r} fails on the model's output {tuple(output.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(score, Tensor) or score.dim() != 1:
        given = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else repr(score)
        raise TargetError(f"a target must give one number per example, shape (B,); got {given}")
