"""Spelling: operations written as the ones that later stages know, each by one function.

requires  a node of a graph just copied
ensures   the node gone, and what it computed computed by simpler operations with the same values
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from lrp_fx.program import op_name, value_of

aten = torch.ops.aten


def split_moments(graph: fx.Graph, node: fx.Node) -> None:
    """``var_mean`` as ``var`` and ``mean``: the mean is linear, the variance a statistic."""
    if op_name(node) == "aten.var_mean":
        spread: Any = aten.var
    else:
        spread = aten.std
    overload = getattr(spread, node.target._overloadname)  # type: ignore[union-attr]
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keepdim = bool(node.kwargs.get("keepdim", False))
    if node.target._overloadname != "correction" or dims is None:  # type: ignore[union-attr]
        return
    for user in list(node.users):
        with graph.inserting_before(user):
            is_mean = user.args[1] == 1
            part = graph.call_function(aten.mean.dim, (node.args[0], dims, keepdim)) if is_mean else graph.call_function(overload, node.args, node.kwargs)
        part.meta = dict(user.meta)
        user.replace_all_uses_with(part)
        graph.erase_node(user)
    graph.erase_node(node)


def split_gate(graph: fx.Graph, node: fx.Node) -> None:
    """``glu`` as what it computes, ``a * sigmoid(b)`` of the halves a and b."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    dim = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1))  # type: ignore[arg-type]
    size = value_of(x).shape[dim]
    if not isinstance(size, int):
        return
    with graph.inserting_before(node):
        up = _call(graph, node, aten.slice.Tensor, x, dim, 0, size // 2)
        gate = _call(graph, node, aten.sigmoid.default, _call(graph, node, aten.slice.Tensor, x, dim, size // 2, size))
        product = _call(graph, node, aten.mul.Tensor, up, gate)
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _call(graph: fx.Graph, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A new call at the insertion point, with its abstract value; it stands where ``like`` stood in the model's code."""
    new = graph.call_function(target, args)
    with value_of(like).fake_mode, enable_python_dispatcher():
        new.meta = {**like.meta, "val": target(*(value_of(a) if isinstance(a, fx.Node) else a for a in args))}
    return new


def replace_copy(graph: fx.Graph, node: fx.Node) -> None:
    """What ``x[..] = y`` becomes when made functional: y in x's shape and type."""
    if len(node.args) < 2:
        return
    destination, source = node.args[0], node.args[1]
    assert isinstance(destination, fx.Node) and isinstance(source, fx.Node)
    shape, dtype = value_of(node).shape, value_of(node).dtype
    with graph.inserting_before(node):
        if value_of(source).dtype != dtype:
            cast = graph.call_function(aten._to_copy.default, (source,), {"dtype": dtype})
            cast.meta = {**node.meta, "val": value_of(source).to(dtype)}
            source = cast
        if tuple(value_of(source).shape) != tuple(shape):
            grown = graph.call_function(aten.expand_as.default, (source, destination))
            grown.meta = {**node.meta, "val": value_of(source).expand(shape)}
            source = grown
    node.replace_all_uses_with(source)
    graph.erase_node(node)


def write_power_of_two(graph: fx.Graph, node: fx.Node) -> None:
    """``2 ** x`` as ``exp(x log 2)``."""
    with graph.inserting_before(node):
        exponent = graph.call_function(aten.mul.Tensor, (node.args[0], math.log(2.0)))
    exponent.meta = dict(node.meta)
    node.target, node.args = aten.exp.default, (exponent,)


def put_by_mask(graph: fx.Graph, node: fx.Node) -> None:
    """``x[mask] = rows`` as a masked scatter: its size does not depend on how many elements the mask has."""
    x, indices, rows = node.args[:3]
    mask = indices[0] if isinstance(indices, (list, tuple)) and len(indices) == 1 else None
    adds = node.args[3] if len(node.args) > 3 else node.kwargs.get("accumulate", False)
    if not (isinstance(mask, fx.Node) and isinstance(x, fx.Node) and isinstance(rows, fx.Node)) or value_of(mask).dtype != torch.bool or adds:
        return
    behind = value_of(x).dim() - value_of(mask).dim()
    with graph.inserting_before(node):
        for _ in range(behind):
            mask = _call(graph, node, aten.unsqueeze.default, mask, -1)
        if value_of(rows).dim() == behind + 1 and not (isinstance(n := value_of(rows).shape[0], int) and n == 1):
            whole = _call(graph, node, aten.expand_as.default, mask, x)
            put = _call(graph, node, aten.masked_scatter.default, x, whole, rows)
        else:  # the same row everywhere
            put = _call(graph, node, aten.where.self, mask, rows, x)
    node.replace_all_uses_with(put)
    graph.erase_node(node)


#: Operation -> the function that writes it out.
SPELLED_OUT: dict[str, Callable[[fx.Graph, fx.Node], None]] = {
    "aten.copy": replace_copy,
    "aten.var_mean": split_moments,
    "aten.std_mean": split_moments,
    "aten.glu": split_gate,
    "aten.exp2": write_power_of_two,
    "aten.index_put": put_by_mask,
}
