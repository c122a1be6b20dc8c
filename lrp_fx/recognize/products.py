"""What a product of two operands is: coefficient, pointwise, normalisation, softmax, or bilinear.

Decided by dataflow alone: which operand is signal, which is a function of it, and how.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.dataflow import Dataflow, is_broadcast
from lrp_fx.analysis.provenance import Facts
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import batch_axis
from lrp_fx.ir.operators import has, is_matrix_product
from lrp_fx.recognize.meaning import Meaning
from lrp_fx.recognize.softmax import as_softmax

aten = torch.ops.aten


def product_meaning(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning:
    """Classify ``a * b`` (or ``a / b``) where both operands carry relevance."""
    if is_matrix_product(node):
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
            if any(
                isinstance(m := _dependence(flow, root, factor, coefficient), Meaning) and m.kind == "normalise"
                for root in _roots(flow, factor)
            ):
                return Meaning(
                    "normalise", (signal,), "a broadcast statistic of one factor of the signal is its coefficient"
                )
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
        if (
            axis is None
            or (axis.outer is None and axis.inner is None)
            or facts.leaf_kind(table) is None
            or batch_axis(facts.layout.get(table)) is not None
        ):
            continue
        if axis.axis == value_of(x).dim() - (1 if columns else 2):
            return Meaning("product", (a, b), why, op=rows_by_example, args=(x, table, axis.outer, axis.inner, columns))
    return Meaning("product", (a, b), why)


def rows_by_example(x: Tensor, table: Tensor, outer: int | None, inner: int | None, columns: bool) -> Tensor:
    """``x @ table``, or ``table @ x`` where examples are merged into the columns of x.

    A table with one axis more than x has a copy for each example in front; the rows of x are ``outer * examples *
    inner``.
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
    averaged = roots[-1].args[0] if has(roots[-1], Fact.AVERAGE) and not flow.is_leaf(roots[-1]) else None
    return [*roots, *flow.roots(averaged)] if isinstance(averaged, fx.Node) else roots


def _factors(flow: Dataflow, signal: fx.Node) -> list[fx.Node]:
    """The factors of a product of two carrying operands, none for other values."""
    return (
        flow.operands(signal)
        if op_name(signal) == "aten.mul" and not flow.is_leaf(signal) and len(flow.operands(signal)) == 2
        else []
    )


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
        return Meaning(
            "elementwise", (signal,), "a pointwise function of the signal is its coefficient (identity rule)"
        )
    if any(has(n, Fact.STATISTIC) for n in region) and (
        is_broadcast(core, signal) or (is_broadcast(core, root) and is_broadcast(signal, root))
    ):
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
