"""Numbers: values that a model's Python reads out of tensors (``x.item()``, ``x.tolist()``, ``float(x)``) and computes
on with.

requires  a program as it was captured
ensures   a number that was read from a floating tensor, and what Python makes of it by arithmetic, is a tensor without
          axes in float64, as Python's numbers are, wherever an operation computes with it; a number that only decides
          stays one

Relevance follows tensors: a number would be a constant to it, though the model's function depends on what was read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import call_like, drop_dead_code, is_float, is_tensor, op_name, value_of
from lrp_fx.ir.program import Program

aten = torch.ops.aten
_READING = frozenset({"aten.item", "aten._local_scalar_dense"})
#: Python's arithmetic, and what it is on tensors.
_ARITHMETIC: dict[Any, Any] = {
    operator.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    operator.truediv: aten.div.Tensor,
    operator.pow: aten.pow.Tensor_Tensor,
    operator.neg: aten.neg.default,
    torch.sym_float: aten.alias.default,
    torch.sym_max: aten.maximum.default,
    torch.sym_min: aten.minimum.default,
    torch._sym_sqrt: aten.sqrt.default,  # type: ignore[attr-defined]
}
#: Operations that take a tensor where they were given a number, under the same name or another.
_TAKING: dict[str, Any] = {
    "aten.add.Tensor": aten.add.Tensor,
    "aten.add.Scalar": aten.add.Tensor,
    "aten.sub.Tensor": aten.sub.Tensor,
    "aten.sub.Scalar": aten.sub.Tensor,
    "aten.mul.Tensor": aten.mul.Tensor,
    "aten.mul.Scalar": aten.mul.Tensor,
    "aten.div.Tensor": aten.div.Tensor,
    "aten.div.Scalar": aten.div.Tensor,
    "aten.pow.Tensor_Scalar": aten.pow.Tensor_Tensor,
    "aten.full_like.default": aten.fill.Tensor,
    "aten.fill.Scalar": aten.fill.Tensor,
    "aten.masked_fill.Scalar": aten.masked_fill.Tensor,
    "aten.index_fill.int_Scalar": aten.index_fill.int_Tensor,
    "aten.clamp.default": aten.clamp.Tensor,
    "aten.clamp_min.default": aten.clamp_min.Tensor,
    "aten.clamp_max.default": aten.clamp_max.Tensor,
    "aten.where.ScalarSelf": aten.where.self,
    "aten.where.ScalarOther": aten.where.self,
    "aten.where.Scalar": aten.where.self,
}
#: Those that take nothing else.
_ALL_TENSORS = frozenset(n for n, target in _TAKING.items() if target in (aten.clamp.Tensor, aten.where.self))


def reads_number(node: fx.Node) -> bool:
    """Does a node give Python the number in a floating tensor?"""
    return op_name(node) in _READING and isinstance(node.args[0], fx.Node) and is_float(node.args[0])


def write_numbers(program: Program) -> Program:
    """Compute with tensors what is computed with numbers that were read of tensors."""
    graph, tensors = program.graph, dict[fx.Node, fx.Node]()
    for node in list(graph.nodes):
        if reads_number(node):
            with graph.inserting_before(node):
                tensors[node] = _read(graph, node)
        elif any(a in tensors for a in node.all_input_nodes):
            with graph.inserting_before(node):
                _compute(graph, node, tensors)
    if tensors:
        drop_dead_code(graph)
        program.module.recompile()
    return program


def _read(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """What is read, as a tensor without axes."""
    x: Any = node.args[0]
    call = _caller(graph, node, x)
    return call(aten._to_copy.default, call(aten.reshape.default, x, []), dtype=torch.float64)


def _compute(graph: fx.Graph, node: fx.Node, tensors: dict[fx.Node, fx.Node]) -> None:
    """A call with tensors for the numbers it is given, if there is such a call."""
    like = next(tensors[a] for a in node.all_input_nodes if a in tensors)
    call = _caller(graph, node, like)

    def number(a: Any, dtype: torch.dtype = torch.float64) -> fx.Node:
        """As a tensor without axes, in the type into which a kernel would cast it."""
        if a not in tensors:
            return call(aten.scalar_tensor.default, float(a), dtype=dtype, device=value_of(like).device)
        return tensors[a] if dtype == torch.float64 else call(aten._to_copy.default, tensors[a], dtype=dtype)

    if node.target in _ARITHMETIC and not is_tensor(node):
        if all(a in tensors or isinstance(a, (int, float)) for a in node.args):
            tensors[node] = call(_ARITHMETIC[node.target], *map(number, node.args))
    elif is_tensor(node) and is_float(node) and (new := _of_tensors(node, call, number, tensors)) is not None:
        node.replace_all_uses_with(new)


def _of_tensors(
    node: fx.Node, call: Callable[..., fx.Node], number: Callable[..., fx.Node], tensors: dict[fx.Node, fx.Node]
) -> fx.Node | None:
    """The node's result of tensors; None for what takes none."""
    name, dtype = str(node.target), value_of(node).dtype

    def given(a: Any) -> Any:
        whole = isinstance(a, (int, float)) and not isinstance(a, bool) and name in _ALL_TENSORS
        return number(a, dtype) if whole or (isinstance(a, fx.Node) and a in tensors) else a

    if name == "aten.scalar_tensor.default":
        return number(node.args[0], dtype)
    if name == "aten.full.default":
        return call(aten.expand.default, number(node.args[1], dtype), node.args[0])
    if name == "aten.rsub.Scalar" and len(node.args) == 2 and not node.kwargs:
        return call(aten.sub.Tensor, given(node.args[1]), node.args[0])
    if name not in _TAKING or "alpha" in node.kwargs:
        return None
    kwargs = {} if name == "aten.full_like.default" else {k: given(v) for k, v in node.kwargs.items()}
    return call(_TAKING[name], *map(given, node.args), **kwargs)


def _caller(graph: fx.Graph, node: fx.Node, like: fx.Node) -> Callable[..., fx.Node]:
    """Calls that stand where the node stands in the model's code; ``like`` has the mode of abstract values."""

    def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        new = call_like(graph, like, target, *args, **kwargs)
        new.meta = {**node.meta, "val": new.meta["val"]}
        return new

    return call
