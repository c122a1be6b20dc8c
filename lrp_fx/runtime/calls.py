"""Calls: what a compiler asks of a call beside the programs that it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from lrp_fx.capture.arguments import Flattened
from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.trees import own
from lrp_fx.guards.guard import Guard
from lrp_fx.guards.sizes import SizeGuard
from lrp_fx.ir.program import DYNAMIC
from lrp_fx.runtime.compiled import CompiledProgram


def own_copy(call: ModelCall) -> ModelCall:
    """A call with tensors and plain values that nobody else changes."""
    model = call.model.with_own_values() if isinstance(call.model, Flattened) else call.model
    bound = {n: v.detach().clone() if isinstance(v, Tensor) else own(v) for n, v in call.bound.items()}
    return replace(call, bound=bound, model=model)


def try_one_row(entry: CompiledProgram, call: ModelCall) -> None:
    """Is the program right for one example, too? Asked now, in case that it is saved: a file has no model to compare
    with.
    """
    batched = entry.program.batch_input
    if entry.program.method == DYNAMIC and batched is not None:
        batch = call.bound[batched[0].name].shape[0]
        entry.fits(
            replace(
                call,
                bound={
                    n: v[:1] if isinstance(v, Tensor) and v.dim() and v.shape[0] == batch else v
                    for n, v in call.bound.items()
                },
            )
        )


def holds_for(guards: Iterable[Guard], call: ModelCall) -> bool:
    """Do guards admit a call, if sizes of 1 are as good as others? (That is asked of the model, which takes a run.)"""
    return all((g.sizes.refusal(call.shapes) if isinstance(g, SizeGuard) else g.refusal(call)) is None for g in guards)


def shared_inputs(entry: CompiledProgram, call: ModelCall) -> str:
    """Why a graph cannot be built: an input has one row for all examples of the batch. What they share has no relevance
    in each of them.
    """
    batched = entry.program.batch_input
    batch = call.bound[batched[0].name].shape[0] if batched is not None else 1
    shared = [
        i.name
        for i in entry.program.inputs
        if i.role == "content" and i.shape and call.bound[i.name].shape[0] == 1 < batch
    ]
    if not shared or batched is None:
        return ""
    name = shared[0]
    rows = ", ".join([str(batch), *["-1"] * (call.bound[name].dim() - 1)])
    return (
        f"{name} has one row for the {batch} examples of {batched[0].name}: what examples share has no relevance of "
        "its own in each of them; "
        f"give each its own, {name}.expand({rows})"
    )
