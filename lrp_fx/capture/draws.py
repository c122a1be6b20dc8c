"""Draws: random numbers in a record of one call.

A model that seeds the generator itself draws the same in every call; the graph of it would go on drawing. So the
numbers are kept that this call drew. (A model that does not seed it is refused all the same: it differs from itself.)

requires  a record of a call during which `Draws` was on
ensures   a record that draws nothing but what depends on operands (dropout)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from lrp_fx.ir.graph import value_of


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what is drawn from nothing but the state of the generator, in its order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _draws(func) and not any(isinstance(a, Tensor) for a in args):
            self.drawn.append(result.clone())
        return result


def fix_draws(module: fx.GraphModule, drawn: Sequence[Tensor]) -> None:
    """Put what was drawn in the place of drawing; nothing is changed where the two do not belong together."""
    nodes = [n for n in module.graph.nodes if _draws(n.target) and not n.all_input_nodes]
    drawn = drawn[max(len(drawn) - len(nodes), 0) :]  # a trace that was begun anew drew before
    if [v.shape for v in drawn] != [value_of(n).shape for n in nodes]:
        return
    for number, (node, value) in enumerate(zip(nodes, drawn, strict=True)):
        name = f"drawn_{number}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")}
        node.replace_all_uses_with(constant)
        module.graph.erase_node(node)


def _draws(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
