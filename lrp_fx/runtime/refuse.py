"""Refuse: targets that the model's output does not have, before anything is captured.

One run of the model gives the output; no target is compiled for it. A graph that serves the call already knows the
shape of its output, and needs no run. Functions that mix examples are looked at again there, where it is known which
axis is the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.outputs import called, explained_name, named_leaves
from lrp_fx.errors import TargetError
from lrp_fx.guards.guard import Arguments
from lrp_fx.ir.devices import callers_device
from lrp_fx.ir.layout import BatchAxis, Layout, batch_axis
from lrp_fx.runtime.compiled import CompiledProgram
from lrp_fx.runtime.inside import read_by
from lrp_fx.targets import At, Custom, Target, kind_of
from lrp_fx.targets.others import made_values, possible_axes, refuse_others
from lrp_fx.targets.stand_ins import Tracking


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
    goal.asked(output.shape, output.dtype, output.device)  # first: one that writes into tensors of others is refused
    values, score = _scored(goal, output.detach().clone())
    if not isinstance(score, Tensor) or score.dim() != 1:
        given = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else repr(score)
        raise TargetError(f"a target must give one number per example, shape (B,); got {given}")
    batches = {v.shape[0] for n, v in call.tensors.items() if call.roles[n] == "content" and v.dim()}
    if len(batches) == 1 and score.shape[0] not in batches:
        raise TargetError(
            f"the target gives {score.shape[0]} scores for a batch of {batches.pop()}: one for each example"
        )
    refuse_others(goal, score, values, lambda batch: possible_axes(output.shape, batch))


def refuse_mixing(goals: Sequence[Target], entry: CompiledProgram, call: Arguments) -> None:
    """Raise `TargetError` for a function whose scores read other examples than their own; each kind is looked at once
    by each program, when there are two examples or more, on values that are made up.
    """
    for goal in goals:
        function, key = goal.target if isinstance(goal, At) else goal, kind_of(goal)
        if not isinstance(function, Custom) or key in entry.apart:
            continue
        like, shape = read_by(goal, entry, call)
        axis = BatchAxis(0, 1, 1) if isinstance(goal, At) else batch_axis(_layout(entry))
        values, score = _scored(function, made_values(shape, like.dtype, like.device))
        if len(score) > 1:
            refuse_others(function, score, values, partial(_axes, tuple(shape), axis))
            entry.apart.add(key)


def _axes(shape: tuple[int, ...], axis: BatchAxis | None, batch: int) -> Sequence[BatchAxis]:
    """Where the examples are, or may be where that is not known."""
    known = axis is not None and (axis.outer, axis.inner) != (None, None) and shape[axis.axis] % batch == 0
    return [axis] if axis is not None and known else possible_axes(shape, batch)


def _layout(entry: CompiledProgram) -> Layout | None:
    """Of the explained output."""
    return entry.rewritten.facts.layout.get(entry.program.explained_node)


def _scored(goal: Custom, values: Tensor) -> tuple[Tensor, Any]:
    """The values as the function was given them, and what it made of them; with gradients, for it may take some itself.

    Raises what `Custom.failure` makes of its errors.
    """
    leaf = values.requires_grad_()
    try:
        with torch.enable_grad(), callers_device(), Tracking():
            return leaf, goal.function(leaf)
    except Exception as error:
        raise goal.failure(values.shape, error) from error
