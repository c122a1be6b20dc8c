"""Residual streams: chains of sums of activations of one shape, and the depths at which they can be cut.

requires  a rewritten program
ensures   streams in graph order; each has the depths at which a block of the model begins, and its end. A block is what
          stands between two self-mixings of the stream's tokens; a stream that nothing mixes is cut at every sum.

At a depth the stream carries relevance ``R``; what was handed out above it (nearer the output) went to position leaves,
sinks, or past the stream into something else that lies below (an encoder read by every block of a decoder):

    score = R(stream) + leaves above + sinks above + what passed by
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import batch_axis, token_axes
from lrp_fx.ir.operators import has, is_matrix_product, operator_of
from lrp_fx.rewrite.application import Rewritten


@dataclass(frozen=True)
class ResidualStream:
    """``sums``: the start of the stream and every residual sum on it; ``depths``: those where a block begins, and the
    last.
    """

    sums: tuple[fx.Node, ...]
    depths: tuple[fx.Node, ...]


def find_streams(rewritten: Rewritten) -> list[ResidualStream]:
    """Every chain of residual sums, with the nodes where it is cut."""
    order = {n: i for i, n in enumerate(rewritten.program.graph.nodes)}
    chains = _chains(rewritten, order)
    found = []
    for chain in chains:
        depths = [_with_rows(rewritten, node) for node in _depths(rewritten, chain, order)]
        if all(d is not None for d in depths):
            found.append(ResidualStream(tuple(chain), tuple(d for d in depths if d is not None)))
    return found


def layers_of(rewritten: Rewritten, streams: list[ResidualStream]) -> dict[fx.Node, int]:
    """Block (from 0) of every node computed from a stream: the number of depths before it, less one, in its own
    stream.
    """
    begins = {node: (s, i) for s, stream in enumerate(streams) for i, node in enumerate(stream.depths)}
    found: dict[fx.Node, tuple[int, int]] = {}
    for node in rewritten.program.graph.nodes:
        above = [begins.get(a) or found[a] for a in node.all_input_nodes if a in begins or a in found]
        if above:
            found[node] = max(above)
    return {n: layer for n, (_, layer) in found.items()}


def _chains(rewritten: Rewritten, order: dict[fx.Node, int]) -> list[list[fx.Node]]:
    """Residual sums linked to the sum that their skip connection carries on; each chain starts with its first skip."""
    sums = [n for n, a in rewritten.applications.items() if a.kind == "residual"]
    is_sum = set(sums)
    chains: dict[fx.Node, list[fx.Node]] = {}
    for node in sums:
        above = _carried_on(rewritten.flow, node, rewritten.applications[node].operands, is_sum, order)
        if above in chains and chains[above][-1] is above:
            chain = chains.pop(above)
            chain.append(node)
        else:
            chain = [above, node]
        chains[node] = chain
    return sorted(chains.values(), key=lambda c: order[c[0]])


def _carried_on(
    flow: Dataflow, node: fx.Node, terms: list[fx.Node], is_sum: set[fx.Node], order: dict[fx.Node, int]
) -> fx.Node:
    """The latest earlier sum that a term is a copy of, up to normalisations; without one, the earliest term."""
    shape = value_of(node).shape
    stack, seen = list(terms), set(terms)
    found = []
    while stack:
        term = stack.pop()
        if term in is_sum:
            found.append(term)
            continue
        if is_matrix_product(term) or flow.is_leaf(term):
            continue
        for operand in flow.operands(term):
            if operand not in seen and (getattr(value_of(operand), "shape", None) == shape or has(term, Fact.MOVE)):
                seen.add(operand)
                stack.append(operand)
    return max(found, key=order.__getitem__) if found else min(terms, key=order.__getitem__)


def _depths(rewritten: Rewritten, chain: list[fx.Node], order: dict[fx.Node, int]) -> list[fx.Node]:
    nodes = list(rewritten.program.graph.nodes)
    begins = [
        top for top, bottom in pairwise(chain) if _mixes_tokens(rewritten, top, nodes[order[top] + 1 : order[bottom]])
    ]
    return [*(begins or chain[:-1]), chain[-1]]


def _mixes_tokens(rewritten: Rewritten, top: fx.Node, between: list[fx.Node]) -> bool:
    """Does the branch from ``top`` mix tokens of ``top`` with each other (attention to itself, a convolution, a
    scan)?
    """
    inside = {top}
    for node in between:
        operands = [a for a in node.all_input_nodes if a in inside and CONTENT in rewritten.facts.sources[a]]
        if not operands:
            continue
        inside.add(node)
        several = is_matrix_product(node) or operator_of(node).axes is Axes.ATTENTION
        if has(node, Fact.MIXER) or (several and len(operands) > 1):
            return True
    return False


def _with_rows(rewritten: Rewritten, node: fx.Node) -> fx.Node | None:
    """The node, or the reshaped copy of it that goes on, in which batch and tokens have axes of their own."""
    layout = rewritten.facts.layout.get(node)
    axis = batch_axis(layout)
    if axis is not None and not axis.is_merged and token_axes(layout):
        return node
    users = [u for u in node.users if u in rewritten.applications]
    return _with_rows(rewritten, users[0]) if len(users) == 1 and has(users[0], Fact.MOVE) else None


@dataclass(frozen=True)
class Cut:
    """Which nodes lie below each depth of one stream: node -> the first depth that it leads to."""

    stream: ResidualStream
    first: dict[fx.Node, int]

    def is_below(self, node: fx.Node, depth: int) -> bool:
        """Does the node lead to the stream at this depth?"""
        return node in self.first and self.first[node] <= depth

    def passed(self, user: fx.Node, operand: fx.Node) -> tuple[int, ...]:
        """Depths that relevance passes by when it flows from ``user`` to ``operand``."""
        if operand not in self.first:
            return ()
        start, end = self.first[operand], self.first.get(user, len(self.stream.depths))
        return tuple(d for d in range(start, end) if self.stream.depths[d] is not operand)


def find_cuts(rewritten: Rewritten, streams: list[ResidualStream]) -> list[Cut]:
    """One walk per stream, from its first depth to its last: each node is visited once."""
    return [Cut(s, _first_depths(rewritten, s)) for s in streams]


def _first_depths(rewritten: Rewritten, stream: ResidualStream) -> dict[fx.Node, int]:
    first: dict[fx.Node, int] = {}
    for depth, node in enumerate(stream.depths):
        stack = [node]
        while stack:
            below = stack.pop()
            if below in first:
                continue
            first[below] = depth
            application = rewritten.applications.get(below)
            stack.extend(application.operands if application is not None and not application.rule.frozen else ())
    return first
