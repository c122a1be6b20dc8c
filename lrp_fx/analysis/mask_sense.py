"""Mask sense: does a mask keep tokens where it is true, or hide them?"""

from __future__ import annotations

from torch import fx

from lrp_fx.analysis.provenance import is_very_low
from lrp_fx.ir.graph import op_name


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
            name = op_name(user)
            if user in seen:
                continue
            seen.add(user)
            if name in ("aten.bitwise_not", "aten.logical_not", "aten.rsub"):
                queue.append((user, not upright))
            elif name in ("aten.eq", "aten.ne") and len(user.args) > 1 and user.args[1] in (0, 1):
                queue.append((user, upright == ((name == "aten.eq") == (user.args[1] == 1))))
            elif name == "aten.masked_fill" and user.args[1] is node and is_very_low(user.args[2]):
                return not upright
            elif name == "aten.where" and user.args[0] is node:
                if is_very_low(user.args[1]):
                    return not upright
                if is_very_low(user.args[2]):
                    return upright
            elif name == "aten.scaled_dot_product_attention":
                return upright
            elif name in PLAIN_MOVES:
                queue.append((user, upright))
    return True


PLAIN_MOVES = frozenset(
    "aten.reshape aten.view aten.expand aten.unsqueeze aten.squeeze aten._to_copy aten.slice aten.index aten.clone "
    "aten.__and__ aten.bitwise_and aten.logical_and "
    "aten.permute aten.transpose".split()
)
