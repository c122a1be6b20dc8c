"""Scans: recurrences linear in a value, with coefficients made from content. What in them is value, what coefficient.

A state space model, linear attention or a delta rule computes ``s_t = A_t s_(t-1) + B_t x_t`` and reads ``C_t s_t``, in
one of many spellings (`lrp_fx.recognize.scan.regions`). Of two factors that meet in it the coefficient is

* the one whose feature axes are contracted while the other's survive to the result (B and C, k and q, weights between
  tokens);
* the one that multiplies a running state (a decay), or is cumulated along tokens;
* of two factors of an input, the one that a decay is a function of (the step), else the one that is squashed (a gate);
* the one that is a function of coefficients alone (the normaliser of linear attention).

Where none of these decides, as for the gate on the result, the product stays what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.ir.axes import Axes, feature_parts, is_batch, is_token, operand_axes, sizes, whole
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import argument, has, operand_of
from lrp_fx.recognize.chains import ChainRoles
from lrp_fx.recognize.scan.multilinear import LEARNED, Multilinear, is_contraction, vanishes
from lrp_fx.recognize.scan.regions import NEAR, Region, find_anchors, find_regions, selection_of

#: Affine in one operand: what is squashed stays so.
_AFFINE = Fact.MOVE | Fact.SCALING | Fact.SUM | Fact.SELECTION | Fact.SIGN
#: Keep an element where it is, or add up tokens.
_ALONG = Fact.MOVE | Fact.CUMULATIVE | Fact.POINTWISE
#: Nodes looked at when asking whether a value is a function of coefficients alone.
DEEP = 20000


@dataclass(frozen=True)
class Scan:
    """A recognised recurrence: how it is spelled, and its products with the operands that are coefficients."""

    form: str
    products: dict[fx.Node, tuple[fx.Node, ...]]


def find_scans(graph: fx.Graph, flow: Dataflow, chains: ChainRoles) -> list[Scan]:
    """All scans of a graph."""
    linear = Multilinear(flow, chains)
    anchors = find_anchors(graph, linear)
    if not anchors.nodes:
        return []
    order = {n: i for i, n in enumerate(graph.nodes)}
    found = []
    for region in find_regions(anchors, linear):
        reader = _Reader(region, linear, order)
        if reader.is_scan():
            found.append(
                Scan(_form(region), dict(sorted(reader.coefficients().items(), key=lambda item: order[item[0]])))
            )
    return sorted((s for s in found if s.products), key=lambda s: order[next(iter(s.products))])


def _form(region: Region) -> str:
    anchors = region.anchors
    forms = [
        name
        for name, found in (
            ("step by step", anchors.states),
            ("cumulative", anchors.running),
            ("weights between tokens", anchors.mixing),
        )
        if found
    ]
    return forms[0] if len(forms) == 1 else "by chunks"


class _Reader:
    """Reads one region: value and coefficient of each of its products."""

    def __init__(self, region: Region, linear: Multilinear, order: dict[fx.Node, int]) -> None:
        self.region, self.linear, self.layouts = region, linear, linear.flow.facts.layout
        self.nodes = sorted(region.nodes, key=order.__getitem__)
        self.products = [n for n in self.nodes if linear.is_product(n)]
        self.surviving: dict[fx.Node, Axes] = {n: frozenset() for n in self.nodes}
        self.features: dict[fx.Node, Axes] = {n: frozenset() for n in self.nodes}
        self.frozen: dict[fx.Node, fx.Node] = {}
        self._alone: dict[fx.Node, bool] = {}
        self._stems: dict[fx.Node, frozenset[fx.Node]] = {}
        self._decays: frozenset[fx.Node] | None = None
        self._follow_axes()

    # ------------------------------------------------------------------------------------------------ is it one?
    def is_scan(self) -> bool:
        """Does a coefficient made from content decay the state, or read it (contract it with content)? Sums over
        features, as of experts one after the other, mix no tokens: to read them is no scan.
        """
        anchors = self.region.anchors
        mixes = bool(anchors.passing or anchors.running or anchors.mixing)
        if mixes and any(n in self.region.nodes for n in anchors.readings):
            return True
        loops = self.region.after & self.region.before
        decays = any(
            p in loops and not is_contraction(p) and self._state_of(p) is not None for p in self.products
        ) and bool(self.region.anchors.states)
        return decays or any(self._is_cumulated(f) for p in self.products for f in self.linear.factors(p))

    # ------------------------------------------------------------------------------------------------ axes that survive
    def _follow_axes(self) -> None:
        """From where results leave the region back: which axes of each value are axes of a result, and features
        there.
        """
        inside = self.region.nodes
        for node in reversed(self.nodes):
            if node in self.region.after and any(
                u not in inside and (u.op == "output" or self.linear.is_content(u)) for u in node.users
            ):
                self.surviving[node] |= whole(node)
                self.features[node] |= self._feature_axes(node)
            for operand in self.linear.operands(node):
                if operand in inside:
                    self.surviving[operand] |= operand_axes(node, operand, self.surviving[node])
                    self.features[operand] |= operand_axes(node, operand, self.features[node])

    def _feature_axes(self, node: fx.Node) -> Axes:
        """Parts of axes that run over features; the last, where a learned map follows; else what is neither token nor
        batch.
        """
        layout, last = self.layouts.get(node), len(sizes(node)) - 1
        learned = any(has(u, LEARNED) for u in node.users if u not in self.region.nodes)  # contracts features
        known = feature_parts(layout) | (whole(node, [last]) if learned and not is_token(layout, last) else frozenset())
        return known or whole(node, [a for a in range(last + 1) if not is_token(layout, a) and not is_batch(layout, a)])

    def _covered(self, product: fx.Node, factor: fx.Node) -> Axes:
        """Surviving feature axes of a product along which a factor runs."""
        return frozenset(part for part in self.features[product] if operand_axes(product, factor, frozenset({part})))

    def _is_contracted(self, product: fx.Node) -> bool:
        """Are the factors summed over an axis along which both run, here or later?"""
        if is_contraction(product):
            return True
        surviving = {part[0] for part in self.surviving[product]}
        lost = [part for part in whole(product) if part[0] not in surviving]
        return any(
            all(operand_axes(product, f, frozenset({part})) for f in self.linear.factors(product)) for part in lost
        )

    # ------------------------------------------------------------------------------------------------ decisions
    def coefficients(self) -> dict[fx.Node, tuple[fx.Node, ...]]:
        """The coefficient of each product, where there is one."""
        for decide in (self._by_axes, self._by_input, self._by_cumulation, self._by_descent):
            for product in self.products:
                if product not in self.frozen and (coefficient := decide(product)) is not None:
                    self.frozen[product] = coefficient
        return {p: (c,) for p, c in self.frozen.items()}

    def _by_axes(self, product: fx.Node) -> fx.Node | None:
        """The factor whose features are contracted away; of equals, the one that multiplies the running state."""
        inside = product in self.region.before
        if not inside and not self._is_contracted(product):
            return None
        a, b = self.linear.factors(product)
        covered_a, covered_b = self._covered(product, a), self._covered(product, b)
        if covered_a != covered_b:
            return b if covered_b < covered_a else a if covered_a < covered_b else None
        state = self._state_of(product)
        return (b if state is a else a) if inside and state is not None else None

    def _state_of(self, product: fx.Node) -> fx.Node | None:
        """The one factor that is computed from an anchor."""
        states = [f for f in self.linear.factors(product) if f in self.region.after]
        return states[0] if len(states) == 1 and product in self.region.after else None

    def _by_input(self, product: fx.Node) -> fx.Node | None:
        """Of the factors of an input with the same axes: those that are no step of a decay and no gate are the
        value.
        """
        if product in self.region.after:
            return None
        a, b = self.linear.factors(product)
        steps = self._decay_stem()
        leaves = {
            f: [(self._is_squashed(x), bool(self._stem(x) & steps)) for x in self._leaves(product, f)] for f in (a, b)
        }
        for is_no_value in (any, itemgetter(0), itemgetter(1)) if product in self.region.before else (itemgetter(1),):
            kept = {f: [x for x in leaves[f] if not is_no_value(x)] for f in (a, b)}
            if bool(kept[a]) != bool(kept[b]):
                return b if kept[a] else a
            if kept[a]:
                return None
        return None

    def _leaves(self, product: fx.Node, factor: fx.Node) -> list[fx.Node]:
        """The factors of a factor that run along all its surviving features."""
        axes = operand_axes(product, factor, self.features[product])
        node = factor
        while True:
            operands = self.linear.operands(node)
            if not self.linear.passes(node) or has(node, Fact.SUM) or op_name(node) == "aten.addcmul" or not operands:
                return [node]
            if self.linear.is_product(node):
                widest = max((len(self._covered(node, f)) for f in self.linear.factors(node)), default=0)
                return [
                    x
                    for f in self.linear.factors(node)
                    if len(self._covered(node, f)) == widest
                    for x in self._leaves(node, f)
                ]
            if len(operands) != 1 or is_contraction(node):
                return [node]
            axes, node = operand_axes(node, operands[0], axes), operands[0]

    def _by_cumulation(self, product: fx.Node) -> fx.Node | None:
        """A factor that is cumulated along tokens is a decay between tokens."""
        cumulated = [f for f in self.linear.factors(product) if f not in self.region.nodes and self._is_cumulated(f)]
        return cumulated[0] if len(cumulated) == 1 else None

    def _by_descent(self, product: fx.Node) -> fx.Node | None:
        """A factor that is a function of coefficients alone is one."""
        alone = [f for f in self.linear.factors(product) if self._is_coefficient(f)]
        return alone[0] if len(alone) == 1 else None

    # ------------------------------------------------------------------------------------------------ what a factor is
    # made of
    def _is_cumulated(self, factor: fx.Node) -> bool:
        return any(has(n, Fact.CUMULATIVE) for n in self._stem(factor)) and any(
            op_name(n) == "aten.exp" or op_name(n) == "aten.cumprod" for n in self._stem(factor)
        )

    def _decay_stem(self) -> frozenset[fx.Node]:
        """What the decays are functions of, element by element (asked once they are decided)."""
        if self._decays is None:
            loops = self.region.after & self.region.before
            decays = [c for p, c in self.frozen.items() if p in loops and c not in self.region.after]
            decays += [f for p in self.products for f in self.linear.factors(p) if self._is_cumulated(f)]
            self._decays = frozenset().union(*(self._stem(d) for d in decays))
        return self._decays

    def _stem(self, node: fx.Node) -> frozenset[fx.Node]:
        """The node and what it is a function of, element by element, up to learned maps and choices of features."""
        if node in self._stems:
            return self._stems[node]
        found, stack = {node}, [node]
        while stack and len(found) < NEAR:
            current = stack.pop()
            moves_along = has(current, _ALONG) or op_name(current) == "aten.constant_pad_nd"
            if self.linear.is_product(current) or not (moves_along or self._takes_time(current)):
                continue
            for operand in current.all_input_nodes:
                if self.linear.is_content(operand) and operand not in found:
                    found.add(operand)
                    stack.append(operand)
        self._stems[node] = frozenset(found)
        return self._stems[node]

    def _takes_time(self, node: fx.Node) -> bool:
        """Does the node take some tokens (not some features) of its operand, or is it the operation whose parts are
        taken?
        """
        if op_name(node) == "aten.unbind":
            return any(key[0] is node for key in self.region.anchors.times) or is_token(
                self.layouts.get(operand_of(node)), argument(node, "dim")
            )
        read = selection_of(node)
        if read is None:
            return False
        (source, axis), _ = read
        return read[0] in self.region.anchors.times or (
            isinstance(axis, int) and is_token(self.layouts.get(source), axis)
        )

    def _is_squashed(self, leaf: fx.Node) -> bool:
        node = leaf
        for _ in range(16):
            if has(node, Fact.SQUASHING):
                return True
            operands = self.linear.operands(node)
            is_affine = has(node, _AFFINE) or op_name(node) == "aten.reciprocal"
            if not is_affine or len(operands) != 1:
                return False
            node = operands[0]
        return False

    def _is_coefficient(self, factor: fx.Node) -> bool:
        """Do all paths from content into ``factor`` pass coefficients?"""
        if not self._alone:
            self._alone = {n: True for c in self.frozen.values() for n in self._same(c)} | dict.fromkeys(
                self._decay_stem(), True
            )
        stack = [factor]
        while stack and len(self._alone) < DEEP:
            node = stack[-1]
            operands = [] if vanishes(node) else [a for a in node.all_input_nodes if self.linear.is_content(a)]
            if node in self._alone:
                stack.pop()
            elif (
                has(node, LEARNED)
                or node.op != "call_function"
                or self.linear.flow.is_leaf(node)
                or any(self._alone.get(o) is False for o in operands)
            ):
                self._alone[stack.pop()] = False
            elif pending := [o for o in operands if o not in self._alone]:
                stack.append(pending[0])
            else:
                self._alone[stack.pop()] = True
        return self._alone.get(factor, False)

    def _same(self, coefficient: fx.Node) -> list[fx.Node]:
        """A coefficient and what it is a rearrangement, multiple or token of."""
        chain = [coefficient]
        while True:
            node = chain[-1]
            operands = self.linear.operands(node)
            scales = (
                has(node, Fact.MOVE)
                or (has(node, Fact.SCALING | Fact.SIGN) and self.linear.passes(node))
                or self._takes_time(node)
            )
            if len(operands) != 1 or not scales:
                return chain
            chain.append(operands[0])
