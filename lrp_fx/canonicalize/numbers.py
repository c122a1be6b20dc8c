"""Numbers: values that a model's Python reads out of tensors (``x.item()``, ``x.tolist()``) and computes on with.

requires  a program as it was captured
ensures   a number that was read from a floating tensor, and what Python makes of it by arithmetic, is a tensor without
          axes in float64, as Python's numbers are, wherever an operation computes with it; a number that only decides
          stays one

Relevance follows tensors: a number would be a constant to it, though the model's function depends on what was read.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import ancestors, call_like, drop_dead_code, is_float, is_tensor, op_name, value_of
from lrp_fx.ir.program import CACHED_ROLE, CONTENT_ROLE, Program
from lrp_fx.ir.source import source_line

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
    operator.abs: aten.abs.default,
    operator.mod: aten.remainder.Tensor,
    math.floor: aten.floor.default,
    math.ceil: aten.ceil.default,
    math.trunc: aten.trunc.default,
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
    "aten.pow.Scalar": aten.pow.Tensor_Tensor,
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
#: What is filled with a number: the place of the number, and of the sizes.
_SPREAD = {"aten.full.default": (1, 0), "aten.new_full.default": (2, 1)}
#: Sums whose second term is taken a number of times, and what they call it.
_TIMES = {"aten.add.Tensor": "alpha", "aten.sub.Tensor": "alpha"} | dict.fromkeys(
    ("aten.addcmul.default", "aten.addcdiv.default"), "value"
)
#: Kernels that keep the number in float32 where the tensor is half as wide.
_WIDE = frozenset({"add", "sub", "mul", "div", "pow"})


def reads_number(node: fx.Node) -> bool:
    """Does a node give Python the number in a floating tensor?"""
    return op_name(node) in _READING and isinstance(node.args[0], fx.Node) and is_float(node.args[0])


def write_numbers(program: Program) -> Program:
    """Compute with tensors what is computed with numbers that were read of tensors; where an operation takes none, and
    it was content that was read, say so in ``Program.outside``.
    """
    graph, tensors = program.graph, dict[fx.Node, fx.Node]()
    for node in list(graph.nodes):
        if reads_number(node):
            with graph.inserting_before(node):
                tensors[node] = _read(graph, node)
        elif any(a in tensors for a in node.all_input_nodes):
            with graph.inserting_before(node):
                _compute(graph, node, tensors)
    if not tensors:
        return program
    drop_dead_code(graph)
    program.module.recompile()
    of_content = {n for n in tensors if any(a in _content(program) for a in ancestors([n]))}
    left = dict.fromkeys(map(source_line, _left(graph, of_content)))
    return replace(program, outside=(*program.outside, *left)) if left else program


def _content(program: Program) -> set[fx.Node]:
    """The inputs whose values are explained: of a mask or of weights nothing is lost."""
    pairs = zip(program.inputs, program.input_nodes().values(), strict=True)
    return {n for info, n in pairs if info.role in (CONTENT_ROLE, CACHED_ROLE)}


def _left(graph: fx.Graph, numbers: set[fx.Node]) -> Iterator[fx.Node]:
    """Floating tensors that are still computed from numbers."""
    for node in graph.nodes:
        if any(a in numbers for a in node.all_input_nodes):
            if is_float(node):
                yield node
            elif not is_tensor(node):
                numbers.add(node)


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
            constant = a if isinstance(a, fx.Node) else float(a)  # a size, say
            return call(aten.scalar_tensor.default, constant, dtype=dtype, device=value_of(like).device)
        return tensors[a] if dtype == torch.float64 else call(aten._to_copy.default, tensors[a], dtype=dtype)

    if node.target in _ARITHMETIC and not is_tensor(node):
        if all(isinstance(a, (int, float, fx.Node)) for a in node.args):
            tensors[node] = call(_ARITHMETIC[node.target], *map(number, node.args))
    elif is_tensor(node) and is_float(node) and (new := _of_tensors(node, call, number, tensors)) is not None:
        node.replace_all_uses_with(new)


def _of_tensors(
    node: fx.Node, call: Callable[..., fx.Node], number: Callable[..., fx.Node], tensors: dict[fx.Node, fx.Node]
) -> fx.Node | None:
    """The node's result of tensors; None for what takes none."""
    name, dtype = str(node.target), value_of(node).dtype

    def given(a: Any) -> Any:
        plain = isinstance(a, (int, float)) or (isinstance(a, fx.Node) and not is_tensor(a))
        return number(a, dtype) if a in tensors or (plain and name in _ALL_TENSORS) else a

    def wide(a: Any) -> Any:
        if not (isinstance(a, fx.Node) and is_tensor(a)):
            return number(a, torch.float32)
        return call(aten._to_copy.default, a, dtype=torch.float32) if value_of(a).dtype == dtype else a

    if name == "aten.scalar_tensor.default":
        return number(node.args[0], dtype)
    if name in _SPREAD:
        value, sizes = _SPREAD[name]
        return call(aten.expand.default, number(node.args[value], dtype), node.args[sizes])
    if name == "aten.full_like.default":
        zeros = call(aten.full_like.default, node.args[0], 0, **node.kwargs)
        return call(aten.fill.Tensor, zeros, number(node.args[1], dtype))
    if name == "aten.rsub.Scalar" and len(node.args) == 2 and not node.kwargs:
        return call(aten.sub.Tensor, given(node.args[1]), node.args[0])
    times = _TIMES.get(name)
    if times is not None and node.kwargs.get(times) in tensors:
        halves = dtype in (torch.float16, torch.bfloat16)
        args = [wide(a) if halves else a for a in node.args]
        args[1] = call(aten.mul.Tensor, args[1], number(node.kwargs[times], torch.float32 if halves else dtype))
        result = call(node.target, *args)
        return call(aten._to_copy.default, result, dtype=dtype) if halves else result
    if name not in _TAKING or "alpha" in node.kwargs:
        return None
    if dtype in (torch.float16, torch.bfloat16) and name.split(".")[1] in _WIDE and not node.kwargs:
        return call(aten._to_copy.default, call(_TAKING[name], *map(wide, node.args)), dtype=dtype)
    return call(_TAKING[name], *map(given, node.args), **{k: given(v) for k, v in node.kwargs.items()})


def _caller(graph: fx.Graph, node: fx.Node, like: fx.Node) -> Callable[..., fx.Node]:
    """Calls that stand where the node stands in the model's code; ``like`` has the mode of abstract values."""

    def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        new = call_like(graph, like, target, *args, **kwargs)
        new.meta = {**node.meta, "val": new.meta["val"]}
        return new

    return call
