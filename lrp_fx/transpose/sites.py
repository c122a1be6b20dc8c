"""The books of sites, while a relevance graph grows: out = in + sinks at every operation and every leaf."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from lrp_fx.rewrite.application import Application
from lrp_fx.rule import precise
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.signature import SiteInfo
from lrp_fx.transpose.vjp import relevance_of, sum_by_rows

aten = torch.ops.aten


class SiteBooks:
    """``credits``: what was handed to a value, by those who read it; ``rows``: (site, handed to it, what it did with
    it: handed on, booked in sinks, the size of both).

    Does nothing unless ``audit``.
    """

    def __init__(self, builder: RelevanceBuilder, audit: bool) -> None:
        self.builder, self.audit = builder, audit
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

    def note(
        self,
        info: SiteInfo,
        node: fx.Node,
        operands: Sequence[fx.Node],
        coefficients: Sequence[fx.Node | None],
        sinks: Sequence[fx.Node],
    ) -> None:
        """The books of an operation: all that was handed to it, and what it did with it: the relevance of its operands
        by their coefficients, and its sinks.
        """
        if not self.audit:
            return
        tag = (info.name, "internal", 0)
        own = self.credits.pop(node, [])
        parts: list[fx.Node] = []
        for operand, c in zip(operands, coefficients, strict=True):
            if c is not None:
                given = [self.builder.env[operand], c]
                found = self.builder.add(_of_operand, given, tag, same="books of an operand")
                self.credit(operand, found[0])
                parts += found
        count = len(parts) // 2
        given = [*parts, *sinks] or [self.builder.env[operands[0]]]
        handed_on = bool(parts or sinks)
        totals = self.builder.add(
            lambda *v: _of_site(count, *v) if handed_on else [_nothing(*v)] * 3,
            given,
            tag,
            same=("books of a site", count, handed_on),
        )
        self.rows.append((info, own, totals))

    def note_totals(self, info: SiteInfo, node: fx.Node, totals: list[fx.Node]) -> None:
        """The same, where they are known."""
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
        if not self.audit or not self.rows:
            return []
        rows: list[fx.Node] = []
        for _, credits, totals in self.rows:
            rows += [self._sum(credits), *totals]
        stacked = self.builder.graph.call_function(aten.stack.default, (rows,))
        return [self.builder.graph.call_function(aten.reshape.default, (stacked, [-1, 4]))]

    def _sum(self, nodes: list[fx.Node]) -> fx.Node:
        if len(nodes) == 1:
            return nodes[0]
        stacked = self.builder.graph.call_function(aten.stack.default, (list(nodes),))
        return self.builder.graph.call_function(aten.sum.default, (stacked,))


def _of_operand(x: Tensor, c: Tensor) -> list[Tensor]:
    """[relevance, its absolute amounts] of an operand whose coefficient may be expanded: over examples, over pairs."""
    R = relevance_of(x.detach(), c, safe=True)
    return [sum_by_rows(R), sum_by_rows(R.abs())]


def _of_site(operands: int, *values: Tensor) -> list[Tensor]:
    """[handed on, booked, the absolute amounts of both] from those of its operands, and its sinks."""
    parts, sinks = values[: 2 * operands], [precise(s) for s in values[2 * operands :]]
    nothing = _nothing(values[0])
    on = sum(parts[::2], nothing)
    sunk = sum((sum_by_rows(s) for s in sinks), nothing)
    scale = sum((sum_by_rows(s.abs()) for s in sinks), sum(parts[1::2], nothing))
    return [on, sunk, scale]


def _nothing(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=like.device)


def site_of(application: Application) -> SiteInfo:
    """An operation with its rule and its place."""
    return SiteInfo(application.node.name, application.rule.name, *application.place)
