"""Sums written as products with a column of ones: ``x @ torch.ones(n, 1)`` is ``x.sum(-1, keepdim=True)``."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from lrp_fx.ir.examples import example
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import call_like, value_of
from lrp_fx.ir.operators import has, operand_of
from lrp_fx.ir.sizes import is_one

aten = torch.ops.aten


def sum_instead(graph: fx.Graph, node: fx.Node) -> None:
    """Sums a left factor of its own shape but for the last axis, where the right one is made of ones."""
    left, right = node.args[:2]
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    rank = value_of(right).dim()
    alike = value_of(left).dim() == value_of(node).dim() + (rank == 1)
    if not alike or not (rank == 1 or is_one(value_of(right).shape[-1])) or not _is_made_of_ones(right):
        return
    with graph.inserting_before(node):
        result = call_like(graph, node, aten.sum.dim_IntList, left, [-1], rank > 1)
    if not isinstance(value_of(result), Tensor) or value_of(result).shape != value_of(node).shape:
        graph.erase_node(result)  # examples of the right factor that the left one has not
        return
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _is_made_of_ones(node: fx.Node) -> bool:
    """(A parameter of ones is a learned map, whatever it holds.)"""
    made = node
    while has(made, Fact.MOVE) and not has(made, Fact.CAST):
        made = operand_of(made)
    if not has(made, Fact.FILL):
        return False
    found = example(node, {})
    return isinstance(found, Tensor) and bool((found == 1).all())
