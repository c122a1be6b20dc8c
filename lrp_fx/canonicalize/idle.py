"""Operations that leave weights as they are: bounds that these never reach, and division by a sum that is 1.

requires  explicit arguments
ensures   such operations gone; what is put in the place of no number is put there by a mask; the same values but for
          rounding
"""

from __future__ import annotations

import math

import torch
from torch import fx

from lrp_fx.canonicalize.chosen_softmax import divides_by_own_sum
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import call_like, is_float, is_tensor, op_name, value_of
from lrp_fx.ir.operators import argument, has, operand_of

aten = torch.ops.aten
#: Of functions that are never negative, those that are never above 1.
_SHARES = frozenset({"aten.sigmoid", "aten.hardsigmoid"})


def drop_idle(graph: fx.Graph, node: fx.Node) -> None:
    """Let a bounded weight be the weight, and weights over their own sum be the weights."""
    if not is_tensor(node) or not is_float(node) or not node.args or not isinstance(node.args[0], fx.Node):
        return
    result = _written(graph, node) or _over_own_sum(node)
    if result is not None and value_of(result).dtype == value_of(node).dtype:
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _written(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    x = operand_of(node)
    known = _range(x)
    if op_name(node) == "aten.nan_to_num" and known is not None and known[1] < math.inf:  # else it may be infinite
        with graph.inserting_before(node):
            missing = call_like(graph, node, aten.isnan.default, x)
            return call_like(graph, node, aten.masked_fill.Scalar, x, missing, argument(node, "nan") or 0.0)
    bounds = _bounds(node)
    reaches = bounds is None or known is None or bounds[0] > known[0] or known[1] > bounds[1]
    return None if reaches else x


def _over_own_sum(node: fx.Node) -> fx.Node | None:
    """The weights of a softmax that are divided by their own sum. (Safe ones may be zero throughout.)"""
    for x in node.args[: 2 if op_name(node) == "aten.mul" else 1]:
        if isinstance(x, fx.Node) and has(x, Fact.SOFTMAX) and op_name(x) != "aten._safe_softmax":
            return x if divides_by_own_sum(node, x, int(argument(x, "dim"))) else None
    return None


def _bounds(node: fx.Node) -> tuple[float, float] | None:
    """Between which numbers it keeps its operand."""
    name = op_name(node)
    if name == "aten.relu":
        return 0.0, math.inf
    names = {"aten.clamp": ("min", "max"), "aten.clamp_min": ("min", None), "aten.clamp_max": (None, "max")}.get(name)
    if names is None:
        return None
    low, high = (None if n is None else argument(node, n) for n in names)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return (low, high) if isinstance(low, (int, float)) and isinstance(high, (int, float)) else None


def _range(x: fx.Node) -> tuple[float, float] | None:
    """Between which numbers a weight lies, whatever it is computed from."""
    while has(x, Fact.MOVE | Fact.SELECTION) and x.args and isinstance(x.args[0], fx.Node) and is_float(x.args[0]):
        x = x.args[0]
    if has(x, Fact.SOFTMAX) or op_name(x) in _SHARES:
        return 0.0, 1.0
    return (0.0, math.inf) if has(x, Fact.SQUASHING) else None
