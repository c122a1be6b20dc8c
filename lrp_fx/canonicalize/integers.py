"""Integers that hold values: activations that are rounded, held as integers and made floating again.

requires  a canonical graph
ensures   no floating value is computed from a floating value of content by way of integers: what integers held is
          computed in floating point, exactly (a cast to an integer is `trunc`, sums and products of integers are taken
          in float64); integers that are used as indices, and what they are computed from, stay

A cast to int8 and back gives the numbers that rounding in floating point gives, and so does a product of integer
matrices. Relevance follows floating values: it follows these only if they are written as what they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from lrp_fx.errors import Problem, UnsupportedOperatorError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import call_like, is_float, is_tensor, op_name, tensor_args, value_of
from lrp_fx.ir.operators import argument, has, is_foreign
from lrp_fx.ir.program import CACHED_ROLE, CONTENT_ROLE, Program
from lrp_fx.ir.source import source_line

aten = torch.ops.aten
#: The same operation on floating values, where it has another name.
_FLOATING = {"aten._int_mm": aten.mm.default}
_REARRANGING = Fact.MOVE | Fact.SELECTION | Fact.ASSEMBLY
_ARITHMETIC = (
    Fact.SUM | Fact.SCALING | Fact.SIGN | Fact.GUARD | Fact.CONTRACTION | Fact.AVERAGE | Fact.TERM_FIRST | Fact.CHOICE
)
_BY_NAME = frozenset(
    "aten._int_mm aten.amax aten.amin aten.clamp_max aten.minimum aten.maximum aten.floor_divide aten.cumsum "
    "aten.round aten.square".split()
)


def write_integers(program: Program) -> Program:
    """Compute floating what integers hold of content, for those who read it as a value."""
    graph = program.graph
    rounded = _rounded(program)
    if _compare_instead(graph, rounded):
        rounded = _rounded(program)
    twins: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes) if rounded else ():
        read = [a for a in _values_read(node) if a in rounded]
        if is_float(node) and read:
            _read_floating(graph, node, read, lambda a: _twin(graph, a, rounded, twins))
    return program


def _rounded(program: Program) -> set[fx.Node]:
    """Integers that hold floating values of content, however computed on since."""
    of_content: set[fx.Node] = set()  # by way of indices, too
    values: set[fx.Node] = set()
    rounded: set[fx.Node] = set()
    roles = {n: info.role for info, n in zip(program.inputs, program.input_nodes().values(), strict=True)}
    for node in program.graph.nodes:
        args = [] if has(node, Fact.FILL) else tensor_args(node)  # of what it fills it reads the shape alone
        if roles.get(node) in (CONTENT_ROLE, CACHED_ROLE) or any(a in of_content for a in args):
            of_content.add(node)
        if node not in of_content or not (is_tensor(node) or is_float(node)):
            continue
        if is_float(node):
            _refuse_float8(node)
            chosen = has(node, Fact.LOOKUP | Fact.CAST) and not any(_is_truth(a) for a in args)
            if node.op == "placeholder" or chosen or any(a in values for a in args):
                values.add(node)
        elif not _is_truth(node) and any(a in values and _is_held(a, node) for a in _values_read(node)):
            rounded.add(node)
            values.add(node)
    return rounded


def _compare_instead(graph: fx.Graph, rounded: set[fx.Node]) -> bool:
    """Compare integers that hold values with the classes of `one_hot`: which one it is, is a choice and no value. Was
    there any?
    """
    found = [n for n in graph.nodes if op_name(n) == "aten.one_hot" and n.args[0] in rounded]
    for node in found:
        held, count = node.args[0], value_of(node).shape[-1]
        with graph.inserting_before(node):
            classes = call_like(graph, node, aten.arange.default, count, device=value_of(node).device)
            column = call_like(graph, node, aten.unsqueeze.default, held, -1)
            chosen = call_like(graph, node, aten.eq.Tensor, column, classes)
            node.replace_all_uses_with(call_like(graph, node, aten._to_copy.default, chosen, dtype=torch.int64))
        graph.erase_node(node)
    return bool(found)


def _refuse_float8(node: fx.Node) -> None:
    """Raise where an activation is held in eight bits, as its coefficient would be (weights may: they have none)."""
    if not is_tensor(node) or value_of(node).dtype.itemsize != 1:
        return
    found = Problem(
        f"%{node.name} = {op_name(node)} holds activations in {str(value_of(node).dtype).removeprefix('torch.')}",
        source_line(node),
        "quantised to so few bits, neither values nor relevance close any books, and kernels have no derivative",
        "explain the model before its activations are quantised, or quantised to integers; weights may be float8",
    )
    raise UnsupportedOperatorError(f"an operation cannot be explained:\n{found}")


def _is_held(operand: fx.Node, node: fx.Node) -> bool:
    """Does an integer hold the operand's values (an index of the largest does not)? Of other libraries' it may."""
    return has(node, Fact.CAST) or is_foreign(node) or not is_float(operand)


def _is_truth(node: fx.Node) -> bool:
    return is_tensor(node) and value_of(node).dtype == torch.bool


def _values_read(node: fx.Node) -> list[fx.Node]:
    """The tensors that an operation reads as values, not as indices."""
    args = tensor_args(node)
    if has(node, Fact.LOOKUP | Fact.SCATTER):
        return [a for a in (node.args[0], argument(node, "src")) if isinstance(a, fx.Node)]
    return args


def _read_floating(graph: fx.Graph, node: fx.Node, read: list[fx.Node], twin: Callable[[fx.Node], fx.Node]) -> None:
    """Let a floating operation read integers as floating values."""
    dtype = value_of(node).dtype if is_tensor(node) else torch.float64
    for operand in read:
        new = twin(operand)
        with graph.inserting_before(node):
            new = _cast(graph, node, new, dtype)
        if has(node, Fact.CAST):
            node.replace_all_uses_with(new)
        else:
            node.replace_input_with(operand, new)


def _cast(graph: fx.Graph, like: fx.Node, x: fx.Node, dtype: torch.dtype) -> fx.Node:
    if value_of(x).dtype == dtype:
        return x
    return call_like(graph, like, aten._to_copy.default, x, dtype=dtype)


def _twin(graph: fx.Graph, node: fx.Node, rounded: set[fx.Node], twins: dict[fx.Node, fx.Node]) -> fx.Node:
    """What an integer holds, computed floating."""
    if node in twins:
        return twins[node]
    if has(node, Fact.CAST):
        (x,) = tensor_args(node)
        if is_float(x):
            twins[node] = _truncated(graph, node, x)
        else:
            twins[node] = _twin(graph, x, rounded, twins)
        return twins[node]
    if not has(node, _REARRANGING | _ARITHMETIC) and op_name(node) not in _BY_NAME:
        raise UnsupportedOperatorError(_refusal(node))
    floating = {a: _twin(graph, a, rounded, twins) for a in _values_read(node) if a in rounded}
    read = dict.fromkeys(a for a in _values_read(node) if not _is_truth(a) or not has(node, Fact.CHOICE))
    only = value_of(floating[next(iter(read))]).dtype if len(read) == 1 and has(node, _REARRANGING) else torch.float64
    with graph.inserting_before(node):
        exact = {a: _cast(graph, node, floating.get(a, a), only) for a in read}
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: exact.get(a, a))
        kwargs = {k: torch.float64 if k == "dtype" else v for k, v in kwargs.items()}
        twins[node] = call_like(graph, node, _FLOATING.get(op_name(node), node.target), *args, **kwargs)
    return twins[node]


def _truncated(graph: fx.Graph, node: fx.Node, x: fx.Node) -> fx.Node:
    """What a cast to an integer holds: the value without its fraction and, where the integer has no room for that, what
    it lost (an integer, which carries nothing: the value has no part of it).
    """
    with graph.inserting_before(node.next):
        whole = call_like(graph, node, aten.trunc.default, x)
        if value_of(node).dtype == torch.int64:
            return whole
        meant = call_like(graph, node, aten._to_copy.default, x, dtype=torch.int64)
        held = call_like(graph, node, aten._to_copy.default, node, dtype=torch.int64)
        lost = call_like(graph, node, aten.sub.Tensor, held, meant)
        return call_like(graph, node, aten.add.Tensor, whole, lost)


def _refusal(node: fx.Node) -> str:
    found = Problem(
        f"%{node.name} = {op_name(node)} computes with integers that hold content and are made floating again",
        source_line(node),
        "relevance follows rounding, sums and products of integers; bits of an activation have no share of it",
        "compute it in floating point (round, clamp, a product), or explain an earlier output",
    )
    return f"an operation cannot be explained:\n{found}"
