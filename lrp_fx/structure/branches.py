"""Branches: what is added to a residual stream, told apart by what it does, and the neurons inside.

requires  a rewritten program and its streams
ensures   each branch once, in graph order: with attention in it, with another mixing of tokens, or with none
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.operators import has, is_matrix_product, operand_of
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.structure.streams import ResidualStream

ATTENTION, MIXER, MLP = "attention", "mixer", "mlp"
#: Kinds of operations between a branch's last learned map and the sum that takes it.
_ON_THE_WAY = frozenset({"move", "sum", "route", "elementwise", "normalise", "product", "gate", "linear", "bias"})


@dataclass(frozen=True)
class Branch:
    """``node``: the value that is added to a stream; ``neurons``: what its last learned maps read."""

    node: fx.Node
    kind: str
    neurons: tuple[fx.Node, ...]


def find_branches(rewritten: Rewritten, streams: Iterable[ResidualStream], attention: set[fx.Node]) -> list[Branch]:
    """Every term of a residual sum that is not the stream itself. attention: the nodes that weigh values."""
    found: dict[fx.Node, Branch] = {}
    for stream in streams:
        sums = set(stream.sums)
        for node in stream.sums[1:]:
            for term in _terms(rewritten, node, sums, attention):
                found.setdefault(term, _branch(rewritten, term, sums, attention))
    order = {n: i for i, n in enumerate(rewritten.program.graph.nodes)}
    return sorted(found.values(), key=lambda b: order[b.node])


def _terms(rewritten: Rewritten, node: fx.Node, sums: set[fx.Node], attention: set[fx.Node]) -> list[fx.Node]:
    """The branches of one residual sum; two that were added to each other first (side by side) are two."""
    application = rewritten.applications.get(node)
    operands = application.operands if application is not None else []
    found: list[fx.Node] = []
    for operand in operands:
        if operand in sums or _carries_on(rewritten, operand, sums):
            continue
        inner = rewritten.applications.get(operand)
        parts = inner.operands if inner is not None and has(operand, Fact.SUM) else []
        kinds = {_kind(rewritten, part, sums, attention) for part in parts}
        found += parts if len(parts) > 1 and len(kinds) > 1 else [operand]
    return found


def _carries_on(rewritten: Rewritten, term: fx.Node, sums: set[fx.Node]) -> bool:
    """Is a term the stream as it was, up to normalisations, moves and numbers?"""
    shape = getattr(value_of(term), "shape", None)
    while True:
        if has(term, Fact.RECONSTRUCTION):  # of the stream, or of what is added to it
            term = operand_of(term)
            if term not in sums and term not in rewritten.applications:
                return False
        application = rewritten.applications.get(term)
        if term in sums or application is None:
            return True
        if is_matrix_product(term) or application.kind not in ("normalise", "move", "elementwise", "bias", "linear"):
            return False
        term = application.operands[0]
        if getattr(value_of(term), "shape", None) != shape and not has(term, Fact.MOVE) and term not in sums:
            return False


def _above(rewritten: Rewritten, term: fx.Node, sums: set[fx.Node]) -> set[fx.Node]:
    """A branch's own nodes: from its result back to the stream that it reads."""
    found, stack = {term}, [term]
    while stack:
        application = rewritten.applications.get(stack.pop())
        for operand in application.operands if application is not None else ():
            if operand not in found and operand not in sums:
                found.add(operand)
                stack.append(operand)
    return found


def _kind(rewritten: Rewritten, term: fx.Node, sums: set[fx.Node], attention: set[fx.Node]) -> str:
    nodes = _above(rewritten, term, sums)
    if nodes & attention:
        return ATTENTION
    scans = {product for scan in rewritten.scans for product in scan.products}
    return MIXER if nodes & scans or any(has(n, Fact.MIXER) for n in nodes) else MLP


def _branch(rewritten: Rewritten, term: fx.Node, sums: set[fx.Node], attention: set[fx.Node]) -> Branch:
    kind = _kind(rewritten, term, sums, attention)
    return Branch(term, kind, _neurons(rewritten, term, sums) if kind == MLP else ())


def _neurons(rewritten: Rewritten, term: fx.Node, sums: set[fx.Node]) -> tuple[fx.Node, ...]:
    """What the last learned maps before a branch's result read: one value, or one for each expert."""
    found: dict[fx.Node, None] = {}
    stack, seen = [term], {term}
    while stack:
        node = stack.pop()
        if has(node, Fact.RECONSTRUCTION):  # latents are none of the branch's own neurons
            node = operand_of(node)
        application = rewritten.applications.get(node)
        if application is None or node in sums:
            continue
        learned = is_matrix_product(node) and len(application.operands) == 1
        if learned and _reads_learned_map(rewritten, application.operands[0], sums):
            found[application.operands[0]] = None
        elif not learned and application.kind in _ON_THE_WAY:
            fresh = [o for o in application.operands if o not in seen]
            seen.update(fresh)
            stack += fresh
    return tuple(found)


def _reads_learned_map(rewritten: Rewritten, node: fx.Node, sums: set[fx.Node]) -> bool:
    """Was a value made by a learned map of the branch's own? (A router's scores are a map of the stream itself.)"""
    return any(is_matrix_product(n) for n in _above(rewritten, node, sums))
