"""Is one operand of a product a function of the other? Then it is a coefficient, and the product has one factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow, is_broadcast
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has
from lrp_fx.recognize.meaning import Meaning
from lrp_fx.recognize.softmax import written_softmax


class Form(Enum):
    """What one operand is to the other."""

    POINTWISE = "a function of it, element by element"
    STATISTIC = "a broadcast statistic of it"
    OTHER = "a function of it in another way"
    MAPPED = "computed from it through a learned map"
    APART = "no function of it alone"


@dataclass(frozen=True)
class Coefficient:
    """One operand seen as a coefficient of the other, the ``signal``; ``why`` in one phrase.

    ``lacks``: of a function in another way, what it lacks to be a statistic.
    """

    signal: fx.Node
    form: Form
    why: str
    lacks: str = ""

    @property
    def decides(self) -> bool:
        """Is the product one of one factor, then?"""
        return self.form in (Form.POINTWISE, Form.STATISTIC)


def coefficients(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Iterator[Coefficient]:
    """What the operands of ``a * b`` (or ``a / b``) are to each other, every way to look at it; the first that decides
    counts.
    """
    for signal, coefficient in ((a, b),) if op_name(node) == "aten.div" else ((a, b), (b, a)):
        for root in _roots(flow, signal):
            yield _dependence(flow, root, signal, coefficient)
        for factor in _factors(flow, signal):
            if any(
                _dependence(flow, root, factor, coefficient).form is Form.STATISTIC for root in _roots(flow, factor)
            ):
                why = "a broadcast statistic of one factor of the signal is its coefficient"
                yield Coefficient(signal, Form.STATISTIC, why)


def is_one_factor(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> bool:
    """Is ``a * b`` a softmax written out, or are its operands a value and a function of it?"""
    return (
        isinstance(written_softmax(flow, node, a, b), Meaning)
        or any(c.decides for c in coefficients(flow, node, a, b))
        or same_function(flow, a, b)
    )


def same_function(flow: Dataflow, a: fx.Node, b: fx.Node) -> bool:
    """Are both operands pointwise functions of one value, neither a multiple of it?"""
    above = a
    for _ in range(40):
        if flow.dominates(above, b) and above is not a:
            region_a, region_b = flow.region(above, a), flow.region(above, b)
            return region_a is not None and region_b is not None and all(map(flow.is_pointwise, [*region_a, *region_b]))
        operands = flow.operands(above)
        if len(operands) != 1 or flow.is_leaf(above) or not flow.is_pointwise(above):
            return False
        above = operands[0]
    return False


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


def _core(flow: Dataflow, coefficient: fx.Node) -> fx.Node:
    """A coefficient without what scales it, also where that is divided by it (``w / s``: what s is a function of, it
    is)."""
    core = flow.core(coefficient)
    while op_name(core) == "aten.div" and not flow.is_leaf(core) and flow.operands(core) == [core.args[1]]:
        core = flow.core(core.args[1])  # type: ignore[arg-type]
    return core


def _dependence(flow: Dataflow, root: fx.Node, signal: fx.Node, coefficient: fx.Node) -> Coefficient:
    """Is the coefficient a function of the root alone, and of which form?"""
    core = _core(flow, coefficient)
    if not flow.dominates(root, core):
        return Coefficient(signal, Form.APART, f"%{core.name} is no function of %{root.name} alone")
    region = flow.region(root, core)
    if region is None or flow.has_learned_map(region):
        how = "over more than 400 operations" if region is None else "through a learned map"
        return Coefficient(signal, Form.MAPPED, f"%{core.name} is computed from %{root.name} {how}")
    path = flow.region(root, signal) or []
    mixing = next((n for n in [*region, *path] if not flow.is_pointwise(n)), None)
    if mixing is None:
        why = "a pointwise function of the signal is its coefficient (identity rule)"
        return Coefficient(signal, Form.POINTWISE, why)
    reduces = any(has(n, Fact.STATISTIC) for n in region if n not in path)  # what the signal sums is no statistic of it
    if reduces and (is_broadcast(core, signal) or (is_broadcast(core, root) and is_broadcast(signal, root))):
        return Coefficient(signal, Form.STATISTIC, "a broadcast statistic of the signal is its coefficient")
    why = f"%{core.name} is a function of %{root.name} that mixes elements (%{mixing.name})"
    lacks = f"it is not broadcast against %{signal.name}" if reduces else "nothing in it reduces an axis"
    return Coefficient(signal, Form.OTHER, why, lacks)
