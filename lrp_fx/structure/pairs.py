"""Pairs: what position has to do with each pair of a query and a key.

requires  attention whose scores are written out
ensures   the product that makes them, the features of it that were rotated, and the biases between pairs that join it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import axis_of, has, operand_of
from lrp_fx.ir.sizes import hint
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.heads import Attention
from lrp_fx.structure.injections import BIAS, DISENTANGLED, Injection
from lrp_fx.structure.scores import softmax_after
from lrp_fx.structure.structure import Structure

#: Of a product of two rotated vectors, position got half of each.
ROTATED_SHARE = 0.5
_Slices = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pairs:
    """``product``: queries times keys; ``rotated``: (begin, end) of the features that were rotated in both; ``terms``:
    sums that take a bias, and which operand it is; ``sites``: names of the injections that are read pair by pair in any
    case.
    """

    product: Application
    rotated: _Slices
    terms: tuple[tuple[Application, int], ...]
    sites: tuple[str, ...]


def find_pairs(rewritten: Rewritten, structure: Structure, attention: Attention) -> Pairs | None:
    """What is known of one attention's pairs; None inside a kernel, and for rotated vectors in a product that is more
    than one.
    """
    product = rewritten.applications.get(attention.product) if attention.product is not None else None
    if product is None or rewritten.ruleset.as_autograd:
        return None
    slices = {_rotated(rewritten, operand) for operand in product.operands if keeps_features(operand)}
    rotated = max(slices, key=len, default=())
    if rotated and (product.kind != "product" or len(product.carriers) != 2):
        return None
    joining = [i for i in structure.injections if _joins(rewritten, i, attention)]
    by_rule = [i for i in joining if i.kind in rewritten.leaf_rules or i.kind == DISENTANGLED]
    others = [i for i in joining if i not in by_rule]
    terms = [(use, use.flat().index(leaf)) for i in others for leaf, use in i.uses]
    return Pairs(product, rotated, tuple(terms), tuple(i.name for i in by_rule))


def _joins(rewritten: Rewritten, injection: Injection, attention: Attention) -> bool:
    """Does an injection add to the scores of an attention?"""
    node = injection.pairs[0] if injection.pairs is not None else injection.uses[0][1].node
    joins = injection.kind == BIAS or (injection.kind == DISENTANGLED and injection.pairs is not None)
    return joins and attention.softmax in (node, softmax_after(rewritten, node))


def keeps_features(operand: fx.Node) -> bool:
    """Are features the last axis of an operand? (Keys are turned before the product, as a rule.)"""
    return not (op_name(operand) in ("aten.transpose", "aten.permute", "aten.t") and _turns_last(operand))


def _turns_last(node: fx.Node) -> bool:
    rank = value_of(node).dim()
    if op_name(node) == "aten.t":
        return True
    if op_name(node) == "aten.permute":
        order: Any = node.args[1]
        return bool(int(order[-1]) % rank != rank - 1)
    axes: Any = node.args[1:3]
    return any(int(axis) % rank == rank - 1 for axis in axes)


def _rotated(rewritten: Rewritten, node: fx.Node) -> _Slices:
    """(begin, end) of the features of a value that were multiplied by position."""
    if node in rewritten.context.rotated:
        return ((0, hint(value_of(node).shape[-1])),)
    application = rewritten.applications.get(node)
    if application is None:
        return ()
    if op_name(node) == "aten.cat" and axis_of(node, value_of(node).dim()) == value_of(node).dim() - 1:
        found, start = [], 0
        for part in application.args[0]:
            found += [(start + a, start + b) for a, b in _rotated(rewritten, part)]
            start += hint(value_of(part).shape[-1])
        return tuple(found)
    scaled = application.kind == "linear" and has(node, Fact.SCALING)
    if (has(node, Fact.MOVE) and keeps_features(node)) or scaled:
        above = operand_of(node) if not scaled else application.operands[0]
        same = hint(value_of(above).shape[-1]) == hint(value_of(node).shape[-1])
        return _rotated(rewritten, above) if same else ()
    return ()
