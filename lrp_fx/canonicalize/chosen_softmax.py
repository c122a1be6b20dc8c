"""Softmaxes of some of the scores: the weights of a few, divided by their sum, are the softmax of the few scores.

``top(softmax(z)) / sum`` and ``softmax(top(z))`` are one function. Relevance of the second needs the chosen scores,
which the first never computes: canonicalisation puts them into the graph beside it (nothing reads them but relevance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from lrp_fx.ir.examples import depends_on_values, example
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import call_like, is_tensor, op_name, value_of
from lrp_fx.ir.operators import argument, has, operand_of
from lrp_fx.ir.program import MASK_ROLE, Program

aten = torch.ops.aten
ROLE = "role"
#: An epsilon no larger than this only guards a division.
GUARD = 1e-7


@dataclass(frozen=True)
class Chosen:
    """``scores``: all of them; ``dim``: counted from the right; ``index`` of the few, or ``mask`` that is true at them
    (``hides``: at the others; ``counts``: whole numbers that weights are multiplied by).
    """

    scores: fx.Node
    dim: int
    index: fx.Node | None = None
    mask: fx.Node | None = None
    hides: bool = False
    counts: bool = False

    def write(self, graph: fx.Graph, node: fx.Node) -> None:
        """The chosen scores, beside the node."""
        operation, args = self.written()
        if self.counts:
            assert self.mask is not None
            dtype = value_of(self.scores).dtype
            numbers = call_like(graph, node, aten._to_copy.default, self.mask, dtype=dtype)
            args = (self.scores, call_like(graph, node, aten.log.default, numbers))
        call_like(graph, node, operation, *args)

    def is_written_by(self, user: fx.Node) -> bool:
        """Does a user of the scores hold the chosen ones?"""
        operation, args = self.written()
        if user.target is not operation:
            return False
        if not self.counts:
            return tuple(user.args) == args
        log = user.args[1]
        return isinstance(log, fx.Node) and op_name(log) == "aten.log" and operand_of(log).args[0] is self.mask

    def written(self) -> tuple[object, tuple[object, ...]]:
        """The operation and the arguments that give the chosen scores."""
        if self.index is not None:
            return aten.gather.default, (self.scores, self.dim, self.index)
        assert self.mask is not None
        if self.counts:
            return aten.add.Tensor, (self.scores, self.mask)
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


def divides_by_own_sum(node: fx.Node, few: fx.Node, dim: int) -> bool:
    """Is an operand of the node divided by its sum along an axis?"""
    others = [a for a in node.args if isinstance(a, fx.Node) and a is not few]
    if len(others) != 1 or not has(node, Fact.SCALING):
        return False
    along = _summed_along(others[0], few, inverse=op_name(node) == "aten.mul")
    return along == _from_right(dim, value_of(few).dim())


def chosen_scores(node: fx.Node) -> fx.Node | None:
    """The node before it that holds the chosen scores of a renormalisation, where canonicalisation has put one."""
    found = renormalised(node)
    if found is None:
        return None
    return next((u for u in found.scores.users if u < node and found.is_written_by(u)), None)


def _summed_along(total: fx.Node, few: fx.Node, *, inverse: bool) -> int | None:
    """The axis (from the right) along which ``total`` sums ``few``, through expansions and guards against zero."""
    while True:
        name, inner = op_name(total), total.args[0] if total.args else None
        small = len(total.args) > 1 and isinstance(total.args[1], (int, float)) and 0 <= total.args[1] <= GUARD
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
    if name == "aten.where" and is_zero(few.args[2]):
        return _from_softmax(few.args[1], mask=few.args[0])
    if name == "aten.where" and is_zero(few.args[1]):
        return _from_softmax(few.args[2], mask=few.args[0], hides=True)
    if name == "aten.mul":
        for weights, factor in (few.args[:2], few.args[1::-1]):
            if (kept := indicator(factor)) is not None:
                return _from_softmax(weights, mask=kept)
            if has_softmax(weights) and (numbers := counts(factor)) is not None:
                return _from_softmax(weights, mask=numbers, counts=True)
    return None


def _from_softmax(
    weights: object,
    *,
    index: fx.Node | None = None,
    mask: object = None,
    hides: bool = False,
    counts: bool = False,
    along: object = None,
) -> Chosen | None:
    if not isinstance(weights, fx.Node) or not has_softmax(weights) or not isinstance(weights.args[0], fx.Node):
        return None
    rank = value_of(weights).dim()
    dim = _from_right(argument(weights, "dim"), rank)
    if along is not None and _from_right(along, rank) != dim:
        return None
    return Chosen(weights.args[0], dim, index, mask if isinstance(mask, fx.Node) else None, hides, counts)


def has_softmax(weights: object) -> bool:
    return isinstance(weights, fx.Node) and has(weights, Fact.SOFTMAX)


def _from_right(dim: object, rank: int) -> int:
    assert isinstance(dim, int)
    return dim % rank - rank


def is_zero(value: object) -> bool:
    if not isinstance(value, fx.Node):
        return value == 0
    return has(value, Fact.ZEROS) or (has(value, Fact.FILL) and 0 in value.args)


def indicator(value: object) -> fx.Node | None:
    """The truth values behind an operand that is one or zero."""
    while isinstance(value, fx.Node):
        if is_tensor(value) and value_of(value).dtype == torch.bool:
            return value
        if op_name(value) != "aten._to_copy":
            return None
        value = value.args[0]
    return None


def counts(value: object) -> fx.Node | None:
    """An operand that is a mask of numbers, or a product of some, as it is laid out."""
    return value if isinstance(value, fx.Node) and _is_mask(value) else None


def _is_mask(node: fx.Node) -> bool:
    """Is it made of masks alone, so that nothing in it is negative?"""
    if not is_tensor(node):
        return False
    if value_of(node).dtype == torch.bool or node.meta.get(ROLE) == MASK_ROLE:
        return True
    if has(node, Fact.MOVE | Fact.SELECTION):
        return _is_mask(operand_of(node))
    if not depends_on_values(node):
        numbers = None if node.meta.get("origin") == "parameter" else example(node, {})
        return isinstance(numbers, torch.Tensor) and bool(((numbers == 0) | (numbers == 1)).all())
    factors = node.args if op_name(node) == "aten.mul" else ()
    return len(factors) == 2 and all(isinstance(f, fx.Node) and _is_mask(f) for f in factors)


def note_roles(program: Program) -> None:
    """What every input is for, beside its node."""
    for given, node in zip(program.inputs, program.input_nodes().values(), strict=True):
        node.meta[ROLE] = given.role
