"""Mask sense: does a mask keep tokens where it is true, or hide them?"""

from __future__ import annotations

from torch import fx

from lrp_fx.analysis.provenance import is_very_low
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has


def keeps_where_true(mask: fx.Node) -> bool:
    """Does a mask keep tokens where it is true (or 1), or does it hide them there? Read from what it is used for.

    Filling with a very low number hides; a boolean mask of an attention kernel, or a choice whose other branch is very
    low, keeps. Undecided masks keep, which is what integer masks do by convention.
    """
    queue: list[tuple[fx.Node, bool]] = [(mask, True)]
    seen: set[fx.Node] = set()
    while queue:
        node, upright = queue.pop(0)
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if has(user, Fact.NEGATION):
                queue.append((user, not upright))
            elif has(user, Fact.COMPARISON) and user.args[1] in (0, 1):
                queue.append((user, upright == ((op_name(user) == "aten.eq") == (user.args[1] == 1))))
            elif op_name(user) == "aten.masked_fill" and user.args[1] is node and is_very_low(user.args[2]):
                return not upright
            elif op_name(user) == "aten.where" and user.args[0] is node:
                if is_very_low(user.args[1]):
                    return not upright
                if is_very_low(user.args[2]):
                    return upright
            elif op_name(user) == "aten.scaled_dot_product_attention":
                return upright
            elif has(user, Fact.MOVE | Fact.COPY | Fact.SELECTION | Fact.LOOKUP | Fact.CONJUNCTION):
                queue.append((user, upright))
    return True
