"""Axes of a result followed back into the operands of the operation that made it."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from math import prod
from typing import Any

from torch import fx

from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, TOKEN, Layout
from lrp_fx.ir.sizes import shape_of

#: Part of an axis, from one stride to another inside it: of (heads * width) merged, the width is (axis, 1, width).
Part = tuple[int, int, int]
Axes = frozenset[Part]
ROW_MAJOR = frozenset(
    "aten.reshape aten.squeeze aten.unsqueeze aten.flatten aten.unflatten aten.view_as_real "
    "aten.view_as_complex".split()
)
REDUCING = frozenset("aten.sum aten.mean aten.amax aten.amin".split())
MATRIX_PRODUCTS = frozenset("aten.matmul aten.bmm aten.mm".split())
WITH_TERM = frozenset("aten.baddbmm aten.addmm".split())


def factors_of(node: fx.Node) -> tuple[Any, ...]:
    """The two factors of a product (behind the term of ``term + a b``)."""
    return tuple(node.args[1:3] if op_name(node) in WITH_TERM | {"aten.addcmul"} else node.args[:2])


def is_contraction(node: fx.Node) -> bool:
    """Is it a matrix product?"""
    return op_name(node) in MATRIX_PRODUCTS | WITH_TERM


def sizes(node: fx.Node) -> tuple[int, ...]:
    """Traced sizes; of an operation that gives parts, those of the whole."""
    if isinstance(value_of(node), (tuple, list)):
        source = node.args[0]
        return sizes(source) if isinstance(source, fx.Node) else ()
    return shape_of(node)


def whole(node: fx.Node, axes: Iterable[int] | None = None) -> Axes:
    """The given axes (or all) of a value, those of size one left out."""
    return frozenset(
        (a, 1, sizes(node)[a]) for a in (range(len(sizes(node))) if axes is None else axes) if sizes(node)[a] > 1
    )


def operand_axes(node: fx.Node, operand: fx.Node, axes: Axes) -> Axes:
    """The (parts of) axes of ``operand`` that run along ``axes`` of the result; an axis along which it is broadcast,
    along none.
    """
    name, result, given = op_name(node), sizes(node), sizes(operand)
    if name in ROW_MAJOR:
        return _regrouped(given, result, axes)
    if name in REDUCING and len(result) == len(given):
        return frozenset(part for part in axes if not (result[part[0]] == 1 and given[part[0]] > 1))
    if name in MATRIX_PRODUCTS or (name in WITH_TERM and operand is not node.args[0]):
        return _of_factor(operand, factors_of(node)[0] is operand, result, axes)
    if (renumber := _renumbering(node, operand)) is not None:
        return frozenset((renumber[a], low, high) for a, low, high in axes if a in renumber)
    return _aligned(given, result, axes)


def _renumbering(node: fx.Node, operand: fx.Node) -> dict[int, int] | None:
    """Axis of the result -> axis of the operand, for operations that only move, take or add axes."""
    name, before, after = op_name(node), len(sizes(operand)), len(sizes(node))
    if node.target is operator.getitem:
        parent = node.args[0]
        return (
            _inserting(after, _dim(parent, 1, before))
            if isinstance(parent, fx.Node) and op_name(parent) == "aten.unbind"
            else None
        )
    if name == "aten.permute":
        return {i: int(d) % before for i, d in enumerate(node.args[1])}  # type: ignore[arg-type]
    if name in ("aten.transpose", "aten.t"):
        i, j = (int(d) % before for d in (node.args[1:3] if name == "aten.transpose" else (0, 1)))  # type: ignore[arg-type]
        return {a: {i: j, j: i}.get(a, a) for a in range(after)}
    if name == "aten.select":
        return _inserting(after, _dim(node, 1, before))
    if name == "aten.stack" or (name == "aten.select_scatter" and operand is not node.args[0]):
        dim = _dim(node, 1 if name == "aten.stack" else 2, after)
        return {a: a if a < dim else a - 1 for a in range(after) if a != dim}
    if name in REDUCING:
        gone = reduced_axes(node, before)
        return dict(enumerate(a for a in range(before) if a not in gone))
    return None


def reduced_axes(node: fx.Node, rank: int) -> frozenset[int]:
    """The axes of its operand that a reduction sums over."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    return frozenset(int(d) % rank for d in dims) if dims else frozenset(range(rank))  # type: ignore[union-attr, arg-type]


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


def _dim(node: fx.Node, position: int, rank: int) -> int:
    given = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    return int(given) % rank  # type: ignore[arg-type]


def _inserting(rank: int, dim: int) -> dict[int, int]:
    return {a: a if a < dim else a + 1 for a in range(rank)}


def _aligned(given: tuple[int, ...], result: tuple[int, ...], axes: Axes) -> Axes:
    """Axes numbered from the right are the same, as in broadcasting."""
    offset = len(result) - len(given)
    return frozenset(
        (a - offset, low, high)
        for a, low, high in axes
        if a >= offset and not (given[a - offset] == 1 and result[a] > 1)
    )


def _of_factor(operand: fx.Node, is_left: bool, result: tuple[int, ...], axes: Axes) -> Axes:
    """Rows come from the left factor, columns from the right one."""
    given, rank = sizes(operand), len(result)
    if len(given) == 1:
        return frozenset()
    other = rank - 1 if is_left else rank - 2
    inner = (*given[:-2], *(result[-2:]))  # the factor as if it had the result's rows and columns
    return _aligned(inner, result, frozenset(part for part in axes if part[0] != other))


def _regrouped(given: tuple[int, ...], result: tuple[int, ...], axes: Axes) -> Axes:
    """Row-major regrouping: parts of both sides belong together where their ranges of strides overlap."""
    if prod(given) != prod(result):
        return frozenset()
    before, after = _spans(given), _spans(result)
    found: set[Part] = set()
    for a, start, stop in axes:
        low, high = after[a][0] * start, after[a][0] * stop
        for i, (first, last) in enumerate(before):
            if max(low, first) < min(high, last):
                found.add((i, max(low, first) // first, min(high, last) // first))
    return frozenset(found)


def _spans(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(stride, stride * size) of each axis in a contiguous value."""
    spans, stride = [], 1
    for size in reversed(shape):
        spans.append((stride, stride * size))
        stride *= size
    return spans[::-1]
