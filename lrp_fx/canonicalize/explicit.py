"""Explicit arguments: one form for what a call is given, however the model's code spelled it.

requires  a functional program
ensures   arguments that have a place stand there, in the order in which the operation declares them, and the axis that
          a call counts from is named, from the left, in a list where there may be several; ``a - b`` is one operation

Other defaults stay unsaid (`lrp_fx.ir.operators.argument` knows them): said, they would make a program longer to read
and let rules that look at a call's last argument see another. ``t``, ``transpose`` and ``permute`` stay what they are:
the axis table makes them one kind, and each traces to its own derivative. So do ``squeeze`` and ``unsqueeze``: written
as reshapes they would have to name sizes that are symbols.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_fx.errors import LrpError
from lrp_fx.ir.factors import whole_shape
from lrp_fx.ir.facts import Axes
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import declared_arguments, operand_of, operator_of
from lrp_fx.ir.program import Program
from lrp_fx.ir.sizes import is_one, same_size

aten = torch.ops.aten
#: Names of arguments that name axes.
_AXIS, _AXES = "dim", ("dim", "dims", "dim0", "dim1")


def make_explicit(graph: fx.Graph, node: fx.Node) -> None:
    """Write one call's arguments in the one form."""
    declared = [a for a in declared_arguments(node.target) if not a.kwarg_only]
    given, named = list(node.args), dict(node.kwargs)
    places = [i for i, a in enumerate(declared) if a.name in named or (i >= len(given) and _is_default_axis(node, a))]
    for a in declared[len(given) : max(places, default=-1) + 1]:
        if a.name not in named and not a.has_default_value():
            return  # an argument without a value: not ours to guess
        given.append(named.pop(a.name, a.default_value))
    given[: len(declared)] = [_as_declared(a, value) for a, value in zip(declared, given, strict=False)]
    node.args, node.kwargs = tuple(given), named
    for i in _axes_given(node):
        node.update_arg(i, _from_the_left(node.args[i], _rank(node)))
    if op_name(node) == "aten.index_put":
        node.update_arg(2, _with_its_rows(node.args[2], _indexed_rank(node)))
    if node.target is aten.rsub.Tensor and not named and len(given) == 2:
        node.target, node.args = aten.sub.Tensor, (given[1], given[0])


def _as_declared(declared: Any, value: Any) -> Any:
    """``sum(x, 1)`` is ``sum(x, [1])``: one number may stand for a list of them."""
    one = isinstance(value, int) and not isinstance(value, bool)
    return [value] if one and "List[int]" in str(declared.type) else value


def _is_default_axis(node: fx.Node, declared: Any) -> bool:
    """Is an argument an axis that has one for its default (not: all of them)?"""
    return declared.name == _AXIS and isinstance(declared.default_value, int) and operator_of(node).axes is not None


def _axes_given(node: fx.Node) -> list[int]:
    """Which arguments name axes, if the axis table knows the operation (what others mean by ``dim`` is their own, and
    the ``dims`` of a tile are numbers of copies).
    """
    if operator_of(node).axes in (None, Axes.REPEATED):
        return []
    return [
        i for i, (a, _) in enumerate(zip(declared_arguments(node.target), node.args, strict=False)) if a.name in _AXES
    ]


def _rank(node: fx.Node) -> int:
    """How many axes a call counts: those of its operand, or (where they come to be) those of its result."""
    counts_result = operator_of(node).axes in (Axes.STACKED, Axes.JOINED) or op_name(node) == "aten.unsqueeze"
    return len(whole_shape(node if counts_result else operand_of(node)))


def _from_the_left(axis: Any, rank: int) -> Any:
    if isinstance(axis, (list, tuple)):
        return [_from_the_left(a, rank) for a in axis]
    return axis % rank if isinstance(axis, int) and rank else axis


def _indexed_rank(node: fx.Node) -> int:
    """How many axes ``x[indices]`` has."""
    indices: Any = [i for i in node.args[1] if i is not None]  # type: ignore[union-attr]
    masks = [value_of(i).dtype == torch.bool for i in indices]
    taken = [len(whole_shape(i)) if mask else 1 for i, mask in zip(indices, masks, strict=True)]
    given = [1 if mask else len(whole_shape(i)) for i, mask in zip(indices, masks, strict=True)]
    return len(whole_shape(operand_of(node))) - sum(taken) + max(given, default=0)


def _with_its_rows(value: Any, rank: int) -> Any:
    """What is written, with the leading axes of size 1 that assignment takes away (``x[rows] = y`` with one row): they
    may say whose the row is.
    """
    while isinstance(value, fx.Node) and op_name(value) in ("aten.reshape", "aten.squeeze"):
        before, after = whole_shape(operand_of(value)), whole_shape(value)
        added = len(before) - len(after)
        kept = all(same_size(a, b) for a, b in zip(before[added:], after, strict=False))
        if not 0 < added <= rank - len(after) or not all(map(is_one, before[:added])) or not kept:
            break
        value = operand_of(value)
    return value


def check_explicit(program: Program) -> None:
    """Raise where an argument that has a place is given by name, or an axis is counted from the right."""
    for node in (n for n in program.graph.nodes if n.op == "call_function"):
        named = [a.name for a in declared_arguments(node.target) if not a.kwarg_only and a.name in node.kwargs]
        if named:
            raise LrpError(f"%{node.name} = {op_name(node)}: argument {named[0]} has a place and is given by name")
        for axes in (node.args[i] for i in _axes_given(node) if _rank(node)):
            if any(isinstance(a, int) and a < 0 for a in (axes if isinstance(axes, (list, tuple)) else (axes,))):
                raise LrpError(f"%{node.name} = {op_name(node)}: axis {axes} is counted from the right")
