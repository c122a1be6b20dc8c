"""Factors: how the axes of an operation's operands and of its result belong together, one rule for each kind of axes.

Every axis is a product of named factors, from major to minor, as sharding rules write them: ``(i, k), (k, j) ->
(i, j)`` for a matrix product, ``(a, b, c) -> (a, b c)`` for a reshape that merges two axes. A factor that operand and
result share is the same axis: an element of the result comes only from elements of the operand at the same place along
it.
Along a ``mixed`` factor that does not hold (a softmax, a flip, a slice), though the axis goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from lrp_fx.ir.graph import value_of
from lrp_fx.ir.sizes import hint, is_one

#: The factors of one axis; none where it has size one by broadcasting, or is not there on the other side.
Axis = tuple[int, ...]


@dataclass(frozen=True)
class AxisFactors:
    """Factors of each axis of the operands (in the order of the call) and of the result, and the (traced) sizes of
    factors. Of an operation with several results the result is the whole that they are parts of.
    """

    operands: tuple[tuple[fx.Node, tuple[Axis, ...]], ...]
    result: tuple[Axis, ...]
    sizes: dict[int, int]
    mixed: frozenset[int] = frozenset()

    def of(self, node: fx.Node) -> tuple[Axis, ...] | None:
        """Those of an operand (where it stands first, if it stands in several places)."""
        return next((axes for given, axes in self.operands if given is node), None)


def whole_shape(node: fx.Node) -> tuple[Any, ...]:
    """The shape of a value; of an operation that gives parts, that of the whole."""
    value = value_of(node)
    if isinstance(value, (list, tuple)):
        source = node.args[0] if node.args else None
        return whole_shape(source) if isinstance(source, fx.Node) else ()
    return tuple(value.shape) if isinstance(value, Tensor) else ()


class Naming:
    """Names the factors of one call."""

    def __init__(self, node: fx.Node) -> None:
        self.node, self.shape = node, whole_shape(node)
        self.sizes: dict[int, int] = {}
        self.operands: list[tuple[fx.Node, tuple[Axis, ...]]] = []
        self.mixed: set[int] = set()

    def new(self, size: Any) -> Axis:
        name = len(self.sizes)
        self.sizes[name] = hint(size)
        return (name,)

    def all_of(self, node: fx.Node) -> list[Axis]:
        """A factor of its own for each axis of an operand."""
        own = [self.new(s) for s in whole_shape(node)]
        self.operands.append((node, tuple(own)))
        return own

    def aligned(self, node: fx.Node, result: Sequence[Axis], shape: Sequence[Any]) -> None:
        """An operand broadcast to the result."""
        own, offset = whole_shape(node), len(result) - len(whole_shape(node))
        spread = [is_one(s) and not is_one(shape[offset + i]) for i, s in enumerate(own)]
        self.operands.append((node, tuple(() if spread[i] else result[offset + i] for i in range(len(own)))))

    def mix(self, axes: Sequence[Axis]) -> None:
        self.mixed.update(f for axis in axes for f in axis)

    def done(self, result: Sequence[Axis]) -> AxisFactors:
        return AxisFactors(tuple(self.operands), tuple(result), self.sizes, frozenset(self.mixed))
