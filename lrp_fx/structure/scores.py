"""Scores: values that become the scores of a softmax."""

from __future__ import annotations

from torch import fx

from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.ir.layout import token_axes
from lrp_fx.ir.operators import is_matrix_product
from lrp_fx.rewrite.application import Rewritten

#: Kinds of operations between a score and its softmax.
_ON_THE_WAY = frozenset({"move", "sum", "route", "elementwise", "linear"})
_AMONG_PAIRS = _ON_THE_WAY | {"product", "gate", "softmax"}


def becomes_scores(rewritten: Rewritten, node: fx.Node) -> bool:
    """Does the value go into a softmax as it is, but for moves, masks, scales and further terms?"""
    return softmax_after(rewritten, node) is not None


def holds_pairs(rewritten: Rewritten, node: fx.Node) -> bool:
    """Is it made of a product of tokens with tokens, by moves, masks, scales and further terms?"""
    stack, seen = [node], {node}
    while stack:
        found = stack.pop()
        layout, application = rewritten.facts.layout.get(found), rewritten.applications.get(found)
        if application is None:
            continue
        if is_matrix_product(found):
            if application.kind == "product" and {-1, -2} <= {a - len(layout or ()) for a in token_axes(layout)}:
                return True
        elif application.kind in _AMONG_PAIRS:
            stack += [o for o in application.operands if o not in seen]
            seen |= set(application.operands)
    return False


def softmax_after(rewritten: Rewritten, node: fx.Node) -> fx.Node | None:
    """The softmax whose scores a value becomes."""
    stack, seen = [node], {node}
    while stack:
        node = stack.pop()
        users: list[fx.Node] = [*node.users, *rewritten.readers.get(node, ())]
        for user in users:
            application = rewritten.applications.get(user)
            if user in seen or application is None:
                continue
            seen.add(user)
            if application.kind == "softmax":
                return user
            if (
                application.kind in _ON_THE_WAY
                and not is_matrix_product(user)
                and CONTENT in rewritten.facts.sources[user]
            ):
                stack.append(user)
    return None
