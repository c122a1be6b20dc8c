"""Alignment: where batch and tokens are in a value that is broadcast against another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import UNKNOWN, BatchAxis, Layout, token_axes
from lrp_fx.ir.operators import argument, axis_of, has, is_matrix_product
from lrp_fx.ir.sizes import hint, same_size
from lrp_fx.rewrite.application import Application


def aligned_batch(operand: fx.Node, node: fx.Node, y_axis: BatchAxis) -> tuple[int, int, bool] | None:
    """(axis, rank, present): where the batch is, or has to be grown, in an operand that is broadcast against the
    result, or against the part of it that the operand is written to.
    """
    x, y = value_of(operand), value_of(node)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return None
    rank, axis = _written(operand, node, y_axis.axis)
    if axis is None:
        return None
    own = axis - (rank - x.dim())
    if own < 0:
        return axis, rank, False
    if same_size(x.shape[own], y.shape[y_axis.axis]):
        return own, x.dim(), True
    return (own, x.dim(), False) if x.shape[own] == 1 else None


def _written(operand: fx.Node, node: fx.Node, axis: int) -> tuple[int, int | None]:
    """The rank of what an operand is broadcast to, and where in it an axis of the result is; None: nowhere."""
    rank = int(value_of(node).dim())
    if op_name(node) == "aten.stack" or (
        op_name(node) == "aten.select_scatter" and argument(node, "src") is operand
    ):  # one axis less
        one = axis_of(node, rank)
        return rank - 1, None if axis == one else axis - (one < axis)
    if op_name(node) == "aten.index_put" and argument(node, "values") is operand:
        indices = argument(node, "indices")
        if not any(i is not None and value_of(i).dtype == torch.bool for i in indices):  # a mask names several axes
            return _indexed(indices, rank, axis)
    return rank, axis


def _indexed(indices: Sequence[Any], rank: int, axis: int) -> tuple[int, int | None]:
    """The same for ``y[indices]``: axes of indices that lie together stay where they are, others come first."""
    at = [i for i, index in enumerate(indices) if index is not None]
    own = max(int(value_of(indices[i]).dim()) for i in at)
    whole = [i for i in range(rank) if i not in at]
    before = sum(i < at[0] for i in whole) if at[-1] - at[0] == len(at) - 1 else 0
    if axis in at:
        return len(whole) + own, None
    place = whole.index(axis)
    return len(whole) + own, place if place < before else place + own


def token_axes_of(leaf: fx.Node, application: Application, own: Layout | None, result: Layout | None) -> list[int]:
    """Axes of a position leaf that run over tokens: those of its own layout, where it has none or does not know them,
    those of the value it is broadcast against.
    """
    if application.kind == "attention":  # a bias on the scores: queries by keys
        rank = value_of(leaf).dim()
        return [axis for axis in (rank - 2, rank - 1) if axis >= 0 and hint(value_of(leaf).shape[axis]) > 1]
    # rows of a table stand for distances; a matrix for each token does not
    if has(application.node, Fact.PRODUCT):
        return [axis for axis in _aligned_tokens(leaf, application, result) if axis < value_of(leaf).dim() - 2]
    aligned = _aligned_tokens(leaf, application, result)
    if own is None:
        return aligned
    unknown = {i for i, axis in enumerate(own) if axis and all(k == UNKNOWN for k, _ in axis)}  # rows put side by side
    return sorted({*token_axes(own), *unknown.intersection(aligned)})


def _aligned_tokens(leaf: fx.Node, application: Application, layout: Layout | None) -> list[int]:
    node = application.node
    if (
        layout is None
        or not (isinstance(value_of(leaf), Tensor) and isinstance(value_of(node), Tensor))
        or (is_matrix_product(node) and not has(node, Fact.PRODUCT) and not _is_term(leaf, node))
    ):
        return []
    shape = value_of(leaf).shape
    found = []
    for axis in token_axes(layout):
        rank, at = _written(leaf, node, axis)
        own = at - (rank - len(shape)) if at is not None else -1
        if 0 <= own < len(shape) and hint(shape[own]) > 1:
            found.append(own)
    return found


def _is_term(leaf: fx.Node, node: fx.Node) -> bool:
    """Is it what a product is added to?"""
    return has(node, Fact.TERM_FIRST) and node.args[0] is leaf


def counted_size(leaf: fx.Node, application: Application, axis: int) -> Any:
    """The size of a leaf's axis as what it is broadcast against counts it.

    A table cut to length may say its size in a roundabout way (``64 - max(0, 64 - T)`` rows); the scores it is added to
    have ``T`` keys.
    """
    size, from_right = value_of(leaf).shape[axis], value_of(leaf).dim() - axis
    if isinstance(size, int) or size.node.expr.is_Symbol or is_matrix_product(application.node):
        return size
    values = [value_of(n) for n in (application.node, *application.operands)]
    against = [v.shape[-from_right] for v in values if isinstance(v, Tensor) and v.dim() >= from_right]
    return next(
        (s for s in against if not isinstance(s, int) and s.node.expr.is_Symbol and hint(s) == hint(size)), size
    )
