"""Columns: vectors of a table that lie along another axis than its first, as rows of the table turned.

requires  a lookup by one index, along another axis than the first, in values that depend on no input
ensures   the lookup is of rows, laid out as the index is and then as a row is; its result is turned back
"""

from __future__ import annotations

from functools import partial

import torch
from torch import fx

from lrp_fx.ir.examples import depends_on_values
from lrp_fx.ir.graph import call_like, op_name, value_of
from lrp_fx.ir.operators import argument, operand_of

aten = torch.ops.aten


def look_up_rows(graph: fx.Graph, node: fx.Node) -> None:
    """``table[:, ids]`` as ``table.t()[ids]``, its axes put back."""
    table, found = operand_of(node), _index_and_axis(node)
    if found is None or not value_of(table).is_floating_point() or depends_on_values(table):
        return
    index, axis = found
    if axis == 0 or not depends_on_values(index):
        return
    others = [d for d in range(value_of(table).dim()) if d != axis]
    length = value_of(index).dim()
    back = [*range(length, length + axis), *range(length), *range(length + axis, length + len(others))]
    with graph.inserting_before(node):
        write = partial(call_like, graph, node)
        turned = write(aten.permute.default, table, [axis, *others])
        if op_name(node) == "aten.index":
            rows = write(aten.index.Tensor, turned, [index])
        else:
            rows = write(aten.index_select.default, turned, 0, index)
        result = write(aten.permute.default, rows, back)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _index_and_axis(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The one index of a lookup, and the axis that it counts along."""
    if op_name(node) == "aten.index_select":
        return argument(node, "index"), argument(node, "dim") % value_of(operand_of(node)).dim()
    given = [(index, axis) for axis, index in enumerate(node.args[1]) if index is not None]  # type: ignore[arg-type]
    if len(given) != 1 or value_of(given[0][0]).dtype in (torch.bool, torch.uint8):
        return None
    return given[0]
