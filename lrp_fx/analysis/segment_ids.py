"""Segment ids: to which example each row of a value belongs, where rows are put in an order that only the run knows.

A router sends tokens to experts: the rows of all examples are sorted by expert, computed, and put back. No axis is the
batch then, but the example of each row can be followed through the very indexing that moves the rows. (The same serves
models that loop over their batch: a value in the loop belongs to one example.)

The segment ids of a value are a tensor of example numbers that broadcasts against it: the size of the value along axes
of kind `lrp_fx.ir.layout.SEGMENTED`, 1 along the others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.provenance import CONTENT, Facts
from lrp_fx.analysis.row_indices import PUT, row_indices, rows_put
from lrp_fx.ir.axes import origins
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import SEGMENTED, BatchAxis, Layout, batch_axis
from lrp_fx.ir.operators import axis_of, has, operand_of
from lrp_fx.ir.sizes import hint, shape_of

Add = Callable[[Callable[..., list[Any]], Sequence[Any], tuple[str, str, int]], list[fx.Node]]


def segmented_axes(layout: Layout | None) -> list[int]:
    """Axes along which rows belong to examples in no fixed order."""
    return [i for i, axis in enumerate(layout or ()) if any(kind == SEGMENTED for kind, _ in axis)]


class SegmentIds:
    """Adds the ids of values to a relevance graph, each once."""

    def __init__(self, facts: Facts, env: dict[fx.Node, fx.Node], add: Add) -> None:
        self.facts, self.env, self.add = facts, env, add
        self.known: dict[fx.Node, fx.Node | None] = {}

    def of(self, node: fx.Node, batch: Any) -> fx.Node | None:
        """The ids of a value with segmented axes; None where they cannot be followed."""
        example = self.facts.example.get(node)
        if not segmented_axes(self.facts.layout.get(node)) and (
            example is None or not isinstance(value_of(node), Tensor)
        ):
            return None
        if node not in self.known:
            rows = self.facts.rows.get(node)
            self.known[node] = (
                self._single(node, example)
                if example is not None
                else self._fixed(node, rows)
                if rows is not None
                else self._find(node, batch)
            )
        return self.known[node]

    def _single(self, node: fx.Node, example: int) -> fx.Node:
        """A value that belongs to one example as a whole."""
        return self._added_once(
            lambda v: [torch.full((1,) * v.dim(), example, device=v.device)], [self.env[node]], node
        )

    def _fixed(self, node: fx.Node, rows: tuple[int, ...]) -> fx.Node:
        """Rows of a batch of fixed size, in an order of their own."""
        layout = self.facts.layout[node]
        (axis,) = segmented_axes(layout)
        kinds = [kind for kind, _ in layout[axis]]
        before, after = (prod(s for _, s in layout[axis][part]) for part in _around(kinds.index(SEGMENTED)))

        def run(v: Tensor) -> list[Tensor]:
            ids = torch.cat([torch.full((1,), max(example, 0), device=v.device) for example in rows])
            whole = ids.reshape(1, -1, 1).expand(before, len(rows), after)
            return [whole.reshape([-1 if a == axis else 1 for a in range(v.dim())])]

        return self._added_once(run, [self.env[node]], node)

    def _find(self, node: fx.Node, batch: Any) -> fx.Node | None:
        name = op_name(node)
        if has(node, Fact.INDEXING):
            return self._indexed(node, batch)
        if name in PUT:
            return self._put(node, batch)
        if name == "aten.cat":
            return self._joined(node, batch)
        if node.target is operator.getitem:
            return self._split_off(node, batch)
        source = next((a for a in node.all_input_nodes if segmented_axes(self.facts.layout.get(a))), None)
        if source is None or (above := self.of(source, batch)) is None:
            return None
        if name == "aten.reshape":
            before, after = segmented_axes(self.facts.layout.get(source)), segmented_axes(self.facts.layout.get(node))
            return self._added_once(
                lambda o, x, y: [_reshaped(o, x, y, before, after)], [above, self.env[source], self.env[node]], node
            )
        return self._added_once(self._move(node, source), [above], node)

    def _put(self, node: fx.Node, batch: Any) -> fx.Node | None:
        """Rows put (or added) at places that an index names into zeros: a place that gets none holds nothing, whoever
        owns it.
        """
        found = rows_put(node)
        if found is None or CONTENT in self.facts.sources[operand_of(node)]:
            return None
        dim, index, rows = found
        layout = self.facts.layout.get(rows)
        place, above = batch_axis(layout), self.of(rows, batch)

        def put(ids: Tensor, value: Tensor, at: Tensor) -> list[Tensor]:
            size = [value.shape[dim] if a == dim else 1 for a in range(value.dim())]
            return [ids.new_zeros(size).index_copy(dim, at, ids)]

        if above is not None and segmented_axes(layout) == [dim]:
            return self._added_once(put, [above, self.env[node], self.env[index]], node)
        if place is None or place.axis != dim or not place.is_told_apart:
            return None
        return self._added_once(
            lambda v, y, at, b: put(_counted(v, place, b), y, at),
            [self.env[rows], self.env[node], self.env[index], batch],
            node,
        )

    def _joined(self, node: fx.Node, batch: Any) -> fx.Node | None:
        """Rows put behind rows."""
        parts = list(node.all_input_nodes)
        axis = axis_of(node, len(shape_of(node)))
        ids = [self.of(p, batch) for p in parts]
        if any(o is None for o in ids):
            return None
        if axis not in segmented_axes(self.facts.layout.get(node)):
            return ids[0]
        return self._added_once(lambda *rows: [torch.cat(rows, axis)], ids, node)

    def _split_off(self, node: fx.Node, batch: Any) -> fx.Node | None:
        """One part of a value: its own rows, where rows are what was divided."""
        whole, number = operand_of(node), node.args[1]
        assert isinstance(number, int)
        above = self.of(whole, batch)
        if above is None or not has(whole, Fact.SPLIT) or op_name(whole) == "aten.unbind":
            return above
        axis = axis_of(whole, len(shape_of(node)))
        if axis not in segmented_axes(self.facts.layout.get(whole)):
            return above
        sizes = [hint(part.shape[axis]) for part in value_of(whole)]
        return self._added_once(lambda o: [o.narrow(axis, sum(sizes[:number]), sizes[number])], [above], node)

    def _added_once(self, run: Callable[..., list[Any]], nodes: list[Any], node: fx.Node) -> fx.Node:
        return self.add(run, nodes, (node.name, "ids", 0))[0]

    def _indexed(self, node: fx.Node, batch: Any) -> fx.Node | None:
        """Rows picked by an index: their ids are picked by the same index."""
        x, indices = row_indices(node)
        if not indices:
            return None
        layout = self.facts.layout.get(x)
        place, above, first = batch_axis(layout), self.of(x, batch), min(indices)
        behind = len(shape_of(x)) - first - len(indices)  # axes after those that are indexed
        if above is not None:
            axis = next(a for a in segmented_axes(layout) if a in indices)
            return self._added_once(
                lambda o, i: [_at(o, axis, i, first, behind)], [above, self.env[indices[axis]]], node
            )
        if place is None or place.axis not in indices or not place.is_told_apart:
            return None
        return self._added_once(
            lambda v, i, b: [_at(_counted(v, place, b), place.axis, i, first, behind)],
            [self.env[x], self.env[indices[place.axis]], batch],
            node,
        )

    def _move(self, node: fx.Node, source: fx.Node) -> Callable[..., list[Any]]:
        """How the ids of ``source`` become those of ``node``, which is computed from it."""
        if not isinstance(value_of(node), Tensor):  # parts of one value: the ids are those of the whole
            return lambda o: [o.clone()]
        order = origins(node, source)
        followed = all(a in order for a in segmented_axes(self.facts.layout.get(source)))
        if followed or has(node, Fact.REDUCTION):
            return lambda o: [_carried(o, order)]
        return lambda o: [_from_the_right(o, len(order))]


def _around(place: int) -> tuple[slice, slice]:
    return slice(0, place), slice(place + 1, None)


def _at(ids: Tensor, axis: int, index: Tensor, before: int, behind: int) -> Tensor:
    """Segment ids along one axis picked by an index, as one axis between those before and behind."""
    picked = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)[:, 0].index_select(0, index)
    shaped: Tensor = picked.reshape([1] * before + [-1] + [1] * behind)
    return shaped


def _counted(value: Tensor, place: BatchAxis, batch: Any) -> Tensor:
    """Segment ids along an axis that holds the batch in its usual order."""
    size = value.shape[place.axis]
    numbers = torch.arange(size, device=value.device)
    inner: Any = place.inner if place.inner is not None else size // (batch * (place.outer or 1))
    ids: Tensor = (numbers // inner % batch).reshape([-1 if a == place.axis else 1 for a in range(value.dim())])
    return ids


def _carried(ids: Tensor, order: list[int | None]) -> Tensor:
    """Segment ids along axes that are in another order, new (one number for all), or gone: reduced rows belong to whom
    the first of them did (rows of one example are summed, or this was no reduction of rows).
    """
    kept = [a for a in order if a is not None]
    gone = [a for a in range(ids.dim()) if a not in kept]
    for a in gone:
        ids = ids.narrow(a, 0, 1)
    ids = ids.permute(*kept, *gone)
    places = iter(range(len(kept)))
    return ids.reshape([1 if a is None else ids.shape[next(places)] for a in order])


def _reshaped(ids: Tensor, x: Tensor, y: Tensor, before: list[int], after: list[int]) -> Tensor:
    """Segment ids of ``y``, a reshape of ``x``: regrouped with the rows, one number where an axis holds none."""
    leading = before == list(range(len(before))) and after == list(range(len(after)))
    if leading and prod(hint(s) for s in y.shape[: len(after)]) == prod(hint(s) for s in x.shape[: len(before)]):
        return ids.reshape(*y.shape[: len(after)], *[1] * (y.dim() - len(after)))
    whole = ids.expand(x.shape).reshape(y.shape)
    for axis in range(y.dim()):
        whole = whole if axis in after else whole.narrow(axis, 0, 1)
    return whole.clone()


def _from_the_right(ids: Tensor, rank: int) -> Tensor:
    """Row by row, where no table says how: aligned from the right, as operands are."""
    return ids.reshape((1,) * (rank - ids.dim()) + tuple(ids.shape)) if ids.dim() < rank else ids.clone()


def total_by_segment(t: Tensor, ids: Tensor, batch: Any) -> Tensor:
    """Sum of a value for each example, (B,)."""
    others = [a for a in range(t.dim()) if hint(ids.shape[a]) == 1]
    rows = t.sum(others, keepdim=True) if others else t
    return rows.new_zeros(batch).index_add(0, ids.expand(rows.shape).flatten(), rows.flatten())


def summed_by_segment(t: Tensor, ids: Tensor, axis: int, batch: Any) -> Tensor:
    """Rows along ``axis`` summed for each example, which is that axis then; where the whole belongs to one example and
    has more rows than one, the batch is a new axis in front.
    """
    if hint(ids.shape[axis]) == 1 and hint(t.shape[axis]) != 1:
        t, axis = t.unsqueeze(0), 0
    sizes = [batch if a == axis else size for a, size in enumerate(t.shape)]
    return t.new_zeros(sizes).index_add(axis, ids.flatten(), t)
