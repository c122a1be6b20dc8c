"""Unpooling: values put back at the places that a maximum was taken from, as the scatter that it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import call_like, op_name, value_of
from lrp_fx.ir.operators import operand_of

aten = torch.ops.aten


def scatter_unpooled(graph: fx.Graph, node: fx.Node) -> None:
    """``max_unpool2d`` and ``max_unpool3d``: places are counted through all axes of an image (or volume) together."""
    x, index = operand_of(node), operand_of(node, 1)
    output_size: Any = node.args[2]
    lead = value_of(x).dim() - (3 if op_name(node) == "aten.max_unpool3d" else 2)
    with graph.inserting_before(node):
        outer = [
            size if isinstance(size, int) else call_like(graph, node, aten.sym_size.int, x, i)
            for i, size in enumerate(value_of(x).shape[:lead])
        ]
        values, places = (call_like(graph, node, aten.reshape.default, a, [*outer, -1]) for a in (x, index))
        whole = [*outer, *output_size]
        kind = {"dtype": value_of(node).dtype, "device": value_of(node).device}
        empty = call_like(graph, node, aten.zeros.default, whole, **kind)
        flat = call_like(graph, node, aten.reshape.default, empty, [*outer, -1])
        put = call_like(graph, node, aten.scatter.src, flat, lead, places, values)
        result = call_like(graph, node, aten.reshape.default, put, whole)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
