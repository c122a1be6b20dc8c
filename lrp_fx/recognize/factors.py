"""The two factors of a product, and what they are to each other: one value behind both, or two that vary apart."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import argument, axis_of, factors_of, has
from lrp_fx.ir.sizes import shape_of
from lrp_fx.recognize.coefficient import Coefficient, coefficients
from lrp_fx.recognize.context import Context
from lrp_fx.recognize.meaning import Nearness, Refusal

_MIXTURES = frozenset("softmax attention".split())


@dataclass(frozen=True, eq=False)
class Factors:
    """Two operands of a product that both carry relevance.

    ``signals``: the operands through which relevance flows if they are two factors (with a term beside the product).
    ``why``: the phrase for the report in that case. What they are to each other is found out when it is asked.
    """

    context: Context
    node: fx.Node
    a: fx.Node
    b: fx.Node
    signals: tuple[fx.Node, ...]
    why: str

    @property
    def flow(self) -> Dataflow:
        return self.context.flow

    @property
    def is_elementwise(self) -> bool:
        return has(self.node, Fact.SCALING)

    @property
    def is_quotient(self) -> bool:
        return op_name(self.node) == "aten.div"

    @cached_property
    def tried(self) -> list[Coefficient]:
        """The ways to see one factor as a coefficient of the other, up to the first that decides."""
        found: list[Coefficient] = []
        for seen in coefficients(self.flow, self.node, self.a, self.b) if self.is_elementwise else ():
            found.append(seen)
            if seen.decides:
                break
        return found

    @property
    def coefficient(self) -> Coefficient | None:
        """The first way that decides, if there is one."""
        return self.tried[-1] if self.tried and self.tried[-1].decides else None

    @cached_property
    def apart(self) -> str | None:
        """Why the factors can vary apart; None where both are functions of `common`, and no learned map after it."""
        common = self.flow.common(self.a, self.b)
        if common is None:
            return f"%{self.a.name} and %{self.b.name} are functions of no one value"
        for factor in (self.a, self.b):
            if self.flow.passes_learned_map(common, factor):
                return f"a learned map stands between %{common.name} and %{factor.name}"
        if _of_other_parts(common, *self.paths):
            return f"the factors are functions of parts of %{common.name} that share no element"
        return None

    @cached_property
    def common(self) -> fx.Node:
        """The nearest value that all paths to both factors pass (asked only where there is one)."""
        common = self.flow.common(self.a, self.b)
        assert common is not None
        return common

    @cached_property
    def paths(self) -> tuple[list[tuple[fx.Node, str]], list[tuple[fx.Node, str]]]:
        """Nodes that relevance passes on its way from each factor to the common value, with their kinds."""
        return _relevance_path(self.context, self.common, self.a), _relevance_path(self.context, self.common, self.b)

    @cached_property
    def mixes(self) -> bool:
        """Is a softmax on the way from a factor to the common value?"""
        return any(kind in _MIXTURES for path in self.paths for _, kind in path)


def product_factors(context: Context, node: fx.Node) -> Factors | Refusal:
    """The factors of a product, where two of them carry relevance."""
    found: Factors | Refusal | None = context.memo.get(("factors", node))
    if found is None:
        found = context.memo["factors", node] = _product_factors(context, node)
    return found


def elementwise_factors(context: Context, node: fx.Node) -> Factors | Refusal:
    """The factors of a product of single elements."""
    factors = product_factors(context, node)
    if isinstance(factors, Factors) and not factors.is_elementwise:
        return Refusal(f"{op_name(node)} is no product or quotient element by element", Nearness.OPERATION)
    return factors


def is_product(context: Context, node: fx.Node) -> bool:
    """Does some rule list the operation as a product?"""
    return "product" in context.kinds(node)


def carrying_factors(context: Context, node: fx.Node) -> list[fx.Node]:
    """The factors of a product through which relevance can flow (a value times itself is two)."""
    operands = context.operands(node)
    return [a for a in factors_of(node) if isinstance(a, fx.Node) and a in operands]


def no_product(node: fx.Node) -> Refusal:
    return Refusal(f"no rule lists {op_name(node)} as a product", Nearness.OPERATION)


def _product_factors(context: Context, node: fx.Node) -> Factors | Refusal:
    if not is_product(context, node):
        return no_product(node)
    factors = carrying_factors(context, node)
    if len(factors) != 2:
        return Refusal("only one of its factors carries relevance", Nearness.OPERANDS)
    a, b = factors
    if has(node, Fact.SCALING):
        return Factors(context, node, a, b, (a, b), "independent operands")
    why = "matrix product of two operands that carry relevance"
    return Factors(context, node, a, b, tuple(context.operands(node)), why)  # with the term beside the product


# ------------------------------------------------------------------------------------------------ the way of relevance
def _relevance_path(context: Context, top: fx.Node, bottom: fx.Node) -> list[tuple[fx.Node, str]]:
    """Nodes that relevance passes on its way from ``bottom`` to ``top`` (excluded), with their kinds; frozen statistics
    are none.
    """
    found: list[tuple[fx.Node, str]] = []
    stack, seen = [bottom], {top}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        served = context.served.get(node)
        found.append((node, served.kind if served is not None else "leaf"))
        stack.extend(served.operands if served is not None else ())
    return found


def _of_other_parts(common: fx.Node, a: Sequence[tuple[fx.Node, str]], b: Sequence[tuple[fx.Node, str]]) -> bool:
    """Does relevance of the factors go to parts of the common value that share no element (the halves of a fused
    projection)?
    """
    first, second = _parts(common, a), _parts(common, b)
    return bool(first) and bool(second) and not any(_overlap(x, y) for x in first for y in second)


def _parts(common: fx.Node, path: Sequence[tuple[fx.Node, str]]) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of every part of the common value on a path; empty if the whole is on it."""
    found = [_part(common, n) for n, _ in path if common in n.all_input_nodes]
    return [p for p in found if p is not None] if all(found) else []


def _part(common: fx.Node, node: fx.Node) -> tuple[int, int, int, int] | None:
    """The part of a value that a slice, a selection or one result of a split takes."""
    if node.target is operator.getitem and isinstance(node.args[1], int):
        return (0, node.args[1], node.args[1] + 1, 1)
    sizes = shape_of(common)
    if sizes and (taken := element_taken(node)) is not None:
        _, axis, number = taken
        return (axis, number % sizes[axis], number % sizes[axis] + 1, 1)
    if op_name(node) != "aten.slice" or not sizes:
        return None
    axis = axis_of(node, len(sizes))
    bounds: list[Any] = [argument(node, name) for name in ("start", "end", "step")]
    if any(a is not None and not isinstance(a, int) for a in bounds):
        return None
    return (axis, *slice(*bounds).indices(sizes[axis]))


def _overlap(x: tuple[int, int, int, int], y: tuple[int, int, int, int]) -> bool:
    return x[0] != y[0] or bool(set(range(*x[1:])) & set(range(*y[1:])))
