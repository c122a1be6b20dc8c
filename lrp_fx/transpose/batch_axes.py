"""Batch axes: where the examples of a value are, in a graph that knows its sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from lrp_fx.analysis.beside import Beside
from lrp_fx.analysis.provenance import Facts
from lrp_fx.analysis.segment_ids import Add
from lrp_fx.ir.layout import BatchAxis, batch_axis


class BatchAxes:
    """Asked by node. What is beside a batch with tokens on both sides is added to the graph, once for each value."""

    def __init__(self, facts: Facts, env: dict[fx.Node, fx.Node], add: Add, batch: Any) -> None:
        self.facts, self.env, self.add, self.batch = facts, env, add, batch
        self.sizes: dict[Beside, Any] = {}

    def of(self, node: fx.Node) -> BatchAxis | None:
        """The axis that holds the batch, None where there is none (or it is not known)."""
        axis = batch_axis(self.facts.layout.get(node))
        found = self.facts.beside.get(node)
        if axis is None or axis.is_told_apart or found is None:
            return axis
        size = self._size(found)
        return replace(axis, outer=size) if found.before else replace(axis, inner=size)

    def _size(self, beside: Beside) -> Any:
        """The number of elements: a node, a number where all sizes are fixed."""
        if beside not in self.sizes:
            nodes: list[fx.Node] = []
            own = (self.of(beside.node) or beside.own).given(nodes)

            def run(x: Tensor, batch: Any, *told: Any) -> list[Any]:
                split = own.with_sizes(told).split(x, batch)
                size: Any = split.shape[own.axis if beside.before else own.axis + 2]
                for axis in beside.axes:
                    size = size * x.shape[axis]
                return [size]

            tag = (beside.node.name, "beside", 0)
            (self.sizes[beside],) = self.add(run, [self.env[beside.node], self.batch, *nodes], tag)
        return self.sizes[beside]
