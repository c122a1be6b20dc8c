"""Recurrences: where a graph mixes tokens by sums and products alone, and the multilinear region around each such
place.

A place is an *anchor*: a sum that is computed from an earlier one while other tokens are read (a loop written out), a
cumulative sum along tokens, or a contraction over tokens of two values that both depend on content (not a softmax's).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from lrp_fx.ir.axes import is_token, kinds_along, operand_axes, sizes, whole
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.layout import FEATURE
from lrp_fx.ir.operators import argument, axes_of, factors_of, has, operand_of
from lrp_fx.recognize.scan.multilinear import LEARNED, Multilinear, is_contraction

#: Nodes looked at around one step of a loop.
NEAR = 160
Selection = tuple[fx.Node, Any]


@dataclass
class Anchors:
    """Where tokens are mixed. ``states``: sums of loops, ``links``: how many there are between them, ``times``: what
    the loops select at each step, ``passing``: states of loops that may go through tokens; ``running``: cumulative
    sums; ``mixing``: contractions over tokens; ``readings``: contractions of content with content over other axes.
    """

    states: list[fx.Node] = field(default_factory=list)
    links: int = 0
    times: set[Selection] = field(default_factory=set)
    passing: set[fx.Node] = field(default_factory=set)
    running: list[fx.Node] = field(default_factory=list)
    mixing: list[fx.Node] = field(default_factory=list)
    readings: list[fx.Node] = field(default_factory=list)

    @property
    def nodes(self) -> list[fx.Node]:
        return [*self.states, *self.running, *self.mixing]


def find_anchors(graph: fx.Graph, linear: Multilinear) -> Anchors:
    """All places where tokens are mixed by sums and products."""
    anchors = Anchors()
    _find_loops(graph, linear, anchors)
    layouts = linear.flow.facts.layout
    for node in graph.nodes:
        if node.op != "call_function" or not linear.passes(node):
            continue
        if op_name(node) == "aten.cumsum" and is_token(layouts.get(node), argument(node, "dim")):
            anchors.running.append(node)
        elif is_contraction(node):
            left, right = factors_of(node)
            over_tokens = is_token(layouts.get(left), -1) or (
                len(sizes(right)) > 1 and is_token(layouts.get(right), -2)
            )
            _note(node, node, over_tokens, linear, anchors)
        elif op_name(node) == "aten.sum" and (found := _summed_product(node, linear)) is not None:
            _note(node, found[0], any(is_token(layouts.get(found[0]), a) for a in found[1]), linear, anchors)
    return anchors


def _note(node: fx.Node, product: fx.Node, over_tokens: bool, linear: Multilinear, anchors: Anchors) -> None:
    """Enter a contraction: of content with content, or (over tokens) of content with a constant."""
    if _becomes_scores(node, linear):
        return
    if over_tokens and not any(_comes_from_softmax(f, linear) for f in linear.factors(product)):
        (anchors.mixing if linear.is_product(product) else anchors.running).append(node)
    elif not over_tokens and linear.is_product(product):
        anchors.readings.append(node)


def _summed_product(node: fx.Node, linear: Multilinear) -> tuple[fx.Node, frozenset[int]] | None:
    """The elementwise product that a sum contracts, with the axes along which both of its factors run."""
    current = operand_of(node)
    axes = whole(current, axes_of(node, len(sizes(current))))
    while has(current, Fact.MOVE) and isinstance(inner := current.args[0], fx.Node):
        axes, current = operand_axes(current, inner, axes), inner
    if op_name(current) != "aten.mul" or not linear.is_product(current):
        return None
    both = frozenset(
        part[0] for part in axes if all(operand_axes(current, f, frozenset({part})) for f in linear.factors(current))
    )
    return (current, both) if both else None


def _becomes_scores(node: fx.Node, linear: Multilinear) -> bool:
    """Does a contraction go into a softmax over tokens, as a term of its scores?"""
    queue, seen = deque([node]), {node}
    while queue and len(seen) < NEAR:
        for user in queue.popleft().users:
            if user in seen or not linear.is_content(user):
                continue
            seen.add(user)
            if linear.is_softmax_over_tokens(user):
                return True
            if (
                linear.passes(user)
                and not is_contraction(user)
                and not linear.is_product(user)
                and not has(user, LEARNED)
            ):
                queue.append(user)
    return False


def _comes_from_softmax(node: fx.Node, linear: Multilinear) -> bool:
    """Is the value a softmax over tokens, or made of one by sums, products and rearrangements?"""
    queue, seen = deque([node]), {node}
    while queue and len(seen) < NEAR:
        current = queue.popleft()
        if linear.is_softmax_over_tokens(current):
            return True
        for operand in linear.operands(current) if linear.passes(current) else ():
            if operand not in seen:
                seen.add(operand)
                queue.append(operand)
    return False


# ------------------------------------------------------------------------------------------------ loops written out
def selection_of(node: fx.Node) -> tuple[Selection, Any] | None:
    """((what is selected from, along which axis), which part), for a node that takes a part of a value."""
    name = op_name(node)
    if name == "getitem":
        return (operand_of(node), None), node.args[1]
    if name == "aten.select":
        return (operand_of(node), argument(node, "dim")), argument(node, "index")
    if name == "aten.slice":
        return (operand_of(node), argument(node, "dim")), (argument(node, "start"), argument(node, "end"))
    return None


def _find_loops(graph: fx.Graph, linear: Multilinear, anchors: Anchors) -> None:
    """Sums that are multilinear in an earlier sum, where the later reads another part of what the earlier read a part
    of.
    """
    sums = {n for n in graph.nodes if _is_state(n, linear)}
    reads: dict[fx.Node, dict[Selection, set[Any]]] = {}
    states: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node not in sums:
            continue
        earlier, reads[node] = _step(node, sums, linear)
        for state in earlier:
            common = {k for k in reads[node] if k in reads.get(state, ()) and reads[node][k] - reads[state][k]}
            if common:
                states |= {state: None, node: None}
                anchors.links += 1
                anchors.times |= common
                if not all(_takes_features(selection, linear) for selection in common):
                    anchors.passing |= {state, node}
    anchors.states.extend(states)


def _is_state(node: fx.Node, linear: Multilinear) -> bool:
    """A sum of two terms that depend on content."""
    return has(node, Fact.SUM | Fact.TERM_FIRST) and len(linear.operands(node)) >= 2 and linear.passes(node)


def _step(node: fx.Node, sums: set[fx.Node], linear: Multilinear) -> tuple[list[fx.Node], dict[Selection, set[Any]]]:
    """The sums from which ``node`` is computed without a sum between, by multilinear paths; and what is read on the
    way, behind them. What reads steps that were put together is no further step.
    """

    def goes_on(n: fx.Node) -> bool:
        return linear.passes(n) and (n is node or n not in sums) and not has(n, Fact.ASSEMBLY)

    earlier = [n for n in _upwards(node, linear, goes_on) if n is not node and n in sums]
    reads: dict[Selection, set[Any]] = {}
    for current in _upwards(node, linear, lambda n: not has(n, LEARNED) and n not in earlier):
        if current not in earlier and (read := selection_of(current)) is not None:
            with contextlib.suppress(TypeError):  # a part chosen by a value known at run time only
                reads.setdefault(read[0], set()).add(read[1])
    return earlier, reads


def _takes_features(selection: Selection, linear: Multilinear) -> bool:
    """Is it known that the parts are features (as experts' weights are): no tokens, and no examples?"""
    source, axis = selection
    if axis is None:
        source, axis = operand_of(source), argument(source, "dim")
    kinds = kinds_along(linear.flow.facts.layout.get(source), axis) if isinstance(axis, int) else frozenset()
    return kinds == {FEATURE}


def _upwards(node: fx.Node, linear: Multilinear, goes_on: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """What a node is computed from that depends on content, the nearest first, as far as it goes on."""
    queue, seen = deque([node]), {node: None}
    while queue and len(seen) < NEAR:
        current = queue.popleft()
        for operand in current.all_input_nodes if goes_on(current) else ():
            if operand not in seen and linear.is_content(operand):
                seen[operand] = None
                queue.append(operand)
    return list(seen)


# ------------------------------------------------------------------------------------------------ regions
@dataclass
class Region:
    """A connected multilinear region: nodes computed from anchors, what anchors are computed from, and (``beside``
    them) what
    else is put together with results: a first step needs no sum."""

    after: set[fx.Node]
    before: set[fx.Node]
    beside: set[fx.Node]
    anchors: Anchors

    @property
    def nodes(self) -> set[fx.Node]:
        return self.after | self.before | self.beside


def find_regions(anchors: Anchors, linear: Multilinear) -> list[Region]:
    """Connected regions around the anchors, in no order; a softmax over tokens inside makes a region none of ours."""
    roots = anchors.nodes
    after = _reach(roots, lambda n: [u for u in n.users if linear.passes(u)])
    before = _reach(roots, lambda n: [o for o in linear.operands(n) if linear.passes(o)])
    joined = [
        o
        for n in after
        if has(n, Fact.ASSEMBLY)
        for o in linear.operands(n)
        if linear.passes(o) and o not in after | before
    ]
    beside = _reach(joined, lambda n: [o for o in linear.operands(n) if linear.passes(o) and o not in after | before])
    regions = []
    for nodes in _components(after | before | beside, linear):
        parts = Anchors(
            [n for n in anchors.states if n in nodes],
            anchors.links,
            anchors.times,
            anchors.passing & nodes,
            *([n for n in group if n in nodes] for group in (anchors.running, anchors.mixing, anchors.readings)),
        )
        borders = {o for n in nodes & before for o in linear.operands(n) if o not in nodes}
        if not any(linear.is_softmax_over_tokens(n) for n in borders):
            regions.append(Region(after & nodes, before & nodes, beside & nodes, parts))
    return regions


def _reach(roots: list[fx.Node], following: Any) -> set[fx.Node]:
    found, stack = set(roots), list(roots)
    while stack:
        for node in following(stack.pop()):
            if node not in found:
                found.add(node)
                stack.append(node)
    return found


def _components(nodes: set[fx.Node], linear: Multilinear) -> list[set[fx.Node]]:
    remaining, found = set(nodes), []
    while remaining:
        start = next(iter(remaining))
        component = _reach([start], lambda n: [m for m in (*linear.operands(n), *n.users) if m in nodes])
        found.append(component)
        remaining -= component
    return found
