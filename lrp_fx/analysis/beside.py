"""Beside the batch: how many elements stand before (or behind) the examples along an axis with tokens on both sides.

The size of such an axis alone does not tell its examples apart: tokens first, ``(tokens, batch * texts, features)``
with the leading axes merged. The sizes that it was merged from do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx

from lrp_fx.ir.facts import Axes
from lrp_fx.ir.layout import BATCH, Axis, BatchAxis, Layout, batch_axis
from lrp_fx.ir.operators import keeps_order, operator_of


@dataclass(frozen=True)
class Beside:
    """The number of elements before the batch (else: behind it): the product of the sizes of some axes of ``node``, and
    of what stands on that side of the batch in its own axis ``own``.
    """

    before: bool
    node: fx.Node
    own: BatchAxis
    axes: tuple[int, ...] = ()


def beside(node: fx.Node, layouts: dict[fx.Node, Layout], known: dict[fx.Node, Beside]) -> Beside | None:
    """Of a value with a layout; None where one side is a fixed number, or neither can be found."""
    place = batch_axis(layouts[node])
    if place is None or place.is_told_apart:
        return None
    axis = layouts[node][place.axis]
    operands = [a for a in node.all_input_nodes if a in layouts]
    kept = next((a for a in operands if a in known and axis in layouts[a]), None)
    if kept is not None:
        return known[kept]
    found = operands[0] if operands else None
    own = batch_axis(layouts[found]) if found is not None else None
    if found is None or own is None:
        return None
    is_known = own.is_told_apart or found in known
    if operator_of(node).axes is Axes.REPEATED:  # copies stand in front: behind it is as it was
        return Beside(False, found, own) if is_known and own.outer is not None else None
    return _merged(axis, found, own, layouts[found], is_known) if keeps_order(node) else None


def _merged(axis: Axis, operand: fx.Node, own: BatchAxis, layout: Layout, is_known: bool) -> Beside | None:
    """Of an axis that whole axes of an operand were merged to, on one side of the batch at least."""
    at = [k for k, _ in axis].index(BATCH)
    within = [k for k, _ in layout[own.axis]].index(BATCH)
    sides: Any = (
        (True, prod(s for _, s in axis[:at]), layout[own.axis][:within], range(own.axis - 1, -1, -1)),
        (False, prod(s for _, s in axis[at + 1 :]), layout[own.axis][within + 1 :], range(own.axis + 1, len(layout))),
    )
    for before, wanted, part, others in sides:
        size, axes = prod(s for _, s in part), []
        for other in others:
            if size >= wanted:
                break
            size *= prod(s for _, s in layout[other])
            axes.append(other)
        if size == wanted and (is_known or not part):
            return Beside(before, operand, own, tuple(axes))
    return None
