"""Examples: which one the rows of a value belong to, where a batch of fixed size is cut and put together otherwise."""

from __future__ import annotations

from typing import Any

from torch import fx

from lrp_fx.analysis.by_running import ByRunning, regular
from lrp_fx.analysis.row_indices import Owners, owners_of, picked, put, row_indices
from lrp_fx.ir.axes import origins
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import BATCH, SEGMENTED, UNKNOWN, Layout, regroup, single
from lrp_fx.ir.operators import has, operand_of, operator_of
from lrp_fx.ir.sizes import settled, shape_of


class Examples:
    """What is known of values while a program is walked along; ``example``, ``rows`` as in `Facts`.

    ``layouts``: filled by the walk. ``batch``: the (symbolic) batch size.
    """

    def __init__(self, layouts: dict[fx.Node, Layout], batch: Any) -> None:
        self.layouts, self.batch = layouts, settled(batch)
        self.example: dict[fx.Node, int] = {}
        self.rows: dict[fx.Node, tuple[int, ...]] = {}
        self._asked: dict[fx.Node, tuple[int, ...]] = {}
        self._by_running = ByRunning(layouts, self._rows_of, batch)

    def ask(self, node: fx.Node) -> Layout | None:
        """The layout that running the operation tells, for the traced sizes.

        Of a batch of any size only what holds for all is told: that an axis some times as long as the batch runs over
        it.
        """
        found = self._by_running.find(node)
        if found is None or isinstance(self.batch, int):
            self._asked[node] = found.rows if found is not None else ()
            return found.layout if found is not None else None
        symbol, shape = self.batch.node.expr, value_of(node).shape
        grows = [not isinstance(s, int) and symbol in s.node.expr.free_symbols for s in shape]
        return tuple(
            tuple((UNKNOWN if k == SEGMENTED or (k == BATCH and not of_batch) else k, s) for k, s in axis)
            for axis, of_batch in zip(found.layout, grows, strict=True)
        )

    def put_together(self, node: fx.Node) -> Layout | None:
        """The layout of values of single examples behind or beside each other, or of rows of theirs put into a value;
        None where it is none of that.
        """
        if op_name(node) == "aten.index_put":
            return self._put(node)
        if operator_of(node).axes is Axes.REGROUPED and self._is_segmented(operand_of(node)):
            return self._in_order(node)
        parts: Any = node.args[0] if operator_of(node).axes in (Axes.JOINED, Axes.STACKED) else ()
        several = {self.example.get(p) for p in parts if isinstance(p, fx.Node)}
        return self.ask(node) if len(several - {None}) > 1 else None

    def note(self, node: fx.Node, layout: Layout) -> None:
        """Note whose the rows of a value are: as was found, or as those of its operands, where they stay in order."""
        rows = self._asked.pop(node, ())
        if len(rows) == 1:
            self.example[node] = rows[0]
        length = _rows_along(layout)
        if length is None or node in self.example:
            return
        if not rows and not has(node, Fact.LOOKUP | Fact.INDEXING | Fact.SORTED | Fact.SCATTER):
            above = {self.rows.get(a) for a in node.all_input_nodes if self._is_segmented(a)}
            rows = (above.pop() if len(above) == 1 else None) or ()
        if rows and len(rows) == length:
            self.rows[node] = rows

    def _put(self, node: fx.Node) -> Layout | None:
        """The layout of a value that rows were put into, of examples that are known."""
        into, values = node.args[0], node.args[2]
        if not isinstance(self.batch, int) or self.batch == 1 or not isinstance(values, fx.Node):
            return None
        assert isinstance(into, fx.Node)
        place = put(node, self.batch, self._owners(into), self._owners(values))
        if place is None:
            return None
        shape = shape_of(node)
        axes = list(self.layouts.get(into) or (single(UNKNOWN, s) for s in shape))
        self._asked[node] = place.rows
        if len(place.rows) != 1:
            axes[place.axis] = place.along(self.batch)
        return tuple(axes)

    def _in_order(self, node: fx.Node) -> Layout | None:
        """The layout of rows that constants picked, as many of each example and one example after the other, where they
        are laid out by examples again.
        """
        rows = operand_of(node)
        owners = self._owners(rows) if isinstance(self.batch, int) else None
        place = regular(owners[1], self.batch) if owners is not None else None
        if owners is None or place is None or place.outer != 1:
            return None
        axes = list(self.layouts[rows])
        axes[owners[0]] = ((BATCH, self.batch), *single(self._kind_picked(rows), place.inner))
        return regroup(tuple(axes), shape_of(node))

    def _kind_picked(self, rows: fx.Node) -> str:
        """What the rows of an example are that an index picks: tokens, where it picks them along axes of tokens."""
        if not has(rows, Fact.INDEXING):
            return UNKNOWN
        source, indices = row_indices(rows)
        kinds = {k for i in indices for k, _ in self.layouts[source][i]} - {BATCH, SEGMENTED}
        return kinds.pop() if len(kinds) == 1 else UNKNOWN

    def _owners(self, node: fx.Node) -> Owners:
        """Whose the rows of a value are, back to where constants picked them.

        (Asked only for what is put together again: elsewhere the run itself follows the indices.)
        """
        layout = self.layouts.get(node)
        if layout is None or node in self.example:
            return None
        if self._is_segmented(node) and node not in self.rows:
            rows = self._followed(node)
            if rows and len(rows) == _rows_along(layout):
                self.rows[node] = rows
        return owners_of(layout, self.rows.get(node, ()))

    def _followed(self, node: fx.Node) -> tuple[int, ...]:
        """By the index that picked the rows, as those of an operand, or (rows turned round, cut) by running."""
        if has(node, Fact.INDEXING):
            return picked(node, self._owners(operand_of(node)))
        above = [self._kept(node, a) for a in node.all_input_nodes if self._is_segmented(a)]
        if None not in above:
            kept = {tuple(found[1].tolist()) for found in above if found is not None}
            return kept.pop() if len(kept) == 1 else ()
        found = self._by_running.find(node)
        owners = owners_of(found.layout, found.rows) if found is not None else None
        return tuple(owners[1].tolist()) if owners is not None else ()

    def _kept(self, node: fx.Node, operand: fx.Node) -> Owners:
        """Whose the rows of an operand are, if row i of the value is computed from row i of it."""
        to = next(i for i, axis in enumerate(self.layouts[node]) if any(k == SEGMENTED for k, _ in axis))
        found = self._owners(operand)
        return found if found is not None and origins(node, operand)[to] == found[0] else None

    def _is_segmented(self, node: fx.Node) -> bool:
        return any(k == SEGMENTED for axis in self.layouts.get(node, ()) for k, _ in axis)

    def _rows_of(self, node: fx.Node) -> tuple[int, ...]:
        return (self.example[node],) if node in self.example else self.rows.get(node, ())


def _rows_along(layout: Layout) -> int | None:
    """How many rows in an order of their own there are; None where there are none."""
    return next((s for axis in layout for k, s in axis if k == SEGMENTED), None)
