"""What rows and values are a part of: which row of a table one is, what a mask hides in part, what was written into.

Asked of values that meet content (`lrp_fx.analysis.meeting`), and of what comes later than the walk is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from lrp_fx.analysis.sources import CONSTANT, MASK, is_one_number
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.examples import depends_on_values, example
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import tensor_args
from lrp_fx.ir.operators import argument, has, operand_of, operator_of
from lrp_fx.ir.sizes import shape_of

_Sources = Mapping[fx.Node, frozenset[str]]


def row_picked(value: fx.Node) -> tuple[fx.Node, int] | None:
    """(table, number) of a row that is picked by a number that the code says."""
    taken = element_taken(value)
    if taken is not None:
        return (taken[0], taken[2]) if taken[1] == 0 and len(shape_of(taken[0])) == 2 else None
    if not has(value, Fact.LOOKUP) or len(shape_of(operand_of(value))) != 2:
        return None
    index: Any = argument(value, "indices", argument(value, "index"))
    index = index[0] if isinstance(index, (list, tuple)) and len(index) == 1 else index
    number = _number_of(index) if isinstance(index, fx.Node) else None
    return (operand_of(value), number) if number is not None else None


def _number_of(index: fx.Node) -> int | None:
    """The one number that an index holds, whatever is given."""
    held = _held(index)
    if held is None or held.is_floating_point() or not held.numel() or not is_one_number(held):
        return None
    return int(held.flatten()[0])


def tells_apart(index: fx.Node) -> bool:
    """Does an index that is made of numbers alone hold several, as the sum of a triangle of ones does?"""
    held = _held(index)
    return held is not None and held.numel() > 1 and not is_one_number(held)


def _held(index: fx.Node) -> Tensor | None:
    """The numbers of an index that depends on no input, at the traced sizes."""
    found = None if depends_on_values(index) else example(index, {})
    return found if isinstance(found, Tensor) else None


def is_repeated(value: fx.Node, axis: int) -> bool:
    """Does a value that is made of weights and sizes alone hold the same all along an axis, however it was repeated?"""
    held = None if depends_on_values(value) else example(value, {})
    return isinstance(held, Tensor) and held.dim() > axis and bool((held == held.narrow(axis, 0, 1)).all())


def shown_through_masks(value: fx.Node, sources: _Sources) -> fx.Node:
    """What a value shows where no mask hides it, before it was repeated: the factor that is no mask, the operand that
    a mask of the call chooses.
    """
    while has(value, Fact.SCALING | Fact.CHOICE | Fact.CAST | Fact.EXPANSION):
        operands = tensor_args(value)
        if has(value, Fact.CHOICE) and not any(depends_on_values(a) for a in operands if sources[a] == {MASK}):
            break
        shown = [a for a in operands if not sources[a] <= {MASK, CONSTANT}]
        if len(shown) != 1:
            break
        value = shown[0]
    return value


def whole_of(value: fx.Node, sources: _Sources) -> fx.Node:
    """A value that the walk has come to, for one that parts were written into since."""
    while value not in sources and operator_of(value).axes is Axes.WRITTEN:
        value = operand_of(value)
    return value
