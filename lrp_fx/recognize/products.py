"""What a product of two operands is: coefficient, pointwise, normalisation, softmax, or bilinear.

Decided by dataflow alone: which operand is signal, which is a function of it, and how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.layout import batch_axis
from lrp_fx.program import op_name, value_of
from lrp_fx.provenance import Facts
from lrp_fx.recognize.dataflow import MATRIX, REDUCTIONS, Dataflow, is_broadcast, same_size_along

aten = torch.ops.aten


@dataclass(frozen=True)
class Meaning:
    """The role of an operation on a relevance path.

    ``kind``      the structural role (one of `lrp_fx.rule.KINDS`) that a rule must serve.
    ``signals``   operands through which relevance flows.
    ``op``/``args``  the operation that the rule sees in place of the node's own, if any.
    ``facts``     what was found out about the operation, for the rule.
    ``why``       one phrase for the report.
    """

    kind: str
    signals: tuple[fx.Node, ...]
    why: str
    op: object = None
    args: tuple[object, ...] | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


def product_meaning(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning:
    """Classify ``a * b`` (or ``a / b``) where both operands carry relevance."""
    if op_name(node) in MATRIX:
        return Meaning("product", (a, b), "matrix product of two operands that carry relevance")
    softmax = as_softmax(flow, node, a, b)
    if softmax is not None:
        return softmax
    is_division = op_name(node) == "aten.div"
    refusals = []
    for signal, coefficient in ((a, b),) if is_division else ((a, b), (b, a)):
        for root in _roots(flow, signal):
            found = _dependence(flow, root, signal, coefficient)
            if isinstance(found, Meaning):
                return found
            refusals.append(found)
        for factor in _factors(flow, signal):
            if any(isinstance(m := _dependence(flow, root, factor, coefficient), Meaning) and m.kind == "normalise" for root in _roots(flow, factor)):
                return Meaning("normalise", (signal,), "a broadcast statistic of one factor of the signal is its coefficient")
    joint = _same_function(flow, node, a, b)
    if joint is not None:
        return joint
    if "dependent" in refusals:
        return Meaning("tangent", (a, b), "operands depend on each other, neither pointwise nor as a normalisation")
    return Meaning("product", (a, b), "independent operands")


# ------------------------------------------------------------------------------------------------ matrix products
def matrix_meaning(facts: Facts, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning:
    """A matrix product of two operands that carry relevance.

    Rows of a table often meet examples that are merged with heads into the rows of one matrix. The table's relevance is
    then contracted over examples, unless each is given a copy of it.
    """
    why = "matrix product of two operands that carry relevance"
    for x, table, columns in ((a, b, False), (b, a, True)):
        axis = batch_axis(facts.layout.get(x))
        if axis is None or (axis.outer is None and axis.inner is None) or facts.leaf_kind(table) is None or batch_axis(facts.layout.get(table)) is not None:
            continue
        if axis.axis == value_of(x).dim() - (1 if columns else 2):
            return Meaning("product", (a, b), why, op=rows_by_example, args=(x, table, axis.outer, axis.inner, columns))
    return Meaning("product", (a, b), why)


def rows_by_example(x: Tensor, table: Tensor, outer: int | None, inner: int | None, columns: bool) -> Tensor:
    """``x @ table``, or ``table @ x`` where examples are merged into the columns of x.

    A table with one axis more than x has a copy for each example in front; the rows of x are ``outer * examples * inner``.
    """
    if columns:
        return rows_by_example(x.mT, table.mT, outer, inner, False).mT
    if table.dim() <= x.dim():
        return x @ table
    sizes: tuple[Any, Any, Any] = (-1, table.shape[0], inner) if outer is None else (outer, table.shape[0], -1)
    rows = x.reshape(*x.shape[:-2], *sizes, x.shape[-1]).movedim(-3, 0)
    y = rows.flatten(-3, -2) @ table
    return y.reshape(*y.shape[:-2], rows.shape[-3], rows.shape[-2], y.shape[-1]).movedim(0, -3).flatten(-4, -2)


def _roots(flow: Dataflow, signal: fx.Node) -> list[fx.Node]:
    """The values a signal is a copy of; behind a mean or sum, which is linear, those that are averaged."""
    roots = flow.roots(signal)
    averaged = roots[-1].args[0] if op_name(roots[-1]) in ("aten.mean", "aten.sum") and not flow.is_leaf(roots[-1]) else None
    return [*roots, *flow.roots(averaged)] if isinstance(averaged, fx.Node) else roots


def _factors(flow: Dataflow, signal: fx.Node) -> list[fx.Node]:
    """The factors of a product of two carrying operands, none for other values."""
    return flow.operands(signal) if op_name(signal) == "aten.mul" and not flow.is_leaf(signal) and len(flow.operands(signal)) == 2 else []


def _dependence(flow: Dataflow, root: fx.Node, signal: fx.Node, coefficient: fx.Node) -> Meaning | str:
    """Is the coefficient a function of the root alone, and of which form?"""
    core = flow.core(coefficient)
    if not flow.dominates(root, core):
        return "independent"
    region = flow.region(root, core)
    if region is None or flow.has_learned_map(region):
        return "independent"
    path = flow.region(root, signal) or []
    if all(flow.is_pointwise(n) for n in [*region, *path]):
        return Meaning("elementwise", (signal,), "a pointwise function of the signal is its coefficient (identity rule)")
    if any(op_name(n) in REDUCTIONS for n in region) and (is_broadcast(core, signal) or (is_broadcast(core, root) and is_broadcast(signal, root))):
        return Meaning("normalise", (signal,), "a broadcast statistic of the signal is its coefficient")
    return "dependent"


def _same_function(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning | None:
    """Both operands pointwise functions of one value, neither a multiple of it: one factor, carried by the first."""
    above = a
    for _ in range(40):
        if flow.dominates(above, b) and above is not a:
            region_a, region_b = flow.region(above, a), flow.region(above, b)
            if region_a is not None and region_b is not None and all(flow.is_pointwise(n) for n in region_a + region_b):
                return Meaning("elementwise", (a,), "both operands are pointwise functions of one value")
            return None
        operands = flow.operands(above)
        if len(operands) != 1 or flow.is_leaf(above) or not flow.is_pointwise(above):
            return None
        above = operands[0]
    return None


# ------------------------------------------------------------------------------------------------ chains of products
@dataclass(frozen=True)
class ChainRoles:
    """What the factors of product chains are.

    ``frozen``: (product, operand) pairs in which the operand is a pointwise function of another factor of its chain.
    ``activated``: (product, operand) pairs in which the operand is that other factor, so that both together are an
    activated branch. ``apart``: products that hold such a function, but not the factor it is a function of.
    """

    frozen: frozenset[tuple[fx.Node, fx.Node]]
    activated: frozenset[tuple[fx.Node, fx.Node]]
    apart: frozenset[fx.Node]


def chain_roles(graph: fx.Graph, flow: Dataflow) -> ChainRoles:
    """``(u * g) * f(g)`` has two factors, u and ``g f(g)``, in whatever order it is multiplied: f(g) is a coefficient."""
    frozen: set[tuple[fx.Node, fx.Node]] = set()
    activated: set[tuple[fx.Node, fx.Node]] = set()
    apart: set[fx.Node] = set()
    for top in graph.nodes:
        if not _is_link(flow, top) or (len(top.users) == 1 and _is_link(flow, next(iter(top.users)))):
            continue
        places = _places(flow, top)
        factors = [f for _, f in places]
        if len(factors) < 3:
            continue
        sources = {f: _function_of_another(f, factors) for f in factors}
        frozen |= {(product, f) for product, f in places if sources[f] is not None}
        activated |= {(product, f) for product, f in places if f in sources.values()}
        apart |= {product for product, f in places if sources[f] is not None and sources[f] not in {g for _, g in _places(flow, product)}}
    return ChainRoles(frozenset(frozen), frozenset(activated), frozenset(apart))


def _is_link(flow: Dataflow, node: fx.Node) -> bool:
    return op_name(node) == "aten.mul" and len(flow.operands(node)) == 2


def _places(flow: Dataflow, product: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """(product, factor) for every factor of the chain that ends in ``product``; inner links have no other user."""
    found = []
    for operand in flow.operands(product):
        inner = _is_link(flow, operand) and len(operand.users) == 1
        found += _places(flow, operand) if inner else [(product, operand)]
    return found


def _function_of_another(factor: fx.Node, factors: list[fx.Node]) -> fx.Node | None:
    """The other factor that ``factor`` is a function of, element by element, through operations of one tensor."""
    others = {f for f in factors if f is not factor}
    node = factor
    for _ in range(12):
        inputs = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.Tensor)]
        if len(inputs) != 1 or not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.pointwise not in node.target.tags:
            return None
        node = inputs[0]
        if node in others:
            return node
    return None


# ------------------------------------------------------------------------------------------------ softmax, decomposed
def as_softmax(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning | None:
    """``exp(z) / sum(exp(z))`` in any spelling: one softmax of z, with shifts constant along the axis taken off.

    A term beside the sum that is no function of z (``1 +``, or the exponential of a learned sink) is one more score.
    """
    for numerator, statistic in ((a, b),) if op_name(node) == "aten.div" else ((a, b), (b, a)):
        total, inverted = statistic, op_name(node) == "aten.div"
        while (inner := _through(flow, total)) is not None:
            inverted ^= op_name(total) == "aten.reciprocal"
            total = inner
        if not inverted or op_name(numerator) != "aten.exp":
            continue
        total, sink = _beside(flow, numerator, total)
        if op_name(total) != "aten.sum" or total.args[0] is not numerator:
            continue
        dims = total.args[1] if len(total.args) > 1 else None
        if isinstance(dims, (list, tuple)) and len(dims) == 1 and same_size_along(statistic, dim := _from_right(dims[0], numerator)):
            return _softmax_of(flow, numerator.args[0], dim, f"exp over its own sum{sink}")
    return None


def _beside(flow: Dataflow, numerator: fx.Node, total: fx.Node) -> tuple[fx.Node, str]:
    """The sum in ``sum(exp(z - m)) + exp(s - m)``, and what to say of the other term."""
    if op_name(total) != "aten.add" or total.kwargs:
        return total, ""
    for i, j in ((0, 1), (1, 0)):
        found, term = total.args[i], total.args[j]
        if isinstance(found, fx.Node) and op_name(found) == "aten.sum" and (not isinstance(term, fx.Node) or _is_sink(flow, numerator, term)):
            return found, ", with a sink"
    return total, ""


def _is_sink(flow: Dataflow, numerator: fx.Node, term: fx.Node) -> bool:
    """Is a term no function of the scores, but for the shift that is taken off them?"""
    if not flow.carries(term):
        return True
    shifted = numerator.args[0]
    shift = flow.core(shifted.args[1]) if isinstance(shifted, fx.Node) and op_name(shifted) == "aten.sub" and isinstance(shifted.args[1], fx.Node) else None
    exponent = term.args[0] if op_name(term) == "aten.exp" else None
    if shift is None or not isinstance(exponent, fx.Node):
        return False
    less = exponent.args[1] if op_name(exponent) == "aten.sub" and not flow.carries(exponent.args[0]) else exponent.args[0] if op_name(exponent) == "aten.neg" else None  # type: ignore[arg-type]
    return isinstance(less, fx.Node) and flow.core(less) is shift


def _through(flow: Dataflow, node: fx.Node) -> fx.Node | None:
    """The operand of an expansion, a reciprocal, a new axis or a multiplication by one."""
    is_one = op_name(node) == "aten.mul" and any(isinstance(a, (int, float)) and a == 1 for a in node.args[:2])
    if is_one or op_name(node) in ("aten.expand", "aten.expand_as", "aten.reciprocal", "aten.unsqueeze"):
        return next((a for a in node.all_input_nodes if flow.carries(a)), None)
    return None


def exp_meaning(flow: Dataflow, node: fx.Node) -> Meaning | None:
    """``exp(z - logsumexp(z))`` and ``exp(log_softmax(z))`` are softmaxes."""
    z = node.args[0]
    if not isinstance(z, fx.Node):
        return None
    if op_name(z) in ("aten.log_softmax", "aten._log_softmax"):
        return _softmax_of(flow, z.args[0], _from_right(z.args[1], z), "exp of a log-softmax")
    if op_name(z) == "aten.sub" and isinstance(z.args[1], fx.Node) and op_name(flow.core(z.args[1])) == "aten.logsumexp":
        normaliser = flow.core(z.args[1])
        dims = normaliser.args[1]
        if normaliser.args[0] is z.args[0] and isinstance(dims, (list, tuple)) and len(dims) == 1:
            return _softmax_of(flow, z.args[0], _from_right(dims[0], z), "exp of a value less its logsumexp")
    if op_name(z) == "aten.sub" and isinstance(z.args[1], fx.Node) and op_name(log := flow.core(z.args[1])) == "aten.log":
        total = log.args[0]
        if isinstance(total, fx.Node) and op_name(total) == "aten.sum" and len(total.args) > 1:
            e, dims = total.args[0], total.args[1]
            if isinstance(e, fx.Node) and op_name(e) == "aten.exp" and e.args[0] is z.args[0] and isinstance(dims, (list, tuple)) and len(dims) == 1:
                return _softmax_of(flow, z.args[0], _from_right(dims[0], z), "exp of a value less the logarithm of its sum of exponentials")
    return None


def _from_right(dim: object, node: fx.Node) -> int:
    rank: int = node.meta["val"].dim()
    assert isinstance(dim, int)
    return dim % rank - rank


def _softmax_of(flow: Dataflow, z: object, dim: int, why: str) -> Meaning | None:
    assert isinstance(z, fx.Node)
    while op_name(z) == "aten.sub" and isinstance(z.args[1], fx.Node) and same_size_along(z.args[1], dim) and isinstance(z.args[0], fx.Node) and flow.carries(z.args[0]):
        z = z.args[0]
    return Meaning("softmax", (z,), why, aten.softmax.int, (z, dim), {"written_out": True})
