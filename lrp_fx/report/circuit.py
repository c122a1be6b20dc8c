"""Circuit: the edges of one example that matter, as a graph that can be drawn, written and walked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from lrp_fx.errors import needed
from lrp_fx.ir.axis_names import QUERIES, TOKENS
from lrp_fx.render import circuit as drawn
from lrp_fx.render.write import write_text
from lrp_fx.report.circuit_tracer import attribution_graph, noted
from lrp_fx.report.edges import SCORE, Edges, Unit
from lrp_fx.report.explained import ExplainedScore
from lrp_fx.report.prune import pruned

TOKEN, LEAF, SINK = "token", "leaf", "sink"


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """What is left of the edges of one example. Relevance flows from the node ``score`` downwards, and edges lead the
    way that data takes: from the lower node to the upper.

    ``graph``: a `networkx.DiGraph`; nodes have ``kind`` (``score``, ``heads``, ..., ``token``, ``leaf``, ``sink``),
    ``label``, ``relevance``, ``influence``, ``row`` (of a drawing, from below), ``place``, ``layer`` (-1: none),
    ``index`` and ``token`` (-1: of all); edges ``weight`` (relevance) and ``influence`` (share of the score's absolute
    flow). ``kept``: the share of that flow that reaches leaves and sinks along the edges that are left. ``words``:
    what the tokens read.
    """

    graph: nx.DiGraph
    explained: ExplainedScore
    ruleset: str
    kept: float
    words: tuple[str, ...]

    def __len__(self) -> int:
        """How many edges there are."""
        return int(self.graph.number_of_edges())

    def __repr__(self) -> str:
        return f"Circuit({self.graph.number_of_nodes()} nodes, {len(self)} edges, {self.kept:.0%} of the flow)"

    @property
    def nodes(self) -> list[str]:
        """Names, from the score downwards."""
        rows = self.graph.nodes
        last = (TOKEN, LEAF, SINK)
        order = {n: last.index(d["kind"]) if d["kind"] in last else 0 for n, d in rows.items()}
        return sorted(rows, key=lambda n: (-rows[n]["row"], order[n], rows[n]["place"], rows[n]["index"]))

    def top(self, count: int = 10) -> list[tuple[str, str, float]]:
        """The edges with most relevance, whatever its sign: (upper, lower, relevance)."""
        found = [(b, a, float(w)) for a, b, w in self.graph.edges(data="weight")]
        return sorted(found, key=lambda edge: -abs(edge[2]))[:count]

    def show(self, console: Any = None) -> None:
        """Print each node with what flows from it, the score first. console: a `rich.console.Console`."""
        needed("rich", "cli")
        drawn.show(self._drawing(), console)

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained page with the graph drawn and its edges as a table; written to ``path`` if one is given."""
        return drawn.to_html(self._drawing(), path)

    def _repr_html_(self) -> str:
        return drawn.fragment(self._drawing())

    def to_graphml(self, path: str | Path) -> None:
        """Write the graph for Gephi, yEd, Cytoscape and others; raises `InputError` where that cannot be."""
        write_text(path, "\n".join(nx.generate_graphml(self.graph)))

    def to_json(self, path: str | Path | None = None) -> str:
        """The graph in networkx' node-link form (`networkx.node_link_graph` reads it); written if a path is given."""
        text = json.dumps(nx.node_link_data(self.graph, edges="edges"), ensure_ascii=False)
        if path is not None:
            write_text(path, text)
        return text

    def to_circuit_tracer(self, path: str | Path, *, scan: str = "lrp_fx") -> None:
        """Write the graph for the viewer of circuit-tracer (version 0.4.1, schema 1; Neuronpedia reads the same).

        path: ``folder/name.json``; the name is the graph's, and ``folder/graph-metadata.json``, which the viewer's
        server lists, gets it too: ``circuit-tracer start-server --graph_file_dir folder``. scan: what the viewer takes
        for the name of the model. Places are drawn as layers of features, one above the other, sinks as errors; there
        are no features behind them to be looked up.
        """
        place = Path(path)
        data = attribution_graph(self.graph, place.stem, scan, self.explained, self.words)
        write_text(place, json.dumps(data, ensure_ascii=False, indent=1))
        noted(place.parent / "graph-metadata.json", data["metadata"])

    def _drawing(self) -> drawn.Drawing:
        nodes = [
            drawn.Node(n, d["label"], d["kind"], d["relevance"], d["row"], d["place"])
            for n, d in ((n, self.graph.nodes[n]) for n in self.nodes)
        ]
        edges = [drawn.Edge(b, a, w) for a, b, w in self.graph.edges(data="weight")]
        return drawn.Drawing(self.explained.title, self.ruleset, nodes, edges, self.kept)


def circuit_of(
    edges: Edges,
    example: int,
    explained: ExplainedScore,
    ruleset: str,
    words: Mapping[tuple[str, int], str],
    *,
    threshold: float,
    share: float | None,
) -> Circuit:
    """The edges of one example that have a share of the score (see `lrp_fx.report.prune`). words: (input, place) ->
    what the token reads.

    Raises `InputError` for thresholds that are none.
    """
    graph, kept = pruned(_whole(edges, example, words), SCORE, threshold, share)
    longest = max(((i, n) for i, n in words), key=lambda key: key[1], default=("", -1))
    told = tuple(words.get((longest[0], n), "") for n in range(longest[1] + 1))
    return Circuit(graph, explained, ruleset, kept, told)


def _whole(edges: Edges, b: int, words: Mapping[tuple[str, int], str]) -> nx.DiGraph:
    """Every edge of one example."""
    graph: nx.DiGraph = nx.DiGraph()
    rows = {place: 1 + n for n, place in enumerate(dict.fromkeys(u.place for u in edges.units))}

    def add(name: str, kind: str, relevance: Any, row: int, index: int, **others: Any) -> None:
        facts = {"label": name, "layer": -1, "place": kind, "token": -1, **others}
        graph.add_node(name, kind=kind, relevance=float(relevance), row=row, index=index, **facts)

    add(SCORE, SCORE, edges.score[b], 1 + len(rows), 0)
    number: dict[str, int] = {}
    for n, unit in enumerate(edges.units):
        own = number[unit.place] = number.get(unit.place, -1) + 1
        at = {"layer": -1 if unit.layer is None else unit.layer, "place": unit.place, "token": _token(unit)}
        add(unit.name, unit.kind, edges.relevance[b, n], rows[unit.place], own, **at)
    uppers = (SCORE, *edges.names)
    lower = [(name, edges.direct[b, :, n]) for n, name in enumerate(edges.names)]
    for name, tokens in edges.tokens.items():
        for k in range(tokens.shape[2]):
            node, R = f"{name}[{k}]", tokens[b, :, k]
            add(node, TOKEN, R.sum(), 0, k, label=words.get((name, k), node), place=name, token=k)
            lower.append((node, R))
    ends = [(f"{LEAF} {name}", LEAF, R[b]) for name, R in edges.leaves.items() if name not in edges.tokens]
    ends += [(f"{SINK} {name}", SINK, R[b]) for name, R in edges.sinks.items()]
    for k, (node, kind, R) in enumerate(ends):
        add(node, kind, R.sum(), 0, k, label=node.split(" ", 1)[1])
        lower.append((node, R))
    for name, R in lower:
        graph.add_edges_from((name, uppers[u], {"weight": float(R[u])}) for u in R.nonzero().flatten().tolist())
    return graph


def _token(unit: Unit) -> int:
    """The token that a unit stands at, -1 for one of all tokens."""
    return next((i for axis, i in zip(unit.axes, unit.index, strict=True) if axis in (TOKENS, QUERIES)), -1)
