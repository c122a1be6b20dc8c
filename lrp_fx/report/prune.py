"""Prune: of a graph of relevance, the edges that matter.

requires  a graph without circles whose edges lead from lower to upper nodes, each with a ``weight`` (relevance), and
          the node that all of it flows from
ensures   the edges that were chosen, and of these what hangs together with the score

``threshold`` keeps edges with a share of the score. ``share`` keeps the edges with most influence, until they have
that share of all influence: an edge's influence is its part of the absolute amounts that flow from its upper node,
times that node's own influence, and the score's is 1 (Ameisen et al., Circuit Tracing, 2025; circuit-tracer prunes so).
"""

from __future__ import annotations

from itertools import accumulate

import networkx as nx

from lrp_fx.errors import InputError

Edge = tuple[str, str]


def influences(
    graph: nx.DiGraph, score: str, kept: set[Edge] | None = None
) -> tuple[dict[str, float], dict[Edge, float]]:
    """Of each node and edge; kept: the edges that influence goes along, all if None."""
    nodes = dict.fromkeys(graph.nodes, 0.0)
    nodes[score] = 1.0
    edges: dict[Edge, float] = {}
    for upper in reversed(list(nx.topological_sort(graph))):
        below = [(lower, abs(data["weight"])) for lower, _, data in graph.in_edges(upper, data=True)]
        amount = sum(weight for _, weight in below)
        for lower, weight in below:
            edge = (lower, upper)
            if amount > 0 and (kept is None or edge in kept):
                edges[edge] = nodes[upper] * weight / amount
                nodes[lower] += edges[edge]
    return nodes, edges


def pruned(graph: nx.DiGraph, score: str, threshold: float, share: float | None) -> tuple[nx.DiGraph, float]:
    """The graph that is left, and the share of all influence that reaches its lower ends.

    Raises `InputError` for a threshold or share that is none.
    """
    numbers = isinstance(threshold, (int, float)) and isinstance(share, (int, float, type(None)))
    if not numbers or not threshold >= 0 or (share is not None and not 0 < share <= 1):
        raise InputError(f"threshold is from 0 on, share between 0 and 1; got {threshold!r}, {share!r}")
    if share is None:
        least = threshold * abs(graph.nodes[score]["relevance"])
        chosen = {(a, b) for a, b, data in graph.edges(data=True) if data["weight"] and abs(data["weight"]) >= least}
    else:
        _, found = influences(graph, score)
        order = sorted(found, key=lambda edge: found[edge], reverse=True)
        sums = list(accumulate(found[edge] for edge in order))
        count = next((n for n, amount in enumerate(sums, 1) if amount >= share * sums[-1]), len(order))
        chosen = {edge for edge in order[:count] if found[edge]}
    part = graph.edge_subgraph(chosen)
    reached = {score} | (nx.ancestors(part, score) if score in part else set())
    left = graph.subgraph(reached).edge_subgraph([(a, b) for a, b in chosen if b in reached]).copy()
    left.add_node(score, **graph.nodes[score])
    nodes, edges = influences(graph, score, {(a, b) for a, b in left.edges})
    for edge, amount in edges.items():
        left.edges[edge]["influence"] = amount
    for node in left.nodes:
        left.nodes[node]["influence"] = nodes[node]
    ends = [node for node in left.nodes if not graph.in_degree(node)]
    return left, sum(nodes[node] for node in ends)
