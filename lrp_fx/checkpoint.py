"""Checkpoint: forward values that the transpose needs are computed again when it gets there, instead of being kept.

What is kept: the inputs of the residual sums (one value of the stream for each half block), whatever one half block hands
to another, and all of the last block, which the transpose needs first. Peak memory then grows with the stream, not with
everything inside the blocks; a forward pass through their insides is paid for it.

requires  a finished relevance graph (equal expressions merged: done after this, it would undo it)
ensures   the same values, bit by bit: the same operations on the same operands
"""

from __future__ import annotations

import operator

from torch import fx

from lrp_fx.errors import InputError
from lrp_fx.program import ancestors, iter_nodes, output_node

#: Segments at the end that are kept: the head, and the two halves of the last block.
_KEPT_SEGMENTS = 3


def checkpoint(graph: fx.Graph, sums: set[fx.Node], wanted: int) -> None:
    """Recompute between residual sums, in place; ``wanted``: how many of the outputs are made by the forward pass alone."""
    forward = set(ancestors(iter_nodes(output_node(graph).args[0][:wanted])))  # type: ignore[index]
    forward |= {user for n in forward for user in n.users if user.target is operator.getitem}  # statistics that only the transpose reads
    segment = _segments(graph, forward, sums)
    if not sums:
        raise InputError("checkpoint=True computes again what lies between residual sums, and none was recognised in this model: leave it out")
    last = max((segment[n] for n in forward), default=0)
    kept = {n for n in forward if n.op != "call_function" or n in sums or not 0 < segment[n] <= last - _KEPT_SEGMENTS}
    kept |= {n for n in forward for user in n.users if user in forward and segment[user] > segment[n]}
    again: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node in forward or node.op == "output":
            continue
        needed = [a for a in node.all_input_nodes if a in forward and a not in kept]
        if needed:
            with graph.inserting_before(node):
                for a in needed:
                    node.replace_input_with(a, _recomputed(graph, a, kept, again))


def _segments(graph: fx.Graph, forward: set[fx.Node], sums: set[fx.Node]) -> dict[fx.Node, int]:
    """How many residual sums lie before each node of the forward pass, on the way that has most."""
    segment: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node in forward:
            segment[node] = max((segment[a] + (a in sums) for a in node.all_input_nodes), default=0)
    return segment


def _recomputed(graph: fx.Graph, node: fx.Node, kept: set[fx.Node], again: dict[fx.Node, fx.Node]) -> fx.Node:
    """A copy of a node, from what is kept; copies are made once, where they are first needed."""
    stack = [node]
    while stack:
        top = stack[-1]
        missing = [a for a in top.all_input_nodes if a not in kept and a not in again]
        if top in again:
            stack.pop()
        elif missing:
            stack.extend(missing)
        else:
            again[top] = graph.node_copy(top, lambda a: again.get(a, a))
            stack.pop()
    return again[node]
