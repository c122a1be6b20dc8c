"""Softmaxes of some of the scores: the weights of a few, divided by their sum, are the softmax of the few scores.

``top(softmax(z)) / sum`` and ``softmax(top(z))`` are one function. Relevance of the second needs the chosen scores,
which the first never computes: canonicalisation puts them into the graph beside it (nothing reads them but relevance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name, value_of
from lrp_fx.ir.operators import argument, has

aten = torch.ops.aten
#: An epsilon no larger than this only guards a division.
_GUARD = 1e-7


@dataclass(frozen=True)
class Chosen:
    """``scores``: all of them; ``dim``: counted from the right; ``index`` of the few, or ``mask`` that is zero
    (``kept``: or true) at them.
    """

    scores: fx.Node
    dim: int
    index: fx.Node | None = None
    mask: fx.Node | None = None
    hides: bool = False

    def written(self) -> tuple[object, tuple[object, ...]]:
        """The operation and the arguments that give the chosen scores."""
        if self.index is not None:
            return aten.gather.default, (self.scores, self.dim, self.index)
        assert self.mask is not None
        return (
            (aten.masked_fill.Scalar, (self.scores, self.mask, -math.inf))
            if self.hides
            else (aten.where.ScalarOther, (self.mask, self.scores, -math.inf))
        )


def renormalised(node: fx.Node) -> Chosen | None:
    """What the weights were chosen from, for a node that divides chosen weights of a softmax by their sum."""
    name = op_name(node)
    if not has(node, Fact.SCALING) or len(node.args) < 2:
        return None
    for weights, total in ((0, 1),) if name == "aten.div" else ((0, 1), (1, 0)):
        few, denominator = node.args[weights], node.args[total]
        if not isinstance(few, fx.Node) or not isinstance(denominator, fx.Node):
            continue
        dim = _summed_along(denominator, few, inverse=name == "aten.mul")
        found = _chosen(few) if dim is not None else None
        if found is not None and found.dim == dim:
            return found
    return None


def chosen_scores(node: fx.Node) -> fx.Node | None:
    """The node before it that holds the chosen scores of a renormalisation, where canonicalisation has put one."""
    found = renormalised(node)
    if found is None:
        return None
    operation, args = found.written()
    return next((u for u in found.scores.users if u < node and u.target is operation and tuple(u.args) == args), None)


def _summed_along(total: fx.Node, few: fx.Node, *, inverse: bool) -> int | None:
    """The axis (from the right) along which ``total`` sums ``few``, through expansions and guards against zero."""
    while True:
        name, inner = op_name(total), total.args[0] if total.args else None
        small = len(total.args) > 1 and isinstance(total.args[1], (int, float)) and 0 <= total.args[1] <= _GUARD
        if isinstance(inner, fx.Node) and (has(total, Fact.EXPANSION) or (has(total, Fact.GUARD) and small)):
            total = inner
        elif isinstance(inner, fx.Node) and name == "aten.reciprocal" and inverse:
            total, inverse = inner, False
        else:
            break
    adds = name == "aten.sum" or (name == "aten.linalg_vector_norm" and argument(total, "ord") == 1)
    dims = argument(total, "dim") if adds else None
    if (
        inverse
        or inner is not few
        or not isinstance(dims, (list, tuple))
        or len(dims) != 1
        or value_of(total).dim() != value_of(few).dim()
    ):
        return None
    rank = value_of(few).dim()
    return _from_right(dims[0], rank)


def _chosen(few: fx.Node) -> Chosen | None:
    """The softmax that weights were chosen from: by index (top-k, gather), or by a mask that leaves zeros."""
    name = op_name(few)
    if (
        name == "getitem"
        and few.args[1] == 0
        and isinstance(top := few.args[0], fx.Node)
        and op_name(top) == "aten.topk"
    ):
        index = next((u for u in top.users if op_name(u) == "getitem" and u.args[1] == 1), None)
        return _from_softmax(top.args[0], index=index, along=argument(top, "dim")) if index is not None else None
    if name == "aten.gather" and isinstance(picked := few.args[2], fx.Node):
        return _from_softmax(few.args[0], index=picked, along=few.args[1])
    if name == "aten.masked_fill" and few.args[2] == 0:
        return _from_softmax(few.args[0], mask=few.args[1], hides=True)
    if name == "aten.where" and _is_zero(few.args[2]):
        return _from_softmax(few.args[1], mask=few.args[0])
    if name == "aten.mul":
        for weights, indicator in (few.args[:2], few.args[1::-1]):
            if (kept := _indicator(indicator)) is not None:
                return _from_softmax(weights, mask=kept)
    return None


def _from_softmax(
    weights: object, *, index: fx.Node | None = None, mask: object = None, hides: bool = False, along: object = None
) -> Chosen | None:
    if not isinstance(weights, fx.Node) or not has(weights, Fact.SOFTMAX) or not isinstance(weights.args[0], fx.Node):
        return None
    rank = value_of(weights).dim()
    dim = _from_right(argument(weights, "dim"), rank)
    if along is not None and _from_right(along, rank) != dim:
        return None
    return Chosen(weights.args[0], dim, index, mask if isinstance(mask, fx.Node) else None, hides)


def _from_right(dim: object, rank: int) -> int:
    assert isinstance(dim, int)
    return dim % rank - rank


def _is_zero(value: object) -> bool:
    if not isinstance(value, fx.Node):
        return value == 0
    return has(value, Fact.ZEROS) or (has(value, Fact.FILL) and 0 in value.args)


def _indicator(value: object) -> fx.Node | None:
    """The truth values behind an operand that is one or zero."""
    while isinstance(value, fx.Node):
        if not is_float(value) and value_of(value).dtype == torch.bool:
            return value
        if op_name(value) != "aten._to_copy":
            return None
        value = value.args[0]
    return None
