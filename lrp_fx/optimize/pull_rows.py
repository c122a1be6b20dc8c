"""Pull rows: what is only read at one token of each example is computed for that token alone.

The counterpart of `lrp_fx.optimize.push_rows`, from the target towards the inputs: once the transpose reads single
rows, the head, the last norm and the last block's maps are needed for these rows only. What the graph returns whole
stays whole.

requires  a relevance graph whose nodes have their abstract values
ensures   the same values but for rounding (a matrix product of one row may sum in another order than one of many)
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import GraphBuilder, drop_dead_code, iter_nodes, op_name, value_of
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import is_one
from lrp_fx.optimize.pull_operations import pulled
from lrp_fx.optimize.rows import RowRead, read_of, span
from lrp_fx.optimize.simplify import sizes_of_inputs

aten = torch.ops.aten


class Puller(GraphBuilder):
    """Recomputes, from the target towards the inputs, every value that is only read row by row."""

    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        super().__init__(graph, mode)
        self.sizes = sizes_of_inputs(graph)

    def run(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            if node.op == "call_function" and not node.users:
                self.graph.erase_node(node)
            elif node.op == "call_function" and pulled(node) is not None:
                self._visit(node)
        drop_dead_code(self.graph)

    def _visit(self, node: fx.Node) -> None:
        parts = list(node.users) if not isinstance(value_of(node), Tensor) else [node]
        if not all(p is node or p.target is operator.getitem for p in parts):
            return
        readers = [(part, user) for part in parts for user in part.users]
        reads = {
            read_of(user) if user.args[0] is part and part not in iter_nodes(user.args[1:], user.kwargs) else None
            for part, user in readers
        }
        if (
            len(reads) != 1
            or (read := reads.pop()) is None
            or (parts == [node] and is_one(value_of(node).shape[read.axis]))
        ):
            return
        first = min(user for _, user in readers)  # the first in the graph
        with self.graph.inserting_before(first):
            rows = self.pull(node, read)
            if rows is None:
                return
            if node.meta.get("residual"):
                rows.meta["residual"] = True
            parts_of_rows = {
                p: rows if p is node else self.call(operator.getitem, rows, p.args[1], like=p) for p in parts
            }
            found = [self._as_read(user, parts_of_rows[part], read) for part, user in readers]
        for (_, user), new in zip(readers, found, strict=True):
            user.replace_all_uses_with(new)
            self.graph.erase_node(user)  # no reader any more
        for done in dict.fromkeys((*parts, node)):
            self.graph.erase_node(done)

    def _as_read(self, user: fx.Node, rows: fx.Node, read: RowRead) -> fx.Node:
        """What a reader returned: most keep the axis."""
        return (
            self.call(aten.squeeze.dim, rows, read.axis, like=user)
            if has(user, Fact.INDEXING) or op_name(user) == "aten.select"
            else rows
        )

    # ------------------------------------------------------------------------------------------------ for the
    # operations
    def pull(self, node: fx.Node, read: RowRead) -> fx.Node | None:
        """The node's operation on the rows that are read, or None where it mixes rows."""
        rule = pulled(node)
        return rule(self, node, read) if rule is not None else None

    def aligned(self, node: fx.Node, rank: int, read: RowRead) -> fx.Node | None:
        """The rows of an operand that is broadcast to ``rank`` axes."""
        value = value_of(node)
        if not isinstance(value, Tensor):
            return node
        missing = rank - value.dim()
        if read.axis < missing or is_one(value.shape[read.axis - missing]):
            return node
        return self.rows(node, read.at(read.axis - missing, None if read.batch is None else read.batch - missing))

    def rows(self, node: fx.Node, read: RowRead) -> fx.Node:
        """One row of each example of a whole value, the axis kept (and the batch's axis put in front where there is
        none).
        """
        if isinstance(read.place, int):
            return self.call(aten.slice.Tensor, node, read.axis, *span(read.place), like=node)
        value, batch = value_of(node), read.batch or 0
        if batch < 0 or is_one(value.shape[batch]):  # the same for all examples, of which each takes another row
            for _ in range(-batch):
                node = self.call(aten.unsqueeze.default, node, 0, like=node)
            axis, batch = read.axis + max(-batch, 0), max(batch, 0)
            place = self.call(aten.reshape.default, read.place, [-1], like=node)
            return self.call(
                aten.transpose.int,
                self.call(aten.index_select.default, node, axis, place, like=node),
                batch,
                axis,
                like=node,
            )
        sizes: list[Any] = [1 if a == read.axis else self.size(node, a) for a in range(value.dim())]
        place = self.call(
            aten.reshape.default, read.place, [-1 if a == batch else 1 for a in range(value.dim())], like=node
        )
        return self.call(
            aten.gather.default, node, read.axis, self.call(aten.expand.default, place, sizes, like=node), like=node
        )

    def size(self, node: fx.Node, axis: int) -> Any:
        """A size, without a reader of the value where it is a size of the inputs."""
        size = value_of(node).shape[axis]
        return size if isinstance(size, int) else self.sizes.get(str(size)) or self.call(aten.sym_size.int, node, axis)


def pull_rows(graph: fx.Graph, mode: Any) -> None:
    """Compute what is only read at one row of each example for that row, in place; ``mode``: the graph's abstract
    values.
    """
    Puller(graph, mode).run()
