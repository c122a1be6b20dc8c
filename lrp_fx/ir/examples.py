"""Examples: values of a program as in the call it was traced with, where these depend on sizes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, value_of
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import hint, shape_of

#: What a step raises that needs a value which is not known.
FAILS = (RuntimeError, IndexError, TypeError, AttributeError)


def depends_on_values(node: fx.Node) -> bool:
    """Does it depend on those of an input? Whose size is asked for, or what something is made like, is no matter."""
    read = ancestors([node], until=lambda n: not _is_tensors(n) or has(n, Fact.FILL))
    return any(n.op == "placeholder" and _is_tensors(n) for n in read)


def example(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """A value as in the traced call, on the processor; None where it cannot be told. ``known``: those told so far."""
    if node in known:
        return known[node]
    value = value_of(node)
    found: Any
    if not _is_tensors(node):
        found = value if isinstance(value, int) else hint(value)
    elif node.op == "get_attr":
        tensor = getattr(node.graph.owning_module, str(node.target))
        found = None if tensor.is_meta else tensor.detach().cpu()
    else:
        found = _run(node, known)
    known[node] = found
    return found


def _run(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    def given(argument: fx.Node) -> Any:
        if has(node, Fact.FILL) and isinstance(value_of(argument), Tensor):  # what it is made like
            return torch.zeros(shape_of(argument), dtype=value_of(argument).dtype)
        return example(argument, known)

    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), given)
    target: Any = node.target
    try:
        return target(*args, **{**kwargs, **({"device": "cpu"} if "device" in kwargs else {})})
    except FAILS:
        return None


def _is_tensors(node: fx.Node) -> bool:
    return isinstance(value_of(node), (Tensor, list, tuple))
