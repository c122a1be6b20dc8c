"""A scale put back: ``W(round(x / s)) * s`` with a statistic s of x, as activations are quantised and restored.

Dividing by s is a normalisation, and s is frozen there. What is multiplied by s afterwards has the scale of x again: as
a function of x it is ``W(x)``, but for rounding. So s is a coefficient here, too, and no second factor.
"""

from __future__ import annotations

from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.factors import elementwise_factors
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal

#: What may stand between: it commutes with a scale, or does but for rounding.
_SCALED = frozenset("move linear route normalise sum".split())
_ROUNDING = frozenset(
    f"aten.{n}" for n in "round floor ceil trunc clamp clamp_min clamp_max relu leaky_relu abs".split()
)
_LONGEST = 24


def put_back(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A product with the statistic by which the other operand was divided, or the other way about."""
    factors = elementwise_factors(context, node)
    if isinstance(factors, Refusal):
        return factors
    a, b = factors.a, factors.b
    for signal, scale in ((a, b),) if factors.is_quotient else ((a, b), (b, a)):
        taken = _taken(context, signal, scale, factors.is_quotient)
        if taken is not None:
            why = f"puts back the statistic %{scale.name}, which %{taken.name} has taken out of the signal"
            return Meaning("normalise", (signal,), why)
    return Refusal("no operand is a statistic that was taken out of the other", Nearness.PATTERN)


def _taken(context: Context, signal: fx.Node, scale: fx.Node, is_quotient: bool) -> fx.Node | None:
    """The normalisation above a value in which a scale was frozen, as a divisor if it is a factor now.

    All ways up lead to one: a zero point, which is added and taken away again, was divided by the scale, too.
    """
    found: fx.Node | None = None
    stack, seen = [signal], {signal}
    while stack:
        node = stack.pop()
        served = context.served.get(node)
        if served is None or not served.operands or len(seen) > _LONGEST:
            return None
        if served.kind == "normalise" and has(node, Fact.SCALING):
            frozen = [a for a in node.all_input_nodes if a not in served.operands]
            divides = op_name(node) == "aten.div"
            if any(_is_inverse(context, a, divides, scale, is_quotient) for a in frozen):
                found = node
                continue
        elif served.kind not in _SCALED and op_name(node) not in _ROUNDING:
            return None
        stack.extend(a for a in served.operands if a not in seen)
        seen.update(served.operands)
    return found


def _is_inverse(context: Context, taken: fx.Node, divides: bool, given: fx.Node, divides_now: bool) -> bool:
    """Is one of two scales a divisor and the other a factor, and both the same value?"""
    (a, first), (b, second) = _scale(context, taken, divides), _scale(context, given, divides_now)
    return a is b and first is not second


def _scale(context: Context, node: fx.Node, divides: bool) -> tuple[fx.Node, bool]:
    """A scale without moves and numbers around it; a factor ``1 / s`` divides by s."""
    core = context.flow.core(node)
    while op_name(core) == "aten.reciprocal" and isinstance(core.args[0], fx.Node):
        core, divides = context.flow.core(core.args[0]), not divides
    return core, divides


PUT_BACK = Recogniser(
    "scale put back",
    "W(x / s) * s with a statistic s of x: it is frozen both times",
    ("normalise",),
    put_back,
    before=("rows of a table",),
)
