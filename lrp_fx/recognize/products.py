"""Products of one factor: what in a product of two operands that carry relevance is a coefficient, and of what form.

Decided by dataflow alone: which operand is signal, which is a function of it, and how. What remains has two factors, or
is reported (`lrp_fx.recognize.dependence`).
"""

from __future__ import annotations

from torch import fx

from lrp_fx.analysis.dataflow import is_broadcast
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has
from lrp_fx.recognize.coefficient import Form, same_function
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.factors import (
    Factors,
    carrying_factors,
    elementwise_factors,
    is_product,
    no_product,
    product_factors,
)
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal, nearest
from lrp_fx.recognize.softmax import written_softmax

_NEARNESS = {
    Form.APART: Nearness.OPERANDS,
    Form.MAPPED: Nearness.PATTERN,
    Form.OTHER: Nearness.CONDITION,
    Form.STATISTIC: Nearness.CONDITION,
    Form.POINTWISE: Nearness.CONDITION,
}


# ------------------------------------------------------------------------------------------------ fewer than two
def coefficient(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A product in which one operand carries relevance."""
    if not is_product(context, node):
        return no_product(node)
    if len(carrying_factors(context, node)) == 2:
        return Refusal("both of its factors carry relevance", Nearness.OPERANDS)
    return Meaning("linear", tuple(context.operands(node)), "the other operand is a coefficient")


def denominator(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A quotient whose denominator alone carries relevance."""
    if op_name(node) != "aten.div" or not is_product(context, node):
        return Refusal(f"{op_name(node)} is no division", Nearness.OPERATION)
    operands = context.operands(node)
    if node.args[1] not in operands or len(carrying_factors(context, node)) == 2:
        return Refusal("its denominator is not all that carries relevance", Nearness.OPERANDS)
    return Meaning("product", tuple(operands), "relevance is in the denominator")


# ------------------------------------------------------------------------------------------------ one factor of two
def chain(context: Context, node: fx.Node) -> Meaning | Refusal:
    """``(u * g) * f(g)``: f(g) is a coefficient, in whatever order the chain is multiplied."""
    factors = product_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    free = [a for a in (factors.a, factors.b) if (node, a) not in context.chains.frozen]
    if len(free) != 1:
        return Refusal("no factor is a pointwise function of another factor of its chain", Nearness.PATTERN)
    why = "the other operand is a pointwise function of a factor of the same chain"
    return Meaning("elementwise", tuple(free), why)


def position_factor(context: Context, node: fx.Node) -> Meaning | Refusal:
    """Content that a position has multiplied, times another position: the first has taken the half of both."""
    factors = elementwise_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    a, b = factors.a, factors.b
    for value, position in ((a, b),) if factors.is_quotient else ((a, b), (b, a)):
        if value in context.rotated and position not in context.rotated and context.facts.is_position_only(position):
            why = "position factors of one product are one: the first has taken their half"
            return Meaning("linear", (value,), why)
    rotated = [n for n in (a, b) if n in context.rotated]
    if not rotated:
        return Refusal("no operand is a product of content and position", Nearness.PATTERN)
    return Refusal(f"%{rotated[0].name} has met a position, but the other operand is none", Nearness.CONDITION)


def softmax(context: Context, node: fx.Node) -> Meaning | Refusal:
    """An exponential over its own sum."""
    factors = elementwise_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    return written_softmax(context.flow, node, factors.a, factors.b)


def pointwise(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A value times a function of it, element by element."""
    factors = elementwise_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    seen = factors.coefficient
    if seen is not None and seen.form is Form.POINTWISE:
        return Meaning("elementwise", (seen.signal,), seen.why)
    return nearest(Refusal(seen.why, _NEARNESS[seen.form]) for seen in factors.tried)


def same_value(context: Context, node: fx.Node) -> Meaning | Refusal:
    """Both operands pointwise functions of one value, neither a multiple of it: one factor, carried by the first."""
    factors = elementwise_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    if same_function(context.flow, factors.a, factors.b):
        return Meaning("elementwise", (factors.a,), "both operands are pointwise functions of one value")
    return Refusal("its operands are not both pointwise functions of one value", Nearness.PATTERN)


def normalisation(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A value times a broadcast statistic of it, or of the value that it is a function of."""
    factors = elementwise_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    seen = factors.coefficient
    if seen is None and factors.apart is not None:
        return _no_statistic(factors)
    of_softmax = factors.apart is None and factors.mixes
    if seen is not None and not of_softmax:
        return Meaning("normalise", (seen.signal,), seen.why)
    if of_softmax and not factors.is_quotient:
        return Refusal("a softmax is on the way: its weights times values are two factors", Nearness.CONDITION)
    return _statistic_of_common(factors)


def _statistic_of_common(factors: Factors) -> Meaning | Refusal:
    """A function of the common value times a broadcast statistic of it: ``relu(x) / rms(x)``."""
    flow, common, a, b = factors.flow, factors.common, factors.a, factors.b
    for signal, statistic in ((a, b),) if factors.is_quotient else ((a, b), (b, a)):
        region = flow.region(common, statistic) or []
        reduces = any(has(n, Fact.STATISTIC) for n in region)
        if reduces and is_broadcast(flow.core(statistic), signal) and common is not signal:
            why = "a broadcast statistic of the value that the signal is a function of"
            return Meaning("normalise", (signal,), why)
        if (
            reduces
            and factors.is_quotient
            and _is_extent(factors, signal)
            and is_broadcast(flow.core(statistic), common)
        ):
            why = "a statistic over the scale of the same value (a zero point)"
            return Meaning("normalise", (signal,), why)
    return _no_statistic(factors)


def _is_extent(factors: Factors, value: fx.Node) -> bool:
    """Is it a smallest, largest or mean element of the common value, moved, negated or bounded?"""
    region = factors.flow.region(factors.common, value) or []
    keeps = Fact.STATISTIC | Fact.MOVE | Fact.SIGN | Fact.GUARD | Fact.SELECTION
    reduces = any(has(n, Fact.STATISTIC) and not has(n, Fact.CONTRACTION) for n in region)
    bounded = ("aten.minimum", "aten.maximum")
    return reduces and all(
        (has(n, keeps) or op_name(n) in bounded) and len(factors.flow.operands(n)) == 1 for n in region
    )


def _no_statistic(factors: Factors) -> Refusal:
    """What is nearest to a statistic of the other operand, and what it lacks."""
    whys = [(f"{seen.why}, but {seen.lacks}" if seen.lacks else seen.why, seen.form) for seen in factors.tried]
    return nearest(Refusal(why, _NEARNESS[form]) for why, form in whys)


CHAIN = Recogniser(
    "chain",
    "(u * g) * f(g): in a chain of products a pointwise function of another factor is a coefficient",
    ("elementwise",),
    chain,
    before=("position factor",),
)
POSITION_FACTOR = Recogniser(
    "position factor",
    "position times what a position has multiplied already: position factors of one product are one",
    ("linear",),
    position_factor,
    before=("softmax written out",),
)
SOFTMAX = Recogniser(
    "softmax written out",
    "exp(z) / sum(exp(z)), with or without a term beside the sum: a softmax of z",
    ("softmax",),
    softmax,
    before=("pointwise coefficient",),
)
POINTWISE = Recogniser(
    "pointwise coefficient",
    "x * f(x) element by element: one factor, f(x) is its coefficient",
    ("elementwise",),
    pointwise,
    before=("normalisation",),
)
NORMALISATION = Recogniser(
    "normalisation",
    "x times a broadcast statistic of x: the statistic is frozen",
    ("normalise",),
    normalisation,
    before=("functions of one value",),
)
SAME_VALUE = Recogniser(
    "functions of one value",
    "f(x) * g(x) element by element: one factor, carried by the first",
    ("elementwise",),
    same_value,
    before=("rows of a table",),
)
DENOMINATOR = Recogniser(
    "denominator",
    "a / b where b alone carries relevance: homogeneous of degree -1",
    ("product",),
    denominator,
    before=("coefficient",),
)
COEFFICIENT = Recogniser(
    "coefficient",
    "a product in which one operand carries relevance: linear in it",
    ("linear",),
    coefficient,
    before=("computed weights",),
)
