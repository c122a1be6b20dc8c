"""Rematerialise: forward values that the transpose needs are computed again where it gets there, instead of being kept.

*Blocks* (``checkpoint=True``). What is kept: the inputs of the residual sums (one value of the stream for each half
block), whatever one half block hands to another, and all of the last block, which the transpose needs first. Peak
memory then grows with the stream, not with everything inside the blocks; a forward pass through their insides is paid
for it.

*Moves*. A forward value that is only another one rearranged is made again where the transpose reads it: rotary
encodings multiply half of a query turned round with a sine, and the transpose reads that half turned round once more;
the query is kept for it in any case, and a second copy of it costs less than keeping the first all the way.

requires  a finished relevance graph (equal expressions merged: done after this, it would undo it)
ensures   the same values, bit by bit: the same operations on the same operands; with moves, nothing is kept longer than
          before
"""

from __future__ import annotations

import operator

from torch import fx

from lrp_fx.errors import InputError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import copy_node, is_tensor, made_for
from lrp_fx.ir.operators import has

#: Segments at the end that are kept: the head, and the two halves of the last block.
_KEPT_SEGMENTS = 3


def rematerialize_blocks(graph: fx.Graph, sums: set[fx.Node], forward_outputs: int) -> None:
    """Recompute between residual sums, in place; ``forward_outputs``: how many of the outputs are made by the forward
    pass alone.
    """
    forward = made_for(graph, forward_outputs)
    forward |= {
        user for n in forward for user in n.users if user.target is operator.getitem
    }  # statistics that only the transpose reads
    segment = _segments(graph, forward, sums)
    if not sums:
        raise InputError(
            "checkpoint=True computes again what lies between residual sums, and none was recognised in this model: "
            "leave it out"
        )
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
            again[top] = copy_node(graph, top, lambda a: again.get(a, a))
            stack.pop()
    return again[node]


def _is_shuffle(node: fx.Node) -> bool:
    """Numbers of the operands in another order, or with the other sign, in memory of their own?"""
    return has(node, Fact.SHUFFLE | Fact.SIGN)


def _is_on_the_way(node: fx.Node) -> bool:
    """A shuffle, or a part looked at."""
    return _is_shuffle(node) or (has(node, Fact.SELECTION) and has(node, Fact.VIEW))


def rematerialize_moves(graph: fx.Graph, forward_outputs: int) -> None:
    """Copy such operations, in place; ``forward_outputs``: how many of the outputs are made by the forward pass
    alone.
    """
    forward = made_for(graph, forward_outputs)
    for node in list(graph.nodes):
        readers = [] if node not in forward or not _is_shuffle(node) else [u for u in node.users if u not in forward]
        if not readers or len(readers) == len(node.users):
            continue
        chain = _chain(node)
        sources = {
            a for n in chain for a in n.all_input_nodes if a not in chain and a.op == "call_function" and is_tensor(a)
        }
        if all(any(u not in forward and u > max(readers) for u in a.users) for a in sources):
            _copy(graph, chain, min(readers), node, readers)


def _chain(node: fx.Node) -> set[fx.Node]:
    """The node and the shuffles that it is made by."""
    found = {node}
    stack = [node]
    while stack:
        for operand in stack.pop().all_input_nodes:
            if _is_on_the_way(operand) and operand not in found:
                found.add(operand)
                stack.append(operand)
    return found


def _copy(graph: fx.Graph, chain: set[fx.Node], before: fx.Node, node: fx.Node, readers: list[fx.Node]) -> None:
    made: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(before):
        for n in sorted(chain):
            made[n] = copy_node(graph, n, lambda a: made.get(a, a))
    for reader in readers:
        reader.replace_input_with(node, made[node])
