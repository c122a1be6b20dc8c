"""Named sites: what the report calls attention, normalisation, positional encoding, gate, residual sum.

Names are for reading; what relevance does was decided by the rules before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from lrp_fx.analysis.provenance import CONTENT, LEARNED, SEGMENT
from lrp_fx.canonicalize.chosen_softmax import renormalised
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.structure import Structure

ATTENTION, NORMALISATION, POSITIONAL, GATE, ROUTER, RESIDUAL, SCAN, ROUNDING = (
    "attention",
    "normalisation",
    "position",
    "gate",
    "router",
    "residual",
    "scan",
    "rounding",
)


@dataclass(frozen=True)
class Site:
    """A recognised place in the model.

    ``kind``: attention, normalisation, position, gate, router, residual, scan, rounding, input, learned or segment.
    ``variant``: how it is done there. ``module``/``source``: where. ``rule``: what serves it. ``nodes``: names of its
    graph nodes. ``layer``: the block it belongs to, None outside all blocks.
    """

    kind: str
    variant: str
    module: str
    source: str
    rule: str
    nodes: tuple[str, ...]
    layer: int | None = None

    def __str__(self) -> str:
        return f"{self.kind:<14}{self.variant:<30}{self.module or 'model':<40}{self.rule:<28}{self.source}"


def find_sites(rewritten: Rewritten, structure: Structure) -> list[Site]:
    """All named sites in graph order."""
    finder = _Finder(rewritten, structure)
    order = {n.name: i for i, n in enumerate(rewritten.program.graph.nodes)}
    sites = [*finder.attention(), *finder.scans(), *finder.simple(), *finder.leaves()]
    inputs = [
        Site("input", f"{i.name}: {i.role}", "", "", "", (n.name,))
        for i, n in zip(rewritten.program.inputs, rewritten.program.input_nodes().values(), strict=True)
    ]
    sites = [replace(s, layer=_layer(s, structure)) for s in sites]
    return inputs + sorted(sites, key=lambda s: min((order[n] for n in s.nodes if n in order), default=0))


def attention_nodes(rewritten: Rewritten) -> list[tuple[fx.Node, ...]]:
    """The nodes of every attention: (kernel,), or (product that makes the scores, softmax, product that weighs the
    values).
    """
    return _Finder(rewritten, None).attention_nodes()


class _Finder:
    def __init__(self, rewritten: Rewritten, structure: Structure | None) -> None:
        self.rewritten, self.structure = rewritten, structure
        self.applications = rewritten.applications
        self.flow = rewritten.flow
        self.served = rewritten.context.served  # with what frozen weights keep relevance from

    def attention(self) -> list[Site]:
        """Fused kernels, and softmaxes with the matrix products before and after them."""
        found = []
        for nodes in self.attention_nodes():
            how, node = ("fused", nodes[0]) if len(nodes) == 1 else ("softmax of a product", nodes[1])
            application = self.applications.get(node) or self.applications[nodes[-1]]  # frozen weights carry nothing
            found.append(_site(ATTENTION, how, application, nodes))
        return found

    def attention_nodes(self) -> list[tuple[fx.Node, ...]]:
        """(kernel,), or (product that makes the scores, softmax, product that weighs the values)."""
        found: list[tuple[fx.Node, ...]] = []
        for node, served in self.served.items():
            if served.kind == "attention" and node in self.applications:
                found.append((node,))
            elif served.kind == "softmax" and (scores := self._scores(node)) is not None:
                outputs = self._weighted_sums(node)
                if outputs and outputs[0] in self.applications:
                    found.append((scores, node, *outputs))
        return found

    def _scores(self, softmax: fx.Node) -> fx.Node | None:
        """The matrix product of two carriers that makes the logits, through scales, sums, masks and moves."""
        return self._walk(softmax, forward=False)

    def _weighted_sums(self, softmax: fx.Node) -> tuple[fx.Node, ...]:
        product = self._walk(softmax, forward=True)
        return (product,) if product is not None else ()

    def _walk(self, start: fx.Node, *, forward: bool) -> fx.Node | None:
        """Nearest matrix product on a breadth-first walk that stays inside one attention (no weights, no other
        softmax).
        """
        graph = self.flow.graph if forward else self.flow.graph.reverse(copy=False)
        if start not in graph:
            return None
        queue, seen = [start], {start}
        while queue:
            node = queue.pop(0)
            for following in graph.successors(node):
                served = self.served.get(following)
                if following in seen or served is None:
                    continue
                seen.add(following)
                if has(following, Fact.PRODUCT) or op_name(following) == "aten.baddbmm":
                    return following  # type: ignore[no-any-return]
                on_the_way = served.kind in ("move", "sum", "route", "elementwise", "normalise")
                if on_the_way or has(following, Fact.SCALING):
                    queue.append(following)
        return None

    def scans(self) -> list[Site]:
        """Recurrences, each with all its products that are on a relevance path."""
        found = []
        for scan in self.rewritten.scans:
            nodes = tuple(p for p in scan.products if p in self.applications)
            if nodes:
                found.append(_site(SCAN, scan.form, self.applications[nodes[0]], nodes))
        return found

    def simple(self) -> list[Site]:
        """Sites that are one operation."""
        found = []
        for node, application in self.applications.items():
            if application.kind == "normalise":
                found.append(
                    _site(
                        NORMALISATION,
                        "written out" if has(node, Fact.SCALING) else op_name(node).removeprefix("aten."),
                        application,
                        (node,),
                    )
                )
            elif (
                application.kind in ("gate", "product")
                and op_name(node) == "aten.mul"
                and self._all_content(application)
            ):
                found.append(
                    _site(
                        GATE,
                        "activated branch" if application.kind == "gate" else "product of two branches",
                        application,
                        (node,),
                    )
                )
            elif op_name(node) == "aten.topk":
                found.append(_site(ROUTER, "top-k", application, (node,)))
            elif application.kind == "softmax" and renormalised(node) is not None:
                found.append(_site(ROUTER, "chosen weights over their sum", application, (node,)))
            elif application.kind == "residual":
                found.append(_site(RESIDUAL, "skip connection", application, (node,)))
            elif has(node, Fact.ROUNDING):
                found.append(_site(ROUNDING, "passed straight through", application, (node,)))
        return found

    def _all_content(self, application: Application) -> bool:
        return all(CONTENT in self.rewritten.facts.sources[o] for o in application.operands)

    def leaves(self) -> list[Site]:
        """Injections of position, learned tokens, segment embeddings."""
        found = []
        for injection in self.structure.injections if self.structure is not None else ():
            user = injection.uses[0][1]
            nodes = tuple(n.name for use in injection.uses for n in (use[0], use[1].node))
            rule = self.rewritten.leaf_rules.get(injection.kind, user.rule)
            found.append(
                Site(
                    POSITIONAL,
                    f"{injection.kind}, {injection.variant}",
                    injection.module,
                    injection.source,
                    rule.name,
                    nodes,
                    injection.layer,
                )
            )
        for node, kind in self.rewritten.leaves.items():
            users = [a for a in self.applications.values() if node in a.operands]
            if kind in (LEARNED, SEGMENT) and users:
                found.append(_site(kind, "token" if kind == LEARNED else "embedding", users[0], (node,)))
        return found


def _site(kind: str, variant: str, application: Application, nodes: tuple[fx.Node, ...]) -> Site:
    return Site(
        kind,
        variant,
        module_path(application.node),
        source_line(application.node),
        application.rule.name,
        tuple(n.name for n in nodes),
    )


def _layer(site: Site, structure: Structure) -> int | None:
    by_name = {n.name: layer for n, layer in structure.layers.items()}
    return max((by_name[n] for n in site.nodes if n in by_name), default=None)
