"""Outside: values of the inputs that a model's Python takes to numpy, which no trace follows.

What it computes there comes back as a constant: the output is right for the call that was recorded, and relevance ends
where the values left.

requires  a model that is recorded on one call (`lrp_fx.capture.record`)
ensures   the places where floating values left torch, found in the record; no mark of them stays in it
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from lrp_fx.ir.graph import ancestors
from lrp_fx.ir.source import source_line

#: A copy that nobody reads, and no model writes: it marks what left in the record.
_MARK = torch.ops.aten.alias_copy.default
_LEAVING = (Tensor.numpy, Tensor.__array__)


class MarksOutside(TorchFunctionMode):
    """While inside, what is given to numpy is marked."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LEAVING and args[0].is_floating_point():
            _MARK(args[0])
        return func(*args, **(kwargs or {}))


def taken_outside(graph: fx.Graph) -> tuple[str, ...]:
    """The user's source lines at which values made of the inputs left, each once, in order; the marks are removed."""
    found: dict[str, None] = {}
    for node in graph.find_nodes(op="call_function", target=_MARK):
        if any(n.op == "placeholder" for n in ancestors([node])):
            found[source_line(node)] = None
        graph.erase_node(node)
    return tuple(found)
