"""Axes of a result followed back into the operands of the operation that made it: questions asked of the axis table."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from torch import fx

from lrp_fx.ir.factor_rules import factors_of_axes
from lrp_fx.ir.factors import Axis, AxisFactors, whole_shape
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, TOKEN, Layout
from lrp_fx.ir.operators import axis_of, operand_of
from lrp_fx.ir.sizes import hint

#: Part of an axis, from one stride to another inside it: of (heads * width) merged, the width is (axis, 1, width).
Part = tuple[int, int, int]
Axes = frozenset[Part]


def sizes(node: fx.Node) -> tuple[int, ...]:
    """Traced sizes; of an operation that gives parts, those of the whole."""
    return tuple(hint(s) for s in whole_shape(node))


def whole(node: fx.Node, axes: Iterable[int] | None = None) -> Axes:
    """The given axes (or all) of a value, those of size one left out."""
    shape = sizes(node)
    return frozenset((a, 1, shape[a]) for a in (range(len(shape)) if axes is None else axes) if shape[a] > 1)


def operand_axes(node: fx.Node, given: fx.Node, axes: Axes) -> Axes:
    """The (parts of) axes of an operand that run along ``axes`` of the result; an axis along which it is broadcast,
    along none.

    Of an operation that the table says nothing of: those at the same place from the right, as in broadcasting.
    """
    table = factors_of_axes(node)
    own = table.of(given) if table is not None else None
    if table is None or own is None:
        return _from_the_right(sizes(given), sizes(node), axes)
    strides: dict[int, list[tuple[int, int]]] = {}
    for i, axis in enumerate(own):
        for factor, stride in _strides(axis, table):
            strides.setdefault(factor, []).append((i, stride))
    found: set[Part] = set()
    for a, start, stop in axes:
        found |= _merged(_parts(table.result[a], start, stop, table, strides))
    return frozenset(found)


def _strides(axis: Axis, table: AxisFactors) -> list[tuple[int, int]]:
    """(factor, stride) inside an axis, from minor to major."""
    found, stride = [], 1
    for factor in reversed(axis):
        found.append((factor, stride))
        stride *= table.sizes[factor]
    return found


def _parts(
    axis: Axis, start: int, stop: int, table: AxisFactors, strides: dict[int, list[tuple[int, int]]]
) -> list[Part]:
    """What a part of an axis of the result is in an operand; an axis that is one factor may have been cut to length."""
    if len(axis) == 1:
        return [(i, start * s, stop * s) for i, s in strides.get(axis[0], ())]
    found = []
    for factor, stride in _strides(axis, table):
        low, high = max(start, stride) // stride, min(stop, stride * table.sizes[factor]) // stride
        if low < high:
            found += [(i, low * s, high * s) for i, s in strides.get(factor, ())]
    return found


def _merged(parts: Iterable[Part]) -> set[Part]:
    """Parts that lie next to each other in one axis are one."""
    found: list[Part] = []
    for axis, start, stop in sorted(parts):
        if found and found[-1][0] == axis and found[-1][2] == start:
            found[-1] = (axis, found[-1][1], stop)
        else:
            found.append((axis, start, stop))
    return set(found)


def _from_the_right(given: tuple[int, ...], result: tuple[int, ...], axes: Axes) -> Axes:
    offset = len(result) - len(given)
    return frozenset(
        (a - offset, low, high)
        for a, low, high in axes
        if a >= offset and not (given[a - offset] == 1 and result[a] > 1)
    )


def origins(node: fx.Node, given: fx.Node | None = None) -> list[int | None]:
    """For each axis of a result, which axis of an operand (the first, if none is named) it is as a whole; None where it
    is none, or elements do not stay apart along it.
    """
    table = factors_of_axes(node)
    own = table.of(given if given is not None else operand_of(node)) if table is not None else None
    if table is None or own is None:
        return [None] * len(whole_shape(node))
    places = {axis: i for i, axis in enumerate(own) if axis and not table.mixed & set(axis)}
    return [places.get(axis) for axis in table.result]


def axis_order(node: fx.Node) -> list[int]:
    """For each axis of a permuted or transposed value, which axis of its operand that was."""
    order = origins(node)
    found = [i for i in order if i is not None]
    assert len(found) == len(order), f"%{node.name} = {op_name(node)} is no permutation"
    return found


def element_taken(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """(whole, axis, number) where one element is taken along an axis: ``select``, or one result of ``unbind``."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if op_name(source) == "aten.unbind" and node.target is operator.getitem:
        taken, number = operand_of(source), node.args[1]
    elif op_name(node) == "aten.select":
        taken, number = source, node.args[2]
    else:
        return None
    axis = axis_of(node if taken is source else source, value_of(taken).dim())
    return (taken, axis, number) if isinstance(number, int) else None


def kinds_along(layout: Layout | None, axis: int) -> frozenset[str]:
    """What an axis runs over (batch, token, feature, unknown); nothing where no layout is known or its size is one."""
    return (
        frozenset(kind for kind, _ in layout[axis])
        if layout is not None and -len(layout) <= axis < len(layout)
        else frozenset()
    )


def feature_parts(layout: Layout | None) -> Axes:
    """The parts of axes that are known to run over features."""
    found = set()
    for axis, factors in enumerate(layout or ()):
        stride = 1
        for kind, size in reversed(factors):
            if kind == FEATURE and size > 1:
                found.add((axis, stride, stride * size))
            stride *= size
    return frozenset(found)


def is_feature(layout: Layout | None, axis: int) -> bool:
    """Does an axis run over features (and, where merged, over neither tokens nor the batch alone)?"""
    return FEATURE in kinds_along(layout, axis)


def is_token(layout: Layout | None, axis: int) -> bool:
    return TOKEN in kinds_along(layout, axis)


def is_batch(layout: Layout | None, axis: int) -> bool:
    return BATCH in kinds_along(layout, axis)
