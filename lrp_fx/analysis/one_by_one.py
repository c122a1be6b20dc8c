"""Tokens that were taken out of a value, each by itself, and put together again.

Taken out, a token has no axis of tokens any more, so that the axis along which they are put together again would be
unknown. They are told by where they come from: each part reads a token (or an interval of them: a patch of a picture)
that no part before it has read, and all do the same with theirs, with the same weights. A step of a recurrence reads
its own token and the result of another step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from lrp_fx.analysis.sources import PARAMETER
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.layout import FEATURE, TOKEN, UNKNOWN, Layout, single, token_axes
from lrp_fx.ir.operators import argument, axis_of, has, operand_of, operator_of
from lrp_fx.ir.sizes import shape_of

#: From a token that was taken out to where it is put beside others.
_STEPS = 256
_WRITES = ("aten.select_scatter", "aten.slice_scatter")


def with_tokens(node: fx.Node, layout: Layout, known: dict[fx.Node, Layout]) -> Layout:
    """The layout of a result, with tokens along the axis where they were put together again one by one."""
    parts = _rows_of(node)
    if not parts or any(p not in known for p in parts):
        return layout
    dim = axis_of(node, len(layout))
    if not {k for k, _ in layout[dim]} <= {UNKNOWN, FEATURE} or not _are_tokens(parts, known):
        return layout
    return (*layout[:dim], single(TOKEN, shape_of(node)[dim]), *layout[dim + 1 :])


def _rows_of(node: fx.Node) -> list[fx.Node]:
    """Values of one row each that are put behind one another, or the one that is written and the one before it."""
    name = op_name(node)
    if name in ("aten.stack", "aten.cat"):
        parts: Any = node.args[0]
        rows = [p for p in parts if isinstance(p, fx.Node)]
    elif name in _WRITES:
        before = _written_before(node)
        rows = [operand_of(before, 1), operand_of(node, 1)] if before is not None else []
    else:
        return []
    dim, is_row = axis_of(node, len(shape_of(node))), name in ("aten.stack", "aten.select_scatter")
    return rows if len(rows) > 1 and (is_row or all(shape_of(p)[dim : dim + 1] == (1,) for p in rows)) else []


def _written_before(node: fx.Node) -> fx.Node | None:
    """What wrote along the same axis into what is written into now (written back whole, it may be)."""
    before, rank = operand_of(node), len(shape_of(node))
    while op_name(before) == "aten.slice_scatter" and shape_of(operand_of(before, 1)) == shape_of(before):
        before = operand_of(before, 1)
    is_alike = before.target is node.target and axis_of(before, rank) == axis_of(node, rank)
    return before if is_alike else None


def _are_tokens(parts: Sequence[fx.Node], known: dict[fx.Node, Layout]) -> bool:
    """Were they taken out one by one? (Patches may be taken out row by row, and in each row one by one.)"""
    return _each_reads_its_own(parts, known) or _each_reads_its_own(parts[::-1], known)


def _each_reads_its_own(parts: Sequence[fx.Node], known: dict[fx.Node, Layout]) -> bool:
    """In this order: has each part a token that none before it has, and the weights of the second one?

    (The first may read what a recurrence begins with.)
    """
    seen: set[fx.Node] = set()
    weights = []
    for part in parts:
        found = _read(part, seen, known)
        if found is None:
            return False
        weights.append(found)
    return weights[1] <= weights[0] and all(w == weights[1] for w in weights[2:])


def _read(part: fx.Node, seen: set[fx.Node], known: dict[fx.Node, Layout]) -> set[fx.Node] | None:
    """The weights between a part and the token that is its own; None where it has none. ``seen``: what parts before it
    were made of, which grows.
    """
    weights, is_own, queue, left = set(), False, [part], len(token_axes(known[part]))
    for node in queue:
        if node.op == "get_attr":
            weights |= {node} if node.meta.get("origin") == PARAMETER else set()
        elif node not in seen:
            seen.add(node)
            whole = _taken_from(node, known)
            if whole is not None:
                is_own = is_own or len(token_axes(known[whole])) > left
            elif len(queue) > _STEPS:
                return None
            else:
                queue += node.all_input_nodes
    return weights if is_own else None


def _taken_from(node: fx.Node, known: dict[fx.Node, Layout]) -> fx.Node | None:
    """The value that it is an element of, or an interval, along an axis of tokens."""
    taken = element_taken(node)
    if taken is not None:
        return taken[0] if taken[1] in token_axes(known.get(taken[0])) else None
    call = node.args[0] if operator_of(node).axes is Axes.PART else node
    if not isinstance(call, fx.Node) or not has(call, Fact.INTERVAL | Fact.SPLIT) or argument(call, "step", 1) != 1:
        return None
    whole = operand_of(call)
    axis = axis_of(call, len(shape_of(whole)))
    is_part = axis in token_axes(known.get(whole)) and shape_of(whole)[axis] != shape_of(node)[axis]
    return whole if is_part else None
