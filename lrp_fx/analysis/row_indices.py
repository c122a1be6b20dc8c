"""Rows picked from a value, or put into one, at places that indices name: whose each of them is.

Where the indices depend on no input (a capture of one size wrote them down), the examples' numbers are picked and put
as the rows are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.by_running import Place, irregular, numbers_along, regular
from lrp_fx.analysis.drawn_calls import constant
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.layout import BATCH, SEGMENTED, Layout
from lrp_fx.ir.operators import axis_of, has, operand_of, operator_of
from lrp_fx.ir.sizes import shape_of

_ALONG_ONE = ("aten.index_add", "aten.index_copy")
#: Operations that put rows at places that an index names.
PUT = frozenset((*_ALONG_ONE, "aten.index_put", "aten.scatter", "aten.scatter_add"))
#: (axis, the example of each row along it); None where no axis has any.
Owners = tuple[int, Tensor] | None


def row_indices(node: fx.Node) -> tuple[fx.Node, dict[int, fx.Node]]:
    """(value, axis -> one-dimensional index) of rows picked or put along neighbouring axes."""
    x = operand_of(node)
    if op_name(node) == "aten.index_select":
        return x, {axis_of(node, len(shape_of(x))): operand_of(node, 2)}
    indices = node.args[1]
    assert isinstance(indices, (list, tuple))
    used = {i: index for i, index in enumerate(indices) if index is not None}
    plain = all(isinstance(index, fx.Node) and len(shape_of(index)) == 1 for index in used.values())
    return x, dict(used) if plain and list(used) == list(range(min(used), max(used) + 1)) else {}


def rows_put(node: fx.Node) -> tuple[int, fx.Node, fx.Node] | None:
    """(axis, one-dimensional index along it, rows) of rows put into a value by one of `PUT`; None where elements of a
    row may go to several.
    """
    rank = len(shape_of(node))
    if op_name(node) == "aten.index_put":
        _, indices = row_indices(node)
        rows = node.args[2]
        whole = len(indices) == 1 and isinstance(rows, fx.Node) and len(shape_of(rows)) == rank
        return (*next(iter(indices.items())), rows) if whole and isinstance(rows, fx.Node) else None
    dim, index, rows = axis_of(node, rank), node.args[2], node.args[3]
    if not isinstance(index, fx.Node) or not isinstance(rows, fx.Node):
        return None
    at = index if op_name(node) in _ALONG_ONE else _same_along_rows(index, dim)
    return (dim, at, rows) if at is not None else None


def _same_along_rows(index: fx.Node, dim: int) -> fx.Node | None:
    """The one-dimensional index that an index for each element repeats along rows."""
    while has(index, Fact.EXPANSION):
        index = operand_of(index)
    shape = shape_of(index)
    if any(size != 1 for axis, size in enumerate(shape) if axis != dim):
        return None
    while len(shape_of(index)) != 1 and operator_of(index).axes in (Axes.UNITS, Axes.REGROUPED):
        index = operand_of(index)
    return index if shape_of(index) == (shape[dim],) else None


def owners_of(layout: Layout, rows: tuple[int, ...]) -> Owners:
    """Whose the rows of a value are, along the axis that examples lie along (``rows``: in an order of their own)."""
    for i, axis in enumerate(layout):
        kinds = [k for k, _ in axis]
        kind = BATCH if BATCH in kinds else SEGMENTED
        if kind in kinds and (kind == BATCH or rows):
            along = numbers_along(axis, kinds.index(kind))
            return i, along if kind == BATCH else torch.tensor(rows)[along]
    return None


def picked(node: fx.Node, owners: Owners) -> tuple[int, ...]:
    """Whose the rows are that constant indices pick; ``owners``: of what they are picked from. Nothing where that is
    not known.
    """
    _, indices = row_indices(node)
    if owners is None or owners[0] not in indices:
        return ()
    at = constant(indices[owners[0]])
    return tuple(owners[1][at.cpu()].tolist()) if at is not None else ()


def put(node: fx.Node, batch: int, into: Owners, rows: Owners) -> Place | None:
    """Where examples are in a value whose rows were put at constant places along some of its axes; None where they
    were not, or rows of two examples meet. ``into``, ``rows``: whose the values are that it is made of.
    """
    target, indices = row_indices(node)
    values: Any = node.args[2]
    known = [constant(index) for index in indices.values()]
    at = tuple(index.cpu() for index in known if index is not None)
    if rows is None or not at or len(at) < len(known):
        return None
    shape, first = shape_of(target), min(indices)
    behind = len(shape) - first - len(indices)  # axes after those along which rows are put
    if rows[0] != len(shape_of(values)) - behind - 1 or (into is not None and into[0] not in indices):
        return None
    owners = torch.full([shape[i] for i in indices], -1)
    if into is not None:
        owners += 1 + into[1].reshape([-1 if i == into[0] else 1 for i in indices])
    owners = owners.index_put(at, rows[1])
    if not bool((owners[at] == rows[1]).all()):
        return None
    found = regular(owners, batch) or irregular(owners)
    return replace(found, axis=first + found.axis) if found is not None else None
