"""One-hot vectors of places that meet activations: they say which tokens are summed, as a mask does."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from lrp_fx.analysis.sources import CONSTANT, CONTENT, MASK, POSITION
from lrp_fx.ir.axes import operand_axes, whole
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name, tensor_args
from lrp_fx.ir.operators import factors_of, has, is_matrix_product, operand_of
from lrp_fx.ir.sizes import shape_of

_Sources = Mapping[fx.Node, frozenset[str]]
#: A product whose second operand is a matrix that is turned.
_MAP = "aten.linear"


def chooses_tokens(candidate: fx.Node, node: fx.Node, sources: _Sources) -> bool:
    """Is it made of one-hot vectors of places, and does a product with activations sum over what they stand for?

    (Where it sums over the classes, each place picks one of as many activations: that says how far away they are.)
    """
    is_product = has(node, Fact.PRODUCT | Fact.SCALING | Fact.CONTRACTION) or op_name(node) == _MAP
    if POSITION not in sources[candidate] or not sources[candidate] <= {POSITION, MASK, CONSTANT} or not is_product:
        return False
    others = [a for a in tensor_args(node) if a is not candidate]
    is_met = any(CONTENT in sources.get(a, ()) and is_float(a) for a in others)
    return is_met and _is_of_classes(candidate, sources) and not _sums_over_classes(candidate, node)


def _is_of_classes(candidate: fx.Node, sources: _Sources) -> bool:
    """Does all that it knows of places come from one-hot vectors?"""
    queue, found = [candidate], False
    for value in queue:
        own = sources.get(value, frozenset())
        if POSITION not in own:
            if not own <= {MASK, CONSTANT}:
                return False
        elif op_name(value) == "aten.one_hot":
            found = True
        elif not tensor_args(value):
            return False
        else:
            queue += [a for a in tensor_args(value) if a not in queue]
    return found


def _sums_over_classes(candidate: fx.Node, node: fx.Node) -> bool:
    """Does a matrix product contract the axis of the classes of one-hot vectors, which were moved at most?"""
    if not is_matrix_product(node):
        return False
    rank = len(shape_of(candidate))
    is_last = candidate is factors_of(node)[0] or rank == 1 or op_name(node) == _MAP
    axes = whole(candidate, [rank - 1 if is_last else rank - 2])
    while has(candidate, Fact.MOVE) and op_name(candidate) != "aten.one_hot":
        before = operand_of(candidate)
        axes, candidate = operand_axes(candidate, before, axes), before
    is_one_hot = op_name(candidate) == "aten.one_hot"
    return is_one_hot and any(axis == len(shape_of(candidate)) - 1 for axis, _, _ in axes)
