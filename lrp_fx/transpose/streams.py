"""The books along residual streams, and of position pair by pair, while a relevance graph grows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from lrp_fx.analysis.provenance import POSITION
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import BatchAxis, batch_axis, token_axes
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import shape_of
from lrp_fx.ir.source import module_path
from lrp_fx.structure.injections import Injection
from lrp_fx.structure.structure import Structure
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.signature import DepthInfo, PairsInfo
from lrp_fx.transpose.standing import batch_first
from lrp_fx.transpose.vjp import per_example, relevance_of


class StreamBooks:
    """Notes relevance at the depths of streams, what passes them by, and scores that are read pair by pair.

    ``streams``: depth -> (B, T); ``passing``: (total, depths of each stream that it passes); ``pairs``: score ->
    relevance.
    """

    def __init__(self, builder: RelevanceBuilder, structure: Structure) -> None:
        self.builder, self.structure = builder, structure
        self.depths = {node for stream in structure.streams for node in stream.depths}
        self.shares = {i.pairs[0]: i.pairs[1] for i in structure.injections if i.pairs is not None}
        self.streams: dict[fx.Node, fx.Node] = {}
        self.passing: list[tuple[fx.Node, list[tuple[int, ...]]]] = []
        self.pairs: dict[fx.Node, fx.Node] = {}

    def begin_again(self) -> None:
        """Forget what was noted so far."""
        self.streams.clear()
        self.passing.clear()
        self.pairs.clear()

    def note(self, node: fx.Node, c: fx.Node) -> None:
        """All relevance has arrived at a node, as the coefficient ``c``."""
        if node in self.depths:
            self.streams[node] = self._rows(node, c)
        if node in self.shares:
            self.pairs[node] = self._pairs(node, c)

    def note_passing(self, user: fx.Node, operand: fx.Node, value: fx.Node, c: fx.Node, axis: BatchAxis | None) -> None:
        """Sum what flows past a depth of a stream into something below it (position is booked use by use instead)."""
        if self.builder.rewritten.leaves.get(operand) == POSITION:
            return
        depths = [cut.passed(user, operand) for cut in self.structure.cuts]
        if any(depths):
            builder = self.builder
            (total,) = builder.add_by_example(
                lambda at: lambda x, c_x, b: [per_example(relevance_of(x, c_x, safe=True), at, b)],
                axis,
                [builder.env[value], c, builder.batch],
                (operand.name, "passing", 0),
                (),
            )
            self.passing.append((total, depths))

    def _rows(self, node: fx.Node, c: fx.Node) -> fx.Node:
        """(B, T): relevance of the rows of the residual stream at a depth."""
        layout = self.builder.facts.layout[node]
        batch, tokens = batch_axis(layout), token_axes(layout)
        assert batch is not None

        def run(x: Tensor, c_x: Tensor) -> list[Any]:
            R = relevance_of(x, c_x, safe=True)
            rows = R.permute(batch.axis, *tokens, *(a for a in range(R.dim()) if a != batch.axis and a not in tokens))
            rows = rows.flatten(1 + len(tokens)).sum(-1) if rows.dim() > 1 + len(tokens) else rows
            return [rows.flatten(1)]

        (rows,) = self.builder.add(run, [self.builder.env[node], c], (node.name, "stream", 0), (batch, tuple(tokens)))
        return rows  # type: ignore[no-any-return]

    def _pairs(self, node: fx.Node, c: fx.Node) -> fx.Node:
        """(B, ..., queries, keys): the share of a term of the scores that is position's."""
        builder, axis, share = self.builder, batch_axis(self.builder.facts.layout.get(node)), self.shares[node]
        (pairs,) = builder.add(
            lambda x, c_x, b: [batch_first(relevance_of(x, c_x, safe=True) * share, axis, b)],
            [builder.env[node], c, builder.batch],
            (node.name, "pairs", 0),
            (axis, share),
        )
        return pairs  # type: ignore[no-any-return]

    def pairs_info(self, injection: Injection) -> PairsInfo | None:
        """Where an injection's relevance is read pair by pair, if it arrived there."""
        if injection.pairs is None or injection.pairs[0] not in self.pairs:
            return None
        node, owned = injection.pairs[0], self.builder.owners.owned
        queries, keys = value_of(_sum_of_scores(node)).shape[-2:]
        return PairsInfo(node.name, (owned(queries, node), owned(keys, node, keys=True)))

    def infos(self, leaf_nodes: list[fx.Node], sink_nodes: list[fx.Node | None]) -> list[tuple[DepthInfo, fx.Node]]:
        """Every depth that relevance reaches: what lies above it, and its relevance. The arguments say where each leaf
        and
        each sink is booked (None: at the target, above everything)."""
        found = []
        for number, cut in enumerate(self.structure.cuts):
            for depth, node in enumerate(cut.stream.depths):
                if node not in self.streams:
                    continue
                leaves = tuple(i for i, at in enumerate(leaf_nodes) if not cut.is_below(at, depth))
                sinks = tuple(i for i, at in enumerate(sink_nodes) if at is None or not cut.is_below(at, depth))
                passing = tuple(i for i, (_, depths) in enumerate(self.passing) if depth in depths[number])
                tokens = token_axes(self.builder.facts.layout[node])
                owner = self.builder.owners.owner(value_of(node).shape[tokens[0]], node) if len(tokens) == 1 else None
                found.append(
                    (DepthInfo(number, node.name, module_path(node), owner, leaves, sinks, passing), self.streams[node])
                )
        return found


def _sum_of_scores(term: fx.Node) -> fx.Node:
    """The sum that a term of scores joins, if it is as large: it says of which length symbolic sizes are that the term
    has computed (a counter that runs down by steps of -1.0).
    """
    return next((u for u in term.users if has(u, Fact.SUM) and shape_of(u) == shape_of(term)), term)
