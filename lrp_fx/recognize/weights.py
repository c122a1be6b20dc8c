"""Weights and tables that carry relevance: maps by computed weights, attention of one value, rows of a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import batch_axis
from lrp_fx.ir.operators import has, operator_of
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.dependence import TWO_FACTORS
from lrp_fx.recognize.factors import Factors, product_factors
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal


def computed_weights(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A map whose weights carry relevance is a product; an attention is one unless its queries and keys depend on
    each other.
    """
    is_attention = "attention" in context.kinds(node)[:1]
    if operator_of(node).behind_bias is None and not is_attention:
        return Refusal(f"{op_name(node)} is no map by weights and no attention", Nearness.OPERATION)
    operands = context.operands(node)
    x, weight = node.args[:2]
    if x is weight or not isinstance(x, fx.Node) or not isinstance(weight, fx.Node) or not {x, weight} <= {*operands}:
        what = "queries and keys" if is_attention else "values and weights"
        return Refusal(f"its {what} are not two values that carry relevance", Nearness.OPERANDS)
    factors = Factors(context, node, x, weight, (x, weight), "a map whose weights carry relevance is a product")
    meaning = next(m for ask in TWO_FACTORS if isinstance(m := ask(factors), Meaning))
    if meaning.kind == "tangent":
        return replace(meaning, signals=tuple(operands))
    if is_attention:
        return Refusal("its queries and keys are two factors: an attention", Nearness.CONDITION)
    meaning = replace(meaning, kind="homogeneous", facts={"degrees": ((1.0, 1.0),)})
    layout = context.facts.layout
    axis, own = batch_axis(layout.get(x)), batch_axis(layout.get(weight))
    if op_name(node) != "aten.linear" or axis is None or axis.axis != 0 or axis.is_merged or own is not None:
        return meaning
    return replace(meaning, op=mapped_by_example, args=tuple(node.args))


def mapped_by_example(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map; its weight may have one axis more, with a copy for each example in front."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    y = (x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)) @ weight.mT
    y = y.reshape(*x.shape[:-1], y.shape[-1])
    return y if bias is None else y + bias


# ------------------------------------------------------------------------------------------------ rows of a table
def rows_of_table(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A matrix product with a table, where examples are merged with heads into the rows of the other operand.

    The table's relevance would be contracted over examples, unless each is given a copy of it.
    """
    if not has(node, Fact.PRODUCT):
        return Refusal(f"{op_name(node)} is no plain matrix product", Nearness.OPERATION)
    factors = product_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    facts, nearness = context.facts, Nearness.OPERANDS
    for x, table, columns in ((factors.a, factors.b, False), (factors.b, factors.a, True)):
        axis = batch_axis(facts.layout.get(x))
        if facts.leaf_kind(table) is None or batch_axis(facts.layout.get(table)) is not None:
            continue
        nearness = Nearness.CONDITION
        if (
            axis is not None
            and (axis.outer is not None or axis.inner is not None)
            and axis.axis == value_of(x).dim() - (1 if columns else 2)
        ):
            args = (x, table, axis.outer, axis.inner, columns)
            return Meaning("product", (factors.a, factors.b), factors.why, op=rows_by_example, args=args)
    if nearness is Nearness.OPERANDS:
        return Refusal("neither operand is a table: a value without examples where relevance ends", nearness)
    return Refusal("examples are not merged with other axes into the rows that meet the table", nearness)


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


ROWS_OF_TABLE = Recogniser(
    "rows of a table",
    "a matrix product with a table that all examples share: each is given a copy, to keep their relevance apart",
    ("product",),
    rows_of_table,
    before=("gate",),
)
COMPUTED_WEIGHTS = Recogniser(
    "computed weights",
    "a map whose weights carry relevance: a product; with attention: queries and keys that depend on each other",
    ("homogeneous", "tangent"),
    computed_weights,
    before=("residual sum",),
)
