"""Products of recurrences: of a value and its coefficient, or with the zeros that a loop starts from."""

from __future__ import annotations

from torch import fx
from torch.utils import _pytree as pytree

from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.factors import is_product, no_product
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal
from lrp_fx.recognize.scan.multilinear import vanishes


def multiple_of_zero(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A product with a constant zero, as in the first step of many loops."""
    if not is_product(context, node):
        return no_product(node)
    if not vanishes(node):
        return Refusal("no factor is a constant zero", Nearness.OPERANDS)
    return Meaning("stop", tuple(context.operands(node)), "a multiple of zero")


def scan(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A product of a scan in which both value and coefficient carry relevance."""
    if not is_product(context, node):
        return no_product(node)
    found, operands = context.coefficients.get(node, ()), context.operands(node)
    if not found:
        what = "is in none of the recurrences found" if context.coefficients else "no recurrence was found in the graph"
        return Refusal(what, Nearness.OPERANDS)
    if any(c not in operands for c in found) or len(operands) == len(found):
        return Refusal("value and coefficient of its recurrence do not both carry relevance", Nearness.CONDITION)
    flat = pytree.tree_leaves((node.args, dict(node.kwargs)), is_leaf=lambda x: x is None)
    positions = tuple(i for i, a in enumerate(flat) if a in found)
    why = "value and coefficient of a recurrence"
    return Meaning("scan", tuple(operands), why, facts={"coefficients": positions})


ZERO = Recogniser(
    "multiple of zero",
    "a product with a constant zero, from which a loop starts: nothing flows",
    ("stop",),
    multiple_of_zero,
    before=("scan",),
)
SCAN = Recogniser(
    "scan",
    "a product of a recurrence: which factor is the value, which the coefficient made from content",
    ("scan",),
    scan,
    before=("chain",),
)
