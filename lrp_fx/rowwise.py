"""Rows: what is zero but for one token of each example is computed for that token alone.

Most targets read the output at one position, so the coefficients of the head, of the last norm and of the last block's
maps are zero at all other tokens. With a vocabulary of 150,000 words they would be most of the work and of the memory.

requires  a relevance graph whose nodes have their abstract values
ensures   the same values; a gradient scattered into zeros at one row of each example is carried as that row, through
          operations that keep zero rows zero, and scattered where the first other operation needs it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from lrp_fx.layout import same_size
from lrp_fx.program import op_name, value_of

aten = torch.ops.aten
#: Pointwise operations of one operand that are zero at zero, and moves that leave every axis where it is.
_KEEP_ZERO = frozenset("aten.zeros_like aten.neg aten._to_copy aten.clone aten.detach aten.alias aten.abs aten.contiguous aten.conj aten._conj".split())
_ZEROS = frozenset("aten.zeros_like aten.new_zeros aten.zeros".split())


@dataclass(frozen=True)
class Rows:
    """A value that is zero but at ``place`` (B,) along ``axis``, ``tokens`` long: ``kept`` holds what is there, 1 long along that axis.

    ``batch``: its other known axis. ``merged``: both are one axis, the batch outside (``kept`` is then B long along it).
    """

    kept: fx.Node
    place: fx.Node
    tokens: Any
    batch: int
    axis: int
    merged: bool = False


class _Pusher:
    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        self.graph, self.mode = graph, mode
        self.rows: dict[fx.Node, Rows] = {}
        self.whole: dict[fx.Node, fx.Node] = {}
        self.selected: dict[tuple[fx.Node, fx.Node, int, bool], fx.Node | None] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op not in ("call_function", "output"):
                continue
            with self.graph.inserting_before(node):
                found = self._seeded(node) or self._pushed(node) if node.op == "call_function" else None
                if isinstance(found, Rows):
                    self.rows[node] = found
                elif isinstance(found, fx.Node):
                    node.replace_all_uses_with(found)
                else:
                    self._demand(node)
        self.graph.eliminate_dead_code()

    def call(self, target: Any, *args: Any, like: fx.Node | None = None, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        with self.mode, enable_python_dispatcher():
            read = fx.map_arg((args, kwargs), value_of)
            node.meta["val"] = target(*read[0], **read[1])
        if like is not None and "lrp" in like.meta:
            node.meta["lrp"] = like.meta["lrp"]
        return node

    # ------------------------------------------------------------------------------------------------ in and out
    def _seeded(self, node: fx.Node) -> Rows | None:
        """A gradient scattered into zeros along axis 1, each example at one place: ``zeros.scatter_add(1, place.expand, row)``."""
        if op_name(node) != "aten.scatter_add" or node.args[1] != 1 or not isinstance(node.args[0], fx.Node) or op_name(node.args[0]) not in _ZEROS:
            return None
        index, row = node.args[2], node.args[3]
        assert isinstance(index, fx.Node) and isinstance(row, fx.Node)
        while op_name(index) == "aten.expand" and isinstance(index.args[0], fx.Node):
            index = index.args[0]
        sizes, whole = value_of(index).shape, value_of(node).shape
        if len(sizes) != len(whole) or any(s != 1 for s in sizes[1:]) or value_of(row).shape[1] != 1 or not same_size(sizes[0], whole[0]):
            return None
        zeros = node.args[0]
        sizes_given: Any = zeros.args[1 if op_name(zeros) == "aten.new_zeros" else 0]
        tokens = self._size(sizes_given, 1) if op_name(zeros) == "aten.zeros_like" else sizes_given[1]
        return Rows(row, self.call(aten.reshape.default, index, [-1], like=node), tokens, 0, 1)

    def _demand(self, node: fx.Node) -> None:
        """Give a node the whole of what it reads."""
        needed = {a: self._scattered(a) for a in node.all_input_nodes if a in self.rows}
        if needed:
            node.args = fx.map_arg(node.args, lambda a: needed.get(a, a))
            node.kwargs = fx.map_arg(node.kwargs, lambda a: needed.get(a, a))

    def _scattered(self, node: fx.Node) -> fx.Node:
        """The whole value, written the first time it is needed."""
        if node not in self.whole:
            rows = self.rows[node]
            kept = self.call(aten.unsqueeze.default, rows.kept, rows.axis + 1, like=node) if rows.merged else rows.kept
            axis = rows.axis + rows.merged
            sizes = [rows.tokens if a == axis else self._size(kept, a) for a in range(value_of(kept).dim())]
            zeros = self.call(aten.new_zeros.default, kept, sizes, like=node)
            whole = self.call(aten.scatter.src, zeros, axis, self._index(kept, rows), kept, like=node)
            self.whole[node] = self.call(aten.flatten.using_ints, whole, rows.axis, axis, like=node) if rows.merged else whole
        return self.whole[node]

    def _index(self, value: fx.Node, rows: Rows, axis: int | None = None) -> fx.Node:
        """The places as an index of ``value`` (already 1 long where rows are picked, or to be along ``axis``)."""
        shape = [1] * value_of(value).dim()
        shape[rows.batch] = -1
        place = self.call(aten.reshape.default, rows.place, shape, like=value)
        sizes = [1 if a == axis else self._size(value, a) for a in range(len(shape))]
        return self.call(aten.expand.default, place, sizes, like=value)

    def _size(self, node: fx.Node, axis: int) -> Any:
        size = value_of(node).shape[axis]
        return size if isinstance(size, int) else self.call(aten.sym_size.int, node, axis)

    # ------------------------------------------------------------------------------------------------ rows of other values
    def _row(self, node: fx.Node, rank: int, rows: Rows) -> fx.Node | None:
        """The rows that meet ``rows`` in a pointwise operation of results with ``rank`` axes (operands are aligned from the right)."""
        value = value_of(node)
        if not isinstance(value, Tensor):
            return None
        known = self.rows.get(node)
        if known is not None:
            return known.kept if replace(known, kept=rows.kept) == rows and value.dim() == rank else None
        axis = rows.axis - (rank - value.dim())
        if axis < 0 or value.shape[axis] == 1:
            return node
        key = (node, rows.place, axis, rows.merged)
        if key not in self.selected:
            self.selected[key] = self._recomputed(node, rank, rows) or self._select(node, axis, rank, rows)
        return self.selected[key]

    def _recomputed(self, node: fx.Node, rank: int, rows: Rows) -> fx.Node | None:
        """A helper of the transpose that nothing else reads, computed from rows in the first place."""
        target = node.target
        pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
        if not pointwise or node.meta.get("lrp", ("", ""))[1] != "internal" or value_of(node).dim() != rank:
            return None
        parts = {a: self._row(a, rank, rows) if isinstance(value_of(a), Tensor) else a for a in node.all_input_nodes}
        if any(p is None for p in parts.values()):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: parts[a])
        return self.call(target, *args, like=node, **kwargs)

    def _select(self, node: fx.Node, axis: int, rank: int, rows: Rows) -> fx.Node | None:
        batch = rows.batch - (rank - value_of(node).dim())
        if rows.merged:
            return self.call(aten.index_select.default, node, axis, self._flat_place(rows), like=node)
        if batch >= 0 and value_of(node).shape[batch] != 1:
            return self.call(aten.gather.default, node, axis, self._index(node, replace(rows, batch=batch), axis), like=node)
        if batch < 0 or axis != batch + 1:
            return None
        flat = self.call(aten.squeeze.dim, node, batch, like=node)  # the same for all examples: each takes its row of it
        return self.call(aten.unsqueeze.default, self.call(aten.index_select.default, flat, batch, rows.place, like=node), axis, like=node)

    def _flat_place(self, rows: Rows) -> fx.Node:
        """Numbers of the kept rows along the merged axis: example times tokens, plus place."""
        example = self.call(aten.arange.default, self.call(aten.sym_size.int, rows.place, 0), device=value_of(rows.place).device)
        return self.call(aten.add.Tensor, self.call(aten.mul.Tensor, example, rows.tokens), rows.place)

    # ------------------------------------------------------------------------------------------------ operations
    def _pushed(self, node: fx.Node) -> Rows | fx.Node | None:
        name = op_name(node)
        given = [a for a in node.all_input_nodes if a in self.rows]
        handler = _HANDLERS.get(name)
        if not given or handler is None or not isinstance(value_of(node), Tensor):
            return None
        found: Rows | fx.Node | None = handler(self, node, self.rows[given[0]])
        return found

    def again(self, node: fx.Node, args: Any, rows: Rows, **changes: Any) -> Rows:
        """The node's operation on rows."""
        return replace(rows, kept=self.call(node.target, *args, like=node, **node.kwargs), **changes)


def _same_axes(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    return pusher.again(node, (rows.kept, *node.args[1:]), rows) if node.args[0] in pusher.rows else None


def _product(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    """``rows * anything``, ``rows / anything``."""
    rank = value_of(node).dim()
    if op_name(node) == "aten.div" and node.args[0] not in pusher.rows:
        return None
    parts = [pusher._row(a, rank, rows) if isinstance(a, fx.Node) and isinstance(value_of(a), Tensor) else a for a in node.args]
    whole = next(a for a in node.args if a in pusher.rows)
    if any(p is None for p in parts) or value_of(whole).dim() != rank or not _keeps(node, whole, rows):  # type: ignore[arg-type]
        return None
    return pusher.again(node, parts, rows)


def _keeps(node: fx.Node, source: fx.Node, rows: Rows) -> bool:
    """Are the axes of batch and rows as long in the result as in the source (not broadcast there)?"""
    return all(same_size(value_of(node).shape[a], value_of(source).shape[a]) for a in (rows.batch, rows.axis))


def _sum_of_two(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    a, b = node.args[:2]
    ours, theirs = pusher.rows.get(a), pusher.rows.get(b)  # type: ignore[arg-type]
    if ours is None or theirs is None or replace(ours, kept=theirs.kept) != theirs or value_of(a).dim() != value_of(b).dim():  # type: ignore[arg-type]
        return None
    return pusher.again(node, (ours.kept, theirs.kept), rows)


def _matrix(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    """Rows times a matrix that is the same for all of them."""
    x, weight = node.args[:2]
    if x not in pusher.rows or weight in pusher.rows or value_of(weight).dim() != 2 or len(node.args) > 2 or rows.axis >= value_of(node).dim() - 1:  # type: ignore[arg-type]
        return None
    return pusher.again(node, (rows.kept, weight), rows)


def _choice(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    """``where(condition, rows, 0)``, ``where(condition, rows, other rows)``: zero wherever both are."""
    condition, *branches = node.args
    rank = value_of(node).dim()
    if not isinstance(condition, fx.Node) or not all(isinstance(a, fx.Node) and (a in pusher.rows or _is_zero(a)) for a in branches):
        return None
    source = next((a for a in branches if a in pusher.rows), None)
    if source is None or value_of(source).dim() != rank or not _keeps(node, source, rows):  # type: ignore[arg-type]
        return None
    parts = [pusher._row(a, rank, rows) for a in (condition, *branches)]  # type: ignore[arg-type]
    return None if any(p is None for p in parts) else pusher.again(node, parts, rows)


def _is_zero(node: fx.Node) -> bool:
    return op_name(node) in _ZEROS or (op_name(node) in ("aten.scalar_tensor", "aten.full") and bool(node.args[-1] == 0))


def _comparison(pusher: _Pusher, node: fx.Node, rows: Rows) -> None:
    """What compares rows is not zero elsewhere, but its rows are known to whoever needs only them."""
    if node.args[0] in pusher.rows and not isinstance(node.args[1], fx.Node):
        key = (node, rows.place, rows.axis, rows.merged)
        pusher.selected[key] = pusher.call(node.target, rows.kept, *node.args[1:], like=node)


def _reduced(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | fx.Node | None:
    """A sum over other axes keeps the rows; one over the rows is the sum of those that are not zero."""
    if len(node.args) < 2 or node.args[1] is None:
        return pusher.call(node.target, rows.kept, like=node, **node.kwargs)
    rank = value_of(node.args[0]).dim()  # type: ignore[arg-type]
    dims = sorted(int(d) % rank for d in node.args[1])  # type: ignore[union-attr,arg-type]
    keep = len(node.args) > 2 and bool(node.args[2])
    if rows.axis in dims:
        return pusher.call(node.target, rows.kept, *node.args[1:], like=node, **node.kwargs)
    if rows.batch in dims:
        return None
    gone = 0 if keep else sum(d < rows.axis for d in dims)
    before = 0 if keep else sum(d < rows.batch for d in dims)
    return pusher.again(node, (rows.kept, *node.args[1:]), rows, axis=rows.axis - gone, batch=rows.batch - before)


def _permuted(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows:
    rank = value_of(node).dim()
    if op_name(node) == "aten.permute":
        order = [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr,arg-type]
    else:
        order = list(range(rank))
        a, b = (0, 1) if op_name(node) == "aten.t" else (int(d) % rank for d in node.args[1:3])  # type: ignore[arg-type]
        order[a], order[b] = order[b], order[a]
    return pusher.again(node, (rows.kept, *node.args[1:]), rows, axis=order.index(rows.axis), batch=order.index(rows.batch))


def _reshaped(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    """Batch and tokens merged into one axis or taken apart again, or other axes regrouped behind them."""
    source = node.args[0]
    before, after = value_of(source).shape, value_of(node).shape  # type: ignore[arg-type]
    sizes = list(node.args[1])  # type: ignore[arg-type]
    if rows.merged:
        if rows.axis == 0 and len(after) == len(before) + 1 and _equal(after[2:], before[1:]) and same_size(after[0], value_of(rows.place).shape[0]):
            return replace(rows, kept=pusher.call(aten.unsqueeze.default, rows.kept, 1, like=node), batch=0, axis=1, merged=False)
        if rows.axis == 0 and same_size(after[0], before[0]):
            return pusher.again(node, (rows.kept, [-1, *sizes[1:]]), rows) if all(s != -1 for s in sizes[1:]) else None
        return None
    if (rows.batch, rows.axis) != (0, 1):
        return None
    if len(after) == len(before) - 1 and _equal(after[1:], before[2:]) and not same_size(after[0], before[0]):
        return replace(rows, kept=pusher.call(aten.squeeze.dim, rows.kept, 1, like=node), batch=0, axis=0, merged=True)
    if len(after) >= 2 and _equal(after[:2], before[:2]):
        return pusher.again(node, (rows.kept, [sizes[0], 1, *sizes[2:]]), rows)
    return None


def _equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(same_size(x, y) for x, y in zip(a, b, strict=True))


def _unsqueezed(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows:
    dim = int(node.args[1]) % value_of(node).dim()  # type: ignore[arg-type]
    return pusher.again(node, (rows.kept, dim), rows, axis=rows.axis + (dim <= rows.axis), batch=rows.batch + (dim <= rows.batch))


def _sliced(pusher: _Pusher, node: fx.Node, rows: Rows) -> Rows | None:
    dim = int(node.args[1] if len(node.args) > 1 else 0) % value_of(node.args[0]).dim()  # type: ignore[arg-type]
    return pusher.again(node, (rows.kept, *node.args[1:]), rows) if dim not in (rows.axis, rows.batch) else None


_HANDLERS: dict[str, Callable[[_Pusher, fx.Node, Rows], Any]] = {
    **dict.fromkeys(_KEEP_ZERO, _same_axes),
    **dict.fromkeys(("aten.mul", "aten.div"), _product),
    **dict.fromkeys(("aten.add", "aten.sub"), _sum_of_two),
    **dict.fromkeys(("aten.mm", "aten.matmul"), _matrix),
    "aten.where": _choice,
    **dict.fromkeys(("aten.eq", "aten.ne"), _comparison),
    "aten.sum": _reduced,
    **dict.fromkeys(("aten.permute", "aten.transpose", "aten.t"), _permuted),
    **dict.fromkeys(("aten.reshape", "aten.view", "aten._unsafe_view"), _reshaped),
    "aten.unsqueeze": _unsqueezed,
    "aten.slice": _sliced,
}


def push_rows(graph: fx.Graph, mode: Any) -> None:
    """Carry coefficients that are zero but for one row of each example as that row, in place; ``mode``: the graph's abstract values."""
    _Pusher(graph, mode).run()
