"""Push rows: what is zero but for one token of each example is computed for that token alone.

Most targets read the output at one position, so the coefficients of the head, of the last norm and of the last block's
maps are zero at all other tokens. With a vocabulary of 150,000 words they would be most of the work and of the memory.

requires  a relevance graph whose nodes have their abstract values, ``own_outputs``: how many of its outputs are the
model's own
ensures   the model's own outputs bit by bit; the rest but for rounding; a gradient scattered into zeros at one row of
          each example is carried as that row, through operations that keep zero rows zero, and scattered where the
          first other operation needs it
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import GraphBuilder, drop_dead_code, made_for, op_name, value_of
from lrp_fx.ir.operators import argument, axis_of, has, is_pointwise, operand_of
from lrp_fx.ir.sizes import is_one, same_size
from lrp_fx.optimize.push_operations import pushed
from lrp_fx.optimize.rows import KeptRows, counts, never_negative, sizes_given, span

aten = torch.ops.aten


class Pusher(GraphBuilder):
    def __init__(self, graph: fx.Graph, mode: Any, own_outputs: int) -> None:
        super().__init__(graph, mode)
        self.forward = made_for(graph, own_outputs)
        self.rows: dict[fx.Node, KeptRows] = {}
        self.results: dict[fx.Node, list[KeptRows | fx.Node]] = {}  # of operations with several
        self.whole: dict[fx.Node, fx.Node] = {}
        self.selected: dict[tuple[fx.Node, fx.Node | int, int, int, int, bool], fx.Node | None] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op not in ("call_function", "output") or node in self.forward:
                continue
            with self.graph.inserting_before(node):
                found = self._seeded(node) or self._pushed(node) if node.op == "call_function" else None
                if isinstance(found, KeptRows):
                    self.rows[node] = found
                elif isinstance(found, fx.Node):
                    node.replace_all_uses_with(found)
                else:
                    self._demand(node)
        drop_dead_code(self.graph)

    # ------------------------------------------------------------------------------------------------ in and out
    def _seeded(self, node: fx.Node) -> KeptRows | None:
        """A gradient put into zeros at one place of each example, however that is spelled."""
        spelled = {
            "aten.scatter_add": self._scatter,
            "aten.index_put": self._index_put,
            "aten.select_backward": self._select_backward,
            "aten.slice_backward": self._slice_backward,
        }
        read = spelled.get(op_name(node))
        return read(node) if read is not None else None

    def _select_backward(self, node: fx.Node) -> KeptRows | None:
        """Gradient of ``x[:, place]``, for a number ``place``."""
        place = argument(node, "index")
        if axis_of(node, value_of(node).dim()) != 1 or not isinstance(place, int):
            return None
        row = self.call(aten.unsqueeze.default, operand_of(node), 1, like=node)
        return KeptRows(row, place, sizes_given(node)[1], 0, 1)

    def _slice_backward(self, node: fx.Node) -> KeptRows | None:
        """Gradient of ``x[:, place : place + 1]``."""
        grad, start = operand_of(node), argument(node, "start")
        one = value_of(grad).dim() > 1 and is_one(value_of(grad).shape[1])
        along = axis_of(node, value_of(node).dim()) == 1 and argument(node, "step") == 1
        return KeptRows(grad, start, sizes_given(node)[1], 0, 1) if along and isinstance(start, int) and one else None

    def _index_put(self, node: fx.Node) -> KeptRows | None:
        """Gradient of ``x[arange(B), place]``."""
        zeros, places, grad = node.args[:3]
        if (
            not isinstance(zeros, fx.Node)
            or not has(zeros, Fact.ZEROS)
            or not isinstance(places, (list, tuple))
            or len(places) != 2
        ):
            return None
        example, place = places
        if (
            not isinstance(example, fx.Node)
            or not isinstance(place, fx.Node)
            or not counts(example)
            or not never_negative(place)
        ):
            return None
        if value_of(place).dim() != 1 or not same_size(value_of(example).shape[0], value_of(node).shape[0]):
            return None
        assert isinstance(grad, fx.Node)
        if value_of(grad).dim() != value_of(node).dim() - 1:  # a number or a vector for all examples
            return None
        row = self.call(aten.unsqueeze.default, grad, 1, like=node)
        return KeptRows(row, place, self._tokens(zeros), 0, 1) if _is_row(value_of(row), value_of(node)) else None

    def _tokens(self, zeros: fx.Node) -> Any:
        sizes: Any = zeros.args[1 if op_name(zeros) == "aten.new_zeros" else 0]
        return self.size(sizes, 1) if op_name(zeros) == "aten.zeros_like" else sizes[1]

    def _scatter(self, node: fx.Node) -> KeptRows | None:
        """A gradient scattered into zeros along axis 1, each example at one place: ``zeros.scatter_add(1, place.expand,
        row)``.
        """
        if node.args[1] != 1 or not has(node.args[0], Fact.ZEROS):
            return None
        index, row = operand_of(node, 2), operand_of(node, 3)
        if not all(
            _is_row(value_of(a), value_of(node)) for a in (index, row)
        ):  # a narrower index writes a part of the row
            return None
        while op_name(index) == "aten.expand" and isinstance(index.args[0], fx.Node):
            index = index.args[0]
        sizes, whole = value_of(index).shape, value_of(node).shape
        if any(s != 1 for s in sizes[1:]) or not same_size(sizes[0], whole[0]):
            return None
        return KeptRows(
            row, self.call(aten.reshape.default, index, [-1], like=node), self._tokens(operand_of(node)), 0, 1
        )

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
            sizes = [rows.tokens if a == axis else self.size(kept, a) for a in range(value_of(kept).dim())]
            zeros = self.call(aten.new_zeros.default, kept, sizes, like=node)
            if isinstance(rows.place, int):
                whole = self.call(aten.slice_scatter.default, zeros, kept, axis, *span(rows.place), like=node)
            else:
                whole = self.call(aten.scatter.src, zeros, axis, self._index(kept, rows), kept, like=node)
            self.whole[node] = (
                self.call(aten.flatten.using_ints, whole, rows.axis, axis, like=node) if rows.merged else whole
            )
        return self.whole[node]

    def _index(self, value: fx.Node, rows: KeptRows, axis: int | None = None) -> fx.Node:
        """The places as an index of ``value`` (already 1 long where rows are picked, or to be along ``axis``)."""
        shape = [1] * value_of(value).dim()
        shape[rows.batch] = -1
        place = self.call(aten.reshape.default, rows.place, shape, like=value)  # never a number: then a slice is taken
        sizes = [1 if a == axis else self.size(value, a) for a in range(len(shape))]
        return self.call(aten.expand.default, place, sizes, like=value)

    def size(self, node: fx.Node, axis: int) -> Any:
        size = value_of(node).shape[axis]
        return size if isinstance(size, int) else self.call(aten.sym_size.int, node, axis)

    # ------------------------------------------------------------------------------------------------ rows of other
    # values
    def row(self, node: fx.Node, rank: int, rows: KeptRows) -> fx.Node | None:
        """The rows that meet ``rows`` in a pointwise operation of results with ``rank`` axes (operands are aligned from
        the right).
        """
        value = value_of(node)
        if not isinstance(value, Tensor):
            return None
        known = self.rows.get(node)
        if known is not None:
            return known.kept if replace(known, kept=rows.kept) == rows and value.dim() == rank else None
        axis = rows.axis - (rank - value.dim())
        if axis < 0 or value.shape[axis] == 1:
            return node
        key = (node, rows.place, axis, rows.batch, rank, rows.merged)
        if key not in self.selected:
            self.selected[key] = self._recomputed(node, rank, rows) or self._select(node, axis, rank, rows)
        return self.selected[key]

    def _recomputed(self, node: fx.Node, rank: int, rows: KeptRows) -> fx.Node | None:
        """A pointwise helper of the transpose, computed from rows in the first place (whoever needs all of it has it
        all the same).
        """
        if (
            not is_pointwise(node)
            or (node.meta.get("lrp") or ("", ""))[1] != "internal"
            or value_of(node).dim() != rank
        ):
            return None
        parts = {a: self.row(a, rank, rows) if isinstance(value_of(a), Tensor) else a for a in node.all_input_nodes}
        if any(p is None for p in parts.values()):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: parts[a])
        return self.call(node.target, *args, like=node, **kwargs)

    def _select(self, node: fx.Node, axis: int, rank: int, rows: KeptRows) -> fx.Node | None:
        batch = rows.batch - (rank - value_of(node).dim())
        if rows.merged:
            return self.call(aten.index_select.default, node, axis, self._flat_place(rows), like=node)
        if isinstance(rows.place, int):
            return self.call(aten.slice.Tensor, node, axis, *span(rows.place), like=node)
        if batch >= 0 and value_of(node).shape[batch] != 1:
            return self.call(
                aten.gather.default, node, axis, self._index(node, replace(rows, batch=batch), axis), like=node
            )
        if batch < 0 or axis != batch + 1:
            return None
        flat = self.call(
            aten.squeeze.dim, node, batch, like=node
        )  # the same for all examples: each takes its row of it
        return self.call(
            aten.unsqueeze.default,
            self.call(aten.index_select.default, flat, batch, rows.place, like=node),
            axis,
            like=node,
        )

    def _flat_place(self, rows: KeptRows) -> fx.Node:
        """Numbers of the kept rows along the merged axis: example times tokens, plus place."""
        example = self.call(aten.arange.default, self.size(rows.kept, rows.axis), device=value_of(rows.kept).device)
        place = rows.place
        if isinstance(place, int) and place < 0:
            place = (
                self.call(operator.add, rows.tokens, place) if isinstance(rows.tokens, fx.Node) else rows.tokens + place
            )
        return self.call(aten.add.Tensor, self.call(aten.mul.Tensor, example, rows.tokens), place)

    # ------------------------------------------------------------------------------------------------ operations
    def _pushed(self, node: fx.Node) -> KeptRows | fx.Node | None:
        given = [a for a in node.all_input_nodes if a in self.rows]
        handler = pushed(node)
        if node.target is operator.getitem and operand_of(node) in self.results:
            number: Any = node.args[1]
            part: KeptRows | fx.Node = self.results[operand_of(node)][number]
            return part
        if not given or handler is None:
            return None
        found: KeptRows | fx.Node | list[KeptRows | fx.Node] | None = handler(self, node, self.rows[given[0]])
        if isinstance(found, list):
            self.results[node] = found
            return None
        return found

    def again(self, node: fx.Node, args: Any, rows: KeptRows, **changes: Any) -> KeptRows:
        """The node's operation on rows."""
        return replace(rows, kept=self.call(node.target, *args, like=node, **node.kwargs), **changes)


def _is_row(row: Tensor, whole: Tensor) -> bool:
    """Is it one row along axis 1, and as large as the whole along all others?"""
    return (
        row.dim() == whole.dim()
        and isinstance(row.shape[1], int)
        and row.shape[1] == 1
        and all(same_size(row.shape[a], whole.shape[a]) for a in range(whole.dim()) if a != 1)
    )


def push_rows(graph: fx.Graph, mode: Any, own_outputs: int = 0) -> None:
    """Carry coefficients that are zero but for one row of each example as that row, in place; ``mode``: the graph's
    abstract values.
    """
    Pusher(graph, mode, own_outputs).run()
