"""Patch: a program run with values inside it replaced: what the model says if a head, a neuron, a token were another.

requires  a program that serves the call, and new values for places of it
ensures   all that is computed from a replaced value is computed from the new one, all else is as it was; several
          patches share what none of them has touched
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.capture.outputs import closed
from lrp_fx.errors import InputError
from lrp_fx.guards.guard import Arguments
from lrp_fx.ir.code import read_last
from lrp_fx.ir.layout import batch_axis
from lrp_fx.ir.program import Program
from lrp_fx.runtime.compiled import CompiledProgram
from lrp_fx.runtime.run import without_autocast
from lrp_fx.structure.places import LATENTS, Place, Places, require_examples
from lrp_fx.transpose.inside import as_it_lay, laid_out

#: What a place may become: a number or a tensor that broadcasts against it, or a function of it (examples first).
New = float | Tensor | Callable[[Tensor], Tensor]
_NEXT = "give a number, a tensor that broadcasts against it (examples first), or a function of it that returns one"


@dataclass(frozen=True)
class Patch:
    """``values``: what becomes of places, by node; ``batch``: how many examples there are."""

    values: Mapping[fx.Node, tuple[Place, New]]
    batch: int

    def changed(self, node: fx.Node, value: Tensor) -> Tensor:
        """A place's new value, as it lies in the graph."""
        place, new = self.values[node]
        axis = batch_axis(place.layout)
        laid = laid_out(value, place, self.batch)
        try:
            given = new(laid.clone()) if callable(new) else new
        except Exception as error:
            raise InputError(
                f"values={{{place.name!r}: ...}}: the function fails on the value {tuple(laid.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        fresh = _as_value(place, given, laid)
        if axis is None or axis.axis != 0 or axis.is_merged:
            fresh = as_it_lay(lambda x: laid_out(x, place, self.batch), value)(fresh)
        return torch.empty_like(value).copy_(fresh)  # strides as they were: what follows may be a view


def patches_of(given: Any, places: Places, batch: int) -> list[Patch]:
    """One patch for each dictionary of names and values; raises `InputError` for what is not there."""
    found = []
    for values in given if isinstance(given, (list, tuple)) else [given]:
        if not isinstance(values, Mapping) or not values:
            raise InputError(f"values= takes a dictionary, place -> new value, or a list of these; got {values!r}")
        found.append(Patch(_by_node(values, places), batch))
    return found


def _by_node(values: Mapping[Any, Any], places: Places) -> dict[fx.Node, tuple[Place, New]]:
    found: dict[fx.Node, tuple[Place, New]] = {}
    for name, new in values.items():
        if not (callable(new) or isinstance(new, (Tensor, int, float))):
            raise InputError(f"values={{{name!r}: ...}}: {type(new).__name__} is no value\n    next: {_NEXT}")
        for place in places.find(name):
            if place.node in found:
                raise InputError(f"{name!r} and {found[place.node][0].name!r} are one value (%{place.node.name})")
            require_examples(place)
            if place.kind == LATENTS:
                raise InputError(
                    f"{place.name}: a dictionary stands for the value at its place in relevance only, the model does "
                    "not read its latents\n    next: patch the place by a function, "
                    "lambda x: x - decode(z) + decode(changed)"
                )
            found[place.node] = (place, new)
    return found


def _as_value(place: Place, given: Any, laid: Tensor) -> Tensor:
    """What was given as a value of the place's shape, type and device."""
    if not isinstance(given, (Tensor, int, float)):
        raise InputError(f"{place.name}: the function returned {type(given).__name__}\n    next: {_NEXT}")
    new = torch.as_tensor(given).detach().to(device=laid.device, dtype=laid.dtype)
    try:
        return new.expand(laid.shape)
    except RuntimeError:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(place.axes, laid.shape, strict=True))
        raise InputError(
            f"{place.name} (%{place.node.name}, {place.source}) is {tuple(laid.shape)} ({sizes}); a value of shape "
            f"{tuple(new.shape)} does not fit\n    next: {_NEXT}"
        ) from None


def _returned(flat: Any, mine: dict[fx.Node, Any], common: dict[fx.Node, Any]) -> Any:
    """The outputs; those that a patch has changed as they are under it."""
    return fx.map_arg(flat, lambda node: mine[node] if node in mine else common[node])


def run_patched(program: Program, inputs: Sequence[Tensor], patches: Sequence[Patch]) -> list[tuple[Any, ...]]:
    """The flat outputs under each patch. What no patch has touched is computed once; a value is let go behind the last
    call that reads it.
    """
    graph, given = program.graph, iter(inputs)
    common: dict[fx.Node, Any] = {}
    own: list[dict[fx.Node, Any]] = [{} for _ in patches]
    spent = read_last(graph)
    for node in graph.nodes:
        if node.op == "output":
            return [_returned(node.args[0], mine, common) for mine in own]
        later = [any(n in o for n in node.all_input_nodes) for o in own]
        if not all(later):
            common[node] = _value(node, program.module, given, common)
        for patch, mine, is_later in zip(patches, own, later, strict=True):
            if is_later:
                mine[node] = _value(node, program.module, given, {**_read(node, common), **_read(node, mine)})
            if node in patch.values:
                mine[node] = patch.changed(node, mine[node] if is_later else common[node])
        for read in spent.get(node, ()):
            for values in (common, *own):
                values.pop(read, None)
    raise InputError("a flat graph has an output")


def patched(entry: CompiledProgram, call: Arguments, values: Any) -> list[Any]:
    """The model's own output under each patch; raises `InputError`."""
    program = entry.program
    batch = call.bound[program.batch_input[0].name].shape[0] if program.batch_input is not None else 1
    patches = patches_of(values, entry.places, batch)
    tensors = [call.bound[i.name] for i in program.inputs]
    with torch.no_grad(), without_autocast(tensors):
        return [closed(program.outputs.rebuild(flat)) for flat in run_patched(program, tensors, patches)]


def _read(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[fx.Node, Any]:
    return {n: values[n] for n in node.all_input_nodes if n in values}


def _value(node: fx.Node, module: Any, given: Any, values: Mapping[fx.Node, Any]) -> Any:
    if node.op == "placeholder":
        return next(given, *node.args)
    if node.op == "get_attr":
        return attrgetter(str(node.target))(module)
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    return node.target(*args, **kwargs)  # type: ignore[operator]
