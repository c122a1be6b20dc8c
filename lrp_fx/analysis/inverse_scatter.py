"""Inverse scatter: rows put back where they were taken from: after a loop over experts the batch is in its usual order
again.

A router picks rows by an index, experts compute them, and the results are added into zeros at the same index (or at the
index divided by the number of copies). What the rows were taken from says what the axis is.
"""

from __future__ import annotations

from math import prod

import torch
from torch import fx

from lrp_fx.ir.axes import origins
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import FEATURE, Axis, Layout
from lrp_fx.ir.operators import argument, has
from lrp_fx.ir.sizes import shape_of


def inverse_scatter(rows: fx.Node, index: fx.Node, size: int, known: dict[fx.Node, Layout]) -> Axis | None:
    """The axis that rows were taken from by an index, where ``index`` puts them in their places again (of every k-fold
    copy, or of all its copies in one).
    """
    taken = _taken(rows, known)
    if taken is None or taken[0] not in known:
        return None
    axis = known[taken[0]][0]
    per_place, per_row = _quotient(taken[1], index), _quotient(index, taken[1])
    if taken[1] is not index and per_place is None and per_row is None:
        return None
    if per_row is not None:  # k rows go to one place: the innermost factor goes
        return axis[:-1] if axis and axis[-1][1] == per_row and prod(s for _, s in axis[:-1]) == size else None
    found = axis if per_place is None else (*axis, (FEATURE, per_place))
    return found if prod(s for _, s in found) == size else None


def _quotient(smaller: fx.Node, larger: fx.Node) -> int | None:
    """k, where one index is the other divided by it without a remainder."""
    whole = argument(smaller, "rounding_mode") in ("trunc", "floor") or op_name(smaller) == "aten.floor_divide"
    divides = smaller.op == "call_function" and smaller.args[:1] == (larger,) and whole
    return smaller.args[1] if divides and isinstance(smaller.args[1], int) else None


def _taken(rows: fx.Node, known: dict[fx.Node, Layout]) -> tuple[fx.Node, fx.Node] | None:
    """(value, index) of the indexing that rows come from, row by row, through experts that each take a part of them."""
    while True:
        name = op_name(rows)
        indices = rows.args[1] if name == "aten.index" else None
        if isinstance(indices, (list, tuple)):
            alone = len(indices) == 1 and isinstance(indices[0], fx.Node) and len(shape_of(indices[0])) == 1
            return (rows.args[0], indices[0]) if alone and isinstance(rows.args[0], fx.Node) else None
        above = (
            _divided(rows, known)
            if name == "aten.cat"
            else next((a for a in rows.all_input_nodes if _keeps_rows(a, rows, known)), None)
        )
        if above is None:
            return None
        rows = above


def _keeps_rows(operand: fx.Node, result: fx.Node, known: dict[fx.Node, Layout]) -> bool:
    """Is row i of the result computed from row i of the operand?"""
    if origins(result, operand)[:1] != [0]:
        return False  # a flip, a roll or a sort has as many rows too
    both = operand in known and result in known and isinstance(value_of(operand), torch.Tensor)
    return both and shape_of(operand)[:1] == shape_of(result)[:1]


def _divided(joined: fx.Node, known: dict[fx.Node, Layout]) -> fx.Node | None:
    """What was divided by rows into the parts that are joined again, in their order."""
    parts = list(joined.all_input_nodes)
    whole: fx.Node | None = None
    for number, part in enumerate(parts):
        while not (op_name(part).endswith("getitem") and isinstance(part.args[0], fx.Node)):
            above = next((a for a in part.all_input_nodes if _keeps_rows(a, part, known)), None)
            if above is None:
                return None
            part = above
        split = part.args[0]
        assert isinstance(split, fx.Node)
        if (
            not has(split, Fact.SPLIT)
            or op_name(split) == "aten.unbind"
            or argument(split, "dim") != 0
            or part.args[1] != number
            or whole not in (None, split)
        ):
            return None
        whole = split
    complete = whole is not None and len(parts) == len(value_of(whole)) and argument(joined, "dim") == 0
    return whole.args[0] if complete and whole is not None and isinstance(whole.args[0], fx.Node) else None
