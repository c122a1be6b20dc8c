"""The books of sites, while a relevance graph grows: out = in + sinks at every operation and every leaf."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import fx

from lrp_fx.rewrite.application import Application
from lrp_fx.transpose.signature import SiteInfo

aten = torch.ops.aten


class SiteBooks:
    """``credits``: what was handed to a value, by those who read it; ``rows``: (site, handed to it, its own totals).

    Does nothing unless ``audit``.
    """

    def __init__(self, graph: fx.Graph, audit: bool) -> None:
        self.graph, self.audit = graph, audit
        self.credits: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        self.rows: list[tuple[SiteInfo, list[fx.Node], list[fx.Node]]] = []

    @property
    def infos(self) -> list[SiteInfo]:
        return [info for info, _, _ in self.rows]

    def credit(self, node: fx.Node, total: fx.Node) -> None:
        """Relevance handed to a value by one of its readers."""
        if self.audit:
            self.credits[node].append(total)

    def hand_on(self, part: fx.Node, whole: fx.Node) -> None:
        """What was handed to one result of an operation was handed to the operation."""
        self.credits[whole].extend(self.credits.pop(part, []))

    def note(self, info: SiteInfo, node: fx.Node, totals: list[fx.Node]) -> None:
        """The books of an operation: all that was handed to it, and what it did with it."""
        if self.audit:
            self.rows.append((info, self.credits.pop(node, []), totals))

    def note_leaf(self, info: SiteInfo, node: fx.Node, totals: list[fx.Node], *, one_use: bool) -> None:
        """The books of a leaf; with ``one_use`` those of its next use, in the order in which they arrived."""
        if not self.audit:
            return
        credits = self.credits.pop(node, [])
        if one_use:
            self.credits[node], credits = credits[1:], credits[:1]
        self.rows.append((info, credits, totals))

    def table(self) -> list[fx.Node]:
        """One tensor (sites, 4): out, in, sinks, scale."""
        if not self.audit:
            return []
        rows: list[fx.Node] = []
        for _, credits, totals in self.rows:
            rows += [self._sum(credits), self._sum(totals[:-2]), totals[-2], totals[-1]]
        stacked = self.graph.call_function(aten.stack.default, (rows,))
        return [self.graph.call_function(aten.reshape.default, (stacked, [-1, 4]))]

    def _sum(self, nodes: list[fx.Node]) -> fx.Node:
        if len(nodes) == 1:
            return nodes[0]
        stacked = self.graph.call_function(aten.stack.default, (list(nodes),))
        return self.graph.call_function(aten.sum.default, (stacked,))


def site_of(application: Application) -> SiteInfo:
    """An operation with its rule and its place."""
    return SiteInfo(application.node.name, application.rule.name, *application.place)
