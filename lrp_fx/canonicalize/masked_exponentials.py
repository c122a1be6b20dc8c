"""Exponentials that are hidden from their sum: ``exp(z) * mask`` over its sum is a softmax of the scores not hidden.

requires  explicit arguments
ensures   what is summed are exponentials of scores that are minus infinity where a mask left a zero; the same values
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, fx

from lrp_fx.canonicalize.chosen_softmax import counts, indicator, is_zero
from lrp_fx.ir.examples import depends_on_values
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import call_like, is_float, op_name, value_of
from lrp_fx.ir.operators import argument, has, operand_of

aten = torch.ops.aten


class Masked(NamedTuple):
    """``hides``: is the mask true where zeros are? ``counts``: is it whole numbers, factors of exponentials?"""

    exponential: fx.Node
    mask: fx.Node
    hides: bool
    counts: bool = False


def hide_exponents(graph: fx.Graph, node: fx.Node) -> None:
    """The mask on the exponents, behind what is taken off all of them."""
    found = next((each for each in _masked(node) if _is_exponential(each.exponential, node)), None)
    if found is None or not _is_summed(node):
        return
    with graph.inserting_before(node):
        result = call_like(graph, node, aten.exp.default, _hidden(graph, node, operand_of(found.exponential), found))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _hidden(graph: fx.Graph, node: fx.Node, scores: fx.Node, found: Masked) -> fx.Node:
    write = partial(call_like, graph, node)
    whole = value_of(scores).shape
    if op_name(scores) == "aten.sub" and not scores.kwargs and _is_of_shape(scores.args[0], whole):
        inner = _hidden(graph, node, operand_of(scores), found)
        return write(aten.sub.Tensor, inner, scores.args[1])
    if found.counts:
        numbers = write(aten._to_copy.default, found.mask, dtype=value_of(scores).dtype)
        return write(aten.add.Tensor, scores, write(aten.log.default, numbers))
    if found.hides:
        return write(aten.masked_fill.Scalar, scores, found.mask, -math.inf)
    return write(aten.where.ScalarOther, found.mask, scores, -math.inf)


def _masked(node: fx.Node) -> Iterator[Masked]:
    """What leaves zeros where a mask says so."""
    name, args = op_name(node), node.args
    if name == "aten.masked_fill" and is_zero(args[2]):
        yield Masked(operand_of(node), operand_of(node, 1), True)
    elif name == "aten.where" and len(args) == 3:
        for kept, filled, hides in ((args[1], args[2], False), (args[2], args[1], True)):
            if isinstance(kept, fx.Node) and is_zero(filled):
                yield Masked(kept, operand_of(node), hides)
    elif name == "aten.mul":
        for kept, mask in ((args[0], args[1]), (args[1], args[0])):
            if isinstance(kept, fx.Node) and (truth := indicator(mask)) is not None:
                yield Masked(kept, truth, False)
            elif isinstance(kept, fx.Node) and op_name(kept) == "aten.exp" and (numbers := counts(mask)) is not None:
                yield Masked(kept, numbers, False, counts=True)


def _is_exponential(value: fx.Node, result: fx.Node) -> bool:
    return op_name(value) == "aten.exp" and _is_of_shape(value, value_of(result).shape)


def _is_of_shape(value: object, shape: torch.Size) -> bool:
    return isinstance(value, fx.Node) and isinstance(value_of(value), Tensor) and value_of(value).shape == shape


def _is_summed(node: fx.Node) -> bool:
    return any(op_name(user) == "aten.sum" for user in node.users)


# ------------------------------------------------------------------------------------------------ spelled otherwise
def choose_triangle(graph: fx.Graph, node: fx.Node) -> None:
    """``tril`` and ``triu`` of values as what a mask of sizes alone leaves of them."""
    x = operand_of(node)
    if not is_float(x) or not depends_on_values(x):
        return
    with graph.inserting_before(node):
        ones = call_like(graph, node, aten.ones_like.default, x, dtype=torch.bool)
        mask = call_like(graph, node, node.target, ones, *node.args[1:], **node.kwargs)
        result = call_like(graph, node, aten.where.ScalarOther, mask, x, 0.0)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def sum_of_positive(graph: fx.Graph, node: fx.Node) -> None:
    """The sum of absolute amounts of what is never negative, as its sum."""
    x, dims = operand_of(node), argument(node, "dim")
    squashed = has(x, Fact.SQUASHING | Fact.SOFTMAX) or any(op_name(m.exponential) == "aten.exp" for m in _masked(x))
    if argument(node, "ord") != 1 or dims is None or argument(node, "dtype") is not None or not squashed:
        return
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    with graph.inserting_before(node):
        result = call_like(graph, node, aten.sum.dim_IntList, x, dims, bool(argument(node, "keepdim")))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def write_power_of_number(graph: fx.Graph, node: fx.Node) -> None:
    """``a ** x`` of a positive number a as ``exp(x log a)``, ``exp2`` too; ``x ** -1`` as what divides by x."""
    if op_name(node) == "aten.pow" and node.args[1] == -1 and is_float(node):
        node.target, node.args = aten.reciprocal.default, node.args[:1]
        return
    base, exponent = (2.0, node.args[0]) if op_name(node) == "aten.exp2" else node.args[:2]
    if not isinstance(base, (int, float)) or base <= 0 or not isinstance(exponent, fx.Node) or not is_float(exponent):
        return
    with graph.inserting_before(node):
        if base != math.e:
            exponent = call_like(graph, node, aten.mul.Tensor, exponent, math.log(base))
        result = call_like(graph, node, aten.exp.default, exponent)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
