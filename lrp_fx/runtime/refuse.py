"""Refuse: targets that the model's output does not have, before anything is captured.

One run of the model gives the output; no target is compiled for it. A graph that serves the call already knows the
shape of its output, and needs no run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.outputs import called, explained_name, named_leaves
from lrp_fx.errors import TargetError
from lrp_fx.ir.devices import callers_device
from lrp_fx.targets import Custom, Target


def refuse_targets(call: ModelCall, goals: Sequence[Target], name: str | None) -> None:
    """Raise `TargetError` for a target that the output lacks, or a function that does not give one number an example.

    name: of the output that is explained, None for the one that is chosen by itself. Raises `InputError` where the
    model refuses the inputs.
    """
    output = explained_output(call.result, name)
    if output is None:  # what there is to explain, capture says
        return
    for goal in goals:
        goal.arguments(tuple(output.shape), output.device)
        if isinstance(goal, Custom):
            _check_function(goal, output, call)


def explained_output(result: Any, name: str | None) -> Tensor | None:
    """The tensor of a model's result that targets read."""
    found = {n: v for n, v in named_leaves(result) if isinstance(v, Tensor) and v.is_floating_point()}
    wanted = explained_name(found) if name is None else next((n for n in found if called(n, name)), None)
    return None if wanted is None else found[wanted]


def _check_function(goal: Custom, output: Tensor, call: ModelCall) -> None:
    try:
        with torch.no_grad(), callers_device():  # on values: whether it can be differentiated is asked below
            score = goal.function(output.detach().clone())
    except Exception as error:
        raise goal.failure(output.shape, error) from error
    if not isinstance(score, Tensor) or score.dim() != 1:
        given = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else repr(score)
        raise TargetError(f"a target must give one number per example, shape (B,); got {given}")
    batches = {v.shape[0] for n, v in call.tensors.items() if call.roles[n] == "content" and v.dim()}
    if len(batches) == 1 and score.shape[0] not in batches:
        raise TargetError(
            f"the target gives {score.shape[0]} scores for a batch of {batches.pop()}: one for each example"
        )
    goal.asked(output.shape, output.dtype, output.device)
