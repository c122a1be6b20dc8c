"""Dataflow questions about the carrying part of a graph: dominance, the region between two nodes, what it does.

Dominance is networkx's: with a virtual root above all leaves, ``a`` dominates ``b`` when every path from a leaf to
``b`` passes ``a``.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import torch
from torch import fx

from lrp_fx.analysis.classify import infer
from lrp_fx.analysis.provenance import PARAMETER, Facts
from lrp_fx.ir.axes import axis_order
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import is_float, op_name, value_of
from lrp_fx.ir.operators import axes_of, has, is_matrix_product, is_pointwise, operand_of, operator_of
from lrp_fx.ir.program import Program
from lrp_fx.ir.sizes import shape_of

_ROOT = "root"


class Dataflow:
    """The carrying subgraph of a program under a set of carriers, with its dominator tree."""

    def __init__(self, program: Program, facts: Facts, carriers: frozenset[str]) -> None:
        self.facts = facts
        self.carriers = carriers
        self._carries: dict[fx.Node, bool] = {}  # asked for each operand of each node, often
        self._operands: dict[fx.Node, list[fx.Node]] = {}
        self._copied: dict[fx.Node, fx.Node | None] = {}
        self.order = {n: i for i, n in enumerate(program.graph.nodes)}
        graph = nx.DiGraph()
        graph.add_node(_ROOT)
        for node in program.graph.nodes:
            if not self.carries(node):
                continue
            operands = self.operands(node) if not self.is_leaf(node) else []
            if not operands:
                graph.add_edge(_ROOT, node)
            for operand in operands:
                graph.add_edge(operand, node)
        self.graph = graph
        idom = nx.immediate_dominators(graph, _ROOT)
        tree = nx.DiGraph((parent, child) for child, parent in idom.items() if parent is not None and child != parent)
        self._above: dict[object, object] = {child: parent for child, parent in idom.items() if parent is not None}
        self._enter: dict[object, int] = {}
        self._leave: dict[object, int] = {}
        for clock, (_, node, label) in enumerate(nx.dfs_labeled_edges(tree, _ROOT) if tree else ()):
            if label == "forward":
                self._enter[node] = clock
            elif label == "reverse":
                self._leave[node] = clock

    def carries(self, node: fx.Node) -> bool:
        """Does the node hold floating values that depend on a carrier?"""
        known = self._carries.get(node)
        if known is None:
            sources = self.facts.sources
            known = node in sources and is_float(node) and bool(sources[node] & self.carriers)
            self._carries[node] = known
        return known

    def is_leaf(self, node: fx.Node) -> bool:
        """A value where relevance ends: position-only, learned, segment, or the first floating value of a content
        input.
        """
        return self.carries(node) and (self.facts.leaf_kind(node) is not None or not self.operands(node))

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The operands that carry relevance."""
        known = self._operands.get(node)
        if known is None:
            known = self._operands[node] = [a for a in node.all_input_nodes if self.carries(a)]
        return known

    def dominates(self, a: fx.Node, b: fx.Node) -> bool:
        """Does every path from a leaf to ``b`` pass ``a``? (True for ``a is b``.)"""
        if a is b:
            return True
        if a not in self._enter or b not in self._enter:
            return False
        return self._enter[a] < self._enter[b] and self._leave[b] < self._leave[a]

    def common(self, a: fx.Node, b: fx.Node) -> fx.Node | None:
        """The nearest value that all paths to ``a`` and all paths to ``b`` pass; None where they have no such value."""
        current: object = a
        while isinstance(current, fx.Node) and not self.dominates(current, b):
            current = self._above.get(current)
        return current if isinstance(current, fx.Node) else None

    def passes_learned_map(self, top: fx.Node, bottom: fx.Node) -> bool:
        """Is there a learned map on a path from ``top`` to ``bottom``? (Searched from below, where one is near.)"""
        queue, seen = [bottom], {top}
        for node in queue:
            if node not in seen:
                seen.add(node)
                if self._maps(node, lambda terms: terms is not top):
                    return True
                queue.extend(self.operands(node))
        return False

    def follows_elements(self, top: fx.Node, bottom: fx.Node) -> bool:
        """Does element i of ``bottom`` depend on element i of ``top`` only (counted through, axes of one element
        aside)?
        """
        region = self.region(top, bottom)
        return region is not None and all(self.is_pointwise(n) or keeps_order(n) for n in region)

    def region(self, top: fx.Node, bottom: fx.Node, limit: int = 400) -> list[fx.Node] | None:
        """Carrying nodes on the paths from ``top`` (excluded) to ``bottom`` (included); None if there are too many."""
        found: list[fx.Node] = []
        stack, seen = [bottom], {top}
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            found.append(node)
            if len(found) > limit:
                return None
            stack.extend(self.operands(node))
        return found

    # ---- seeing through operations that do not change what a value is
    def coefficient_of(self, node: fx.Node) -> fx.Node | None:
        """The carrying operand of a node that only scales, moves or retypes it, else None."""
        operands = self.operands(node)
        if self.is_leaf(node) or len(operands) != 1 or node.op != "call_function":
            return None
        if has(node, Fact.MOVE | Fact.SIGN) or op_name(node) == "aten.mul":
            return operands[0]
        if has(node, Fact.SCALING) and node.args[0] is operands[0]:
            return operands[0]
        return None

    def recentred(self, node: fx.Node) -> fx.Node | None:
        """``x`` for a node that is ``x - reduce(x)``: still x, up to a statistic."""
        if not has(node, Fact.SUM) or len(node.args) < 2:
            return None
        x, statistic = node.args[0], node.args[1]
        if not (
            isinstance(x, fx.Node) and isinstance(statistic, fx.Node) and self.carries(x) and self.carries(statistic)
        ):
            return None
        for candidate in self.roots(x):
            if self.dominates(candidate, statistic) and is_broadcast(statistic, node):
                region = self.region(candidate, statistic)
                if (
                    region is not None
                    and any(has(n, Fact.STATISTIC) for n in region)
                    and not self.has_learned_map(region)
                ):
                    return candidate
        return None

    def roots(self, node: fx.Node) -> list[fx.Node]:
        """The node and the values it is a scaled, moved or re-centred copy of, nearest first."""
        chain = [node]
        while (before := self._before(chain[-1])) is not None:
            chain.append(before)
        return chain

    def _before(self, node: fx.Node) -> fx.Node | None:
        """The value that a node is a scaled, moved or re-centred copy of."""
        if node not in self._copied:
            self._copied[node] = self.coefficient_of(node) or self.recentred(node)
        return self._copied[node]

    def core(self, node: fx.Node) -> fx.Node:
        """A coefficient without the scalings and expansions around it."""
        while (inner := self.coefficient_of(node)) is not None:
            node = inner
        return node

    def has_learned_map(self, region: list[fx.Node]) -> bool:
        """Does a parameter mix features inside the region? Then its result is a new feature, not a statistic."""
        inside = set(region)
        return any(self._maps(node, inside.__contains__) for node in region)

    def _maps(self, node: fx.Node, is_between: Callable[[fx.Node], bool]) -> bool:
        """Is it a matrix product with a learned matrix, or a sum over an axis along which a parameter has weighted its
        terms? Not if these are the value that is asked about, weighted before.
        """
        if is_matrix_product(node):
            return any(self._is_learned(a) for a in node.all_input_nodes)
        if not has(node, Fact.AVERAGE) or not self.operands(node):
            return False
        terms = node.args[0]
        while isinstance(terms, fx.Node) and op_name(terms) == "aten._to_copy":
            terms = terms.args[0]
        if not isinstance(terms, fx.Node) or op_name(terms) != "aten.mul" or not is_between(terms):
            return False
        rank = len(shape_of(terms))
        summed = [d - rank for d in axes_of(node, rank)]
        weights = [shape_of(a) for a in terms.all_input_nodes if self._is_learned(a)]
        return any(len(w) >= -d and w[d] > 1 for w in weights for d in summed)

    def _is_learned(self, node: fx.Node) -> bool:
        """Is it made from parameters, and from nothing that carries?"""
        return node in self.facts.sources and not self.carries(node) and PARAMETER in self.facts.sources[node]

    def is_pointwise(self, node: fx.Node) -> bool:
        """Does each element of the result depend on the same element of the carrying operands only? So it does where
        what is reduced are axes of one element.
        """
        operands = self.operands(node)
        same_shape = all(shape_of(o) == shape_of(node) for o in operands)
        special = (
            op_name(node).startswith("aten.special_") and infer(node, operands).kind == "elementwise"
        )  # carry no tag
        return same_shape and (is_pointwise(node) or has(node, Fact.REDUCTION) or special)


def keeps_order(node: fx.Node) -> bool:
    """Is the node a view that leaves the elements in their order (a reshape, or axes of one element moved)?"""
    if operator_of(node).axes in (Axes.REGROUPED, Axes.UNITS):
        return not value_of(node).is_complex() and not value_of(operand_of(node)).is_complex()
    if operator_of(node).axes is not Axes.PERMUTED:
        return False
    sizes = shape_of(operand_of(node))
    kept = [d for d in axis_order(node) if sizes[d] != 1]
    return kept == sorted(kept)


def is_broadcast(value: fx.Node, against: fx.Node) -> bool:
    """Has ``value`` fewer elements than ``against`` along some axis?"""
    small, large = shape_of(value), shape_of(against)
    if len(small) < len(large):
        return True
    return any(s == 1 and b > 1 for s, b in zip(small[::-1], large[::-1], strict=False))


def same_size_along(value: fx.Node, dim: int) -> bool:
    """Is the value constant (of size 1) along ``dim`` counted from the right?"""
    val = value_of(value)
    return isinstance(val, torch.Tensor) and (val.dim() < -dim or val.shape[dim] == 1)
