"""Operations that need no look around: listed by a rule under a kind, or found out by probing."""

from __future__ import annotations

from torch import fx

from lrp_fx.analysis.classify import infer
from lrp_fx.ir.graph import op_name
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal
from lrp_fx.rule import KINDS

#: What probing finds of an operation that chooses, whether or not a drawn value reached the bound.
_CHOOSING = ("route", "linear", "move")


def listed(context: Context, node: fx.Node) -> Meaning | Refusal:
    """The first kind under which a rule lists the operation by name."""
    kinds, operands = context.kinds(node), context.operands(node)
    if not kinds:
        return Refusal(f"no rule lists {op_name(node)} by name", Nearness.OPERATION)
    if kinds[0] == "elementwise" and len(operands) != 1:
        return Refusal(f"it is elementwise, but of {len(operands)} values that carry relevance", Nearness.OPERANDS)
    return Meaning(kinds[0], tuple(operands), f"{op_name(node)} is {kinds[0]}")


def choice(context: Context, node: fx.Node) -> Meaning | Refusal:
    """An elementwise operation listed by a rule, of several values that carry relevance, of which it takes one."""
    if not context.kinds(node):
        return Refusal(f"no rule lists {op_name(node)} by name", Nearness.OPERATION)
    operands = context.operands(node)
    if infer(node, operands).kind not in _CHOOSING:  # a power of two values is a function of both
        return Refusal("its results are none of the values it is given", Nearness.CONDITION)
    return Meaning("route", tuple(operands), f"{op_name(node)} of {len(operands)} values that carry relevance chooses")


def probed(context: Context, node: fx.Node) -> Meaning:
    """What the operation does to drawn values; the tangent where that is none of the kinds."""
    operands = context.operands(node)
    inferred = infer(node, operands)
    return Meaning(inferred.kind, tuple(operands), inferred.why, facts=inferred.facts)


LISTED = Recogniser(
    "listed operation",
    "the first kind under which a rule lists the operation by name",
    tuple(KINDS),
    listed,
    ("choice",),
)
CHOICE = Recogniser(
    "choice",
    "an elementwise operation of several values that carry relevance takes one of them (bounds that are computed)",
    ("route",),
    choice,
    before=("probing",),
)
PROBING = Recogniser(
    "probing",
    "an operation that no rule lists: its class by its schema and by what it does to drawn values",
    ("move", "linear", "elementwise", "route", "normalise", "product", "homogeneous", "tangent"),
    probed,
    how="inferred",
)
