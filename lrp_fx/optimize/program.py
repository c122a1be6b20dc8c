"""The relevance graph while it is optimised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from lrp_fx.errors import LrpError
from lrp_fx.ir.leftovers import with_source


@dataclass(frozen=True)
class RelevanceProgram:
    """A flat graph: inputs and target arguments -> the model's own outputs, the score, relevances and books.

    ``root``: holds the tensors that the graph reads. ``mode``: the fake mode of its abstract values. ``own_outputs``:
    how many of its first outputs are the model's own. ``whole``: does it return these at all? ``recompute``: are
    forward values to be computed again instead of kept?
    """

    graph: fx.Graph
    root: nn.Module
    mode: Any
    own_outputs: int
    whole: bool = True
    recompute: bool = False

    @property
    def forward_outputs(self) -> int:
        """How many of the outputs are made by the forward pass alone: the model's own, and the score."""
        return self.own_outputs + 1

    def module(self) -> fx.GraphModule:
        """The graph as a module that runs."""
        return with_source(fx.GraphModule(self.root, self.graph, "RelevanceGraph"))


def copy(program: RelevanceProgram) -> RelevanceProgram:
    """The same program with nodes of its own."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    return replace(program, graph=graph)


def size(program: RelevanceProgram) -> int:
    """Number of nodes."""
    return len(program.graph.nodes)


def check_functional(program: RelevanceProgram) -> None:
    """Raise unless every name is defined before use and nothing is written to."""
    program.graph.lint()
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            raise LrpError(f"%{node.name}: a relevance graph holds function calls only, found {node.op}")
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise LrpError(f"%{node.name} = {node.target} writes to its argument")
