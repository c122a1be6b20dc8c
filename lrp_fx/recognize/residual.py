"""The residual stream: sums in which one term is computed, through a learned map, from another of the same shape."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal

#: A branch longer than this is not searched: blocks are shorter, and the search must not grow with the model.
LONGEST_BRANCH = 4000


def add_all(*terms: Any) -> Any:
    """``terms[0] + terms[1] + ...``: a chain of sums as one operation (sums of more than two are not associative in
    gamma).
    """
    return reduce(operator.add, terms)


def residual_sum(context: Context, node: fx.Node) -> Meaning | Refusal:
    """A sum on the residual stream, with chains of sums flattened."""
    flow = context.flow
    if "residual" not in context.kinds(node):
        return Refusal(f"no rule lists {op_name(node)} as a residual sum", Nearness.OPERATION)
    terms = _terms(flow, node)
    if len(terms) < 2:
        return Refusal("it does not add two values that carry relevance", Nearness.OPERANDS)
    if other := next((t for t in terms if not _is_activation(flow, t, node)), None):
        return Refusal(f"%{other.name} depends on no content, or has another shape than the sum", Nearness.PATTERN)
    if not any(_is_computed_from(flow, branch, skip) for skip in terms for branch in terms if branch is not skip):
        return Refusal("no term is computed from another through a learned map", Nearness.CONDITION)
    if frozen := [t for t in terms if t not in context.carrying]:
        return Refusal(f"relevance of %{frozen[0].name} was frozen above", Nearness.CONDITION)
    why = "one term is computed from another through a learned map"
    return Meaning("residual", tuple(terms), why, add_all, tuple(terms))


def _terms(flow: Dataflow, node: fx.Node) -> list[fx.Node]:
    """Terms of a chain of plain sums; inner sums must have no other user and be no skip connection of their own."""
    if op_name(node) != "aten.add" or len(flow.operands(node)) != 2 or node.kwargs.get("alpha", 1) != 1:
        return []
    found: list[fx.Node] = []
    for operand in flow.operands(node):
        inner = _terms(flow, operand) if len(operand.users) == 1 and not flow.is_leaf(operand) else []
        found += inner or [operand]
    return found


def _is_activation(flow: Dataflow, term: fx.Node, node: fx.Node) -> bool:
    """Depends on content, and has the shape of the sum."""
    return CONTENT in flow.facts.sources[term] and bool(value_of(term).shape == value_of(node).shape)


def _is_computed_from(flow: Dataflow, branch: fx.Node, skip: fx.Node) -> bool:
    if not _reads(flow, branch, skip):  # no search of all above
        return False
    seen, stack = {skip}, [branch]
    reached = False
    while stack and len(seen) <= LONGEST_BRANCH:
        node = stack.pop()
        reached = reached or node is skip
        if node in seen:
            continue
        seen.add(node)
        stack.extend(flow.operands(node))
    return reached and flow.has_learned_map([n for n in seen if n is not skip])


def _reads(flow: Dataflow, branch: fx.Node, skip: fx.Node) -> bool:
    """Is there a path from one to the other? What stands before ``skip`` is not computed from it."""
    seen, stack = set[fx.Node](), [branch]
    while stack:
        node = stack.pop()
        if node is skip:
            return True
        if node not in seen and flow.order[node] > flow.order[skip]:
            seen.add(node)
            stack.extend(flow.operands(node))
    return False


RESIDUAL = Recogniser(
    "residual sum",
    "a sum in which one term is computed from another through a learned map: the residual stream",
    ("residual",),
    residual_sum,
    before=("softmax from its logarithm",),
)
