"""Products of two factors, and those that are reported.

``x @ x^T``, ``softmax(x) * x`` and ``x * f(x)`` have operands that cannot vary apart: they are functions of one value,
without a learned map in between. Three sorts of them are two factors all the same, the rest is reported:

* multilinear: both operands are linear, or of some degree homogeneous, in the common value. The product is a form of
  that value, and equal shares are what Euler's theorem gives;
* weights of a softmax: an attention without learned maps is an attention, as the fused kernel computes it;
* row products of pointwise functions: written out they are a pointwise function and a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import shape_of
from lrp_fx.recognize.coefficient import Form
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.factors import Factors, product_factors
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal

_LINEAR = frozenset("move linear sum residual route normalise product homogeneous".split())
Answer = Meaning | Refusal


# ------------------------------------------------------------------------------------------------ two factors
def independent(factors: Factors) -> Answer:
    """Two operands that vary apart: functions of no one value, or only through learned maps."""
    if factors.apart is None:
        why = f"both operands are functions of %{factors.common.name} without a learned map"
        return Refusal(why, Nearness.PATTERN)
    dependent = [seen for seen in factors.tried if seen.form is Form.OTHER]
    if dependent:
        return Refusal(dependent[0].why, Nearness.CONDITION)
    return Meaning("product", factors.signals, factors.why)


def mixture(factors: Factors) -> Answer:
    """The weights of a softmax times values, whatever the weights depend on."""
    if factors.is_quotient or factors.apart is not None:
        return Refusal(factors.apart or "a quotient", Nearness.OPERANDS)
    if not factors.mixes:
        why = f"no softmax is on the way from %{factors.common.name} to an operand"
        return Refusal(why, Nearness.PATTERN)
    why = "the weights of a softmax times values: two factors, whatever the weights depend on"
    return Meaning("product", factors.signals, why)


def form_of_one_value(factors: Factors) -> Answer:
    """Both operands linear in the common value, or homogeneous of some degree."""
    if factors.is_quotient or factors.apart is not None:
        return Refusal(factors.apart or "a quotient", Nearness.OPERANDS)
    steps = [step for path in factors.paths for step in path]
    other = next((n for n, kind in steps if not _is_of_a_degree(n, kind)), None)
    if other is not None:
        why = f"%{other.name} on the way from %{factors.common.name} is not homogeneous of any degree"
        return Refusal(why, Nearness.CONDITION)
    return Meaning("product", factors.signals, "a form of one value: equal shares are Euler's")


def _is_of_a_degree(node: fx.Node, kind: str) -> bool:
    return kind in _LINEAR or (
        kind == "elementwise"
        and (has(node, Fact.HOMOGENEOUS) or (op_name(node) == "aten.mul" and node.args[0] is node.args[1]))
    )


def gate(factors: Factors) -> Answer:
    """``up * act(gate)``: two factors, exactly one of them an activated branch."""
    if op_name(factors.node) != "aten.mul":
        return Refusal(f"{op_name(factors.node)} is no elementwise product", Nearness.OPERATION)
    answers = [ask(factors) for ask in (independent, mixture, form_of_one_value)]
    meaning = next((a for a in answers if isinstance(a, Meaning)), None)
    if meaning is None:
        return Refusal("its operands are not two factors", Nearness.PATTERN)
    activated = [a for a in meaning.signals if _is_activated(factors, a)]
    if len(activated) != 1:
        return Refusal(f"{len(activated)} of its factors are activated, not one", Nearness.CONDITION)
    return replace(meaning, kind="gate", facts={"activated": meaning.signals.index(activated[0])})


def _is_activated(factors: Factors, operand: fx.Node) -> bool:
    """Is it an elementwise function, scaled, moved or beside a number (``1 - sigmoid(g)``), or part of one in its
    chain?
    """
    context = factors.context
    if (factors.node, operand) in context.chains.activated:
        return True
    core = context.flow.core(operand)
    while core in context.numbers and len(beside := context.flow.operands(core)) == 1:
        core = context.flow.core(beside[0])
    served = context.served.get(core)
    return served is not None and served.kind == "elementwise" and core not in context.chains.apart


# ------------------------------------------------------------------------------------------------ one factor, or none
def row_product(factors: Factors) -> Answer:
    """A number for each pair of vectors, both pointwise functions of one value: the other is a coefficient."""
    a, b = factors.a, factors.b
    if not is_row_product(a, b):
        return Refusal("no matrix product of single rows with single columns", Nearness.OPERANDS)
    if factors.apart is not None:
        return Refusal(factors.apart, Nearness.PATTERN)
    if not all(factors.flow.follows_elements(factors.common, operand) for operand in (a, b)):
        why = f"its operands are not both pointwise functions of %{factors.common.name}"
        return Refusal(why, Nearness.CONDITION)
    kinds_a, kinds_b = ([kind for _, kind in path] for path in factors.paths)
    carrier = a if all(k in ("move", "linear") for k in kinds_a) or "elementwise" in kinds_b else b
    why = "a row product of pointwise functions of one value: the other operand is a coefficient"
    return Meaning("linear", (carrier,), why)


def is_row_product(a: fx.Node, b: fx.Node) -> bool:
    """Is it a matrix product of single rows with single columns, a number for each pair of vectors?"""
    left, right = shape_of(a), shape_of(b)
    return (
        len(left) >= 2
        and len(right) >= 2
        and left[-2] == 1
        and right[-1] == 1
        and left[:-2] == right[:-2]
        and left[-1] == right[-2] > 1
    )


def dependent(factors: Factors) -> Meaning:
    """Two operands that depend on each other in another way: the tangent, reported."""
    if factors.apart is not None:
        why = "operands depend on each other, neither pointwise nor as a normalisation"
        return Meaning("tangent", factors.signals, why)
    why = f"both operands are functions of %{factors.common.name} without a learned map, "
    return Meaning("tangent", factors.signals, why + "neither pointwise, nor linear, nor as a normalisation")


#: What two factors can be, asked in this order.
TWO_FACTORS: tuple[Callable[[Factors], Answer], ...] = (independent, mixture, form_of_one_value, row_product, dependent)


def _of_product(ask: Callable[[Factors], Answer]) -> Callable[[Context, fx.Node], Answer]:
    """The same question about a node."""

    def recognise(context: Context, node: fx.Node) -> Answer:
        factors = product_factors(context, node)
        return factors if isinstance(factors, Refusal) else ask(factors)

    return recognise


GATE = Recogniser(
    "gate",
    "up * act(gate): two factors, one of them an activated branch",
    ("gate",),
    _of_product(gate),
    before=("independent factors",),
)
INDEPENDENT = Recogniser(
    "independent factors",
    "two operands that vary apart, or meet again only through learned maps: two factors",
    ("product",),
    _of_product(independent),
    before=("weights of a softmax",),
)
MIXTURE = Recogniser(
    "weights of a softmax",
    "weights of a softmax times values: two factors, whatever the weights depend on",
    ("product",),
    _of_product(mixture),
    before=("form of one value",),
)
FORM = Recogniser(
    "form of one value",
    "x @ x^T, x * roll(x): both operands of a degree in one value, equal shares by Euler's theorem",
    ("product",),
    _of_product(form_of_one_value),
    before=("row product",),
)
ROW_PRODUCT = Recogniser(
    "row product",
    "einsum('bd,bd->b', x, f(x)): rows times columns of pointwise functions of one value",
    ("linear",),
    _of_product(row_product),
    before=("dependent factors",),
)
DEPENDENT = Recogniser(
    "dependent factors",
    "operands that are functions of one value in another way: the tangent, reported",
    ("tangent",),
    _of_product(dependent),
    before=("denominator",),
)
