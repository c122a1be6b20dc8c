"""Alignment: where batch and tokens are in a value that is broadcast against another."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from lrp_fx.layout import BatchAxis, Layout, hint, token_axes
from lrp_fx.program import op_name, value_of
from lrp_fx.recognize.dataflow import MATRIX
from lrp_fx.rewrite import Application


def aligned_batch(x: Any, y: Any, y_axis: BatchAxis) -> tuple[int, int, bool] | None:
    """(axis, rank, present): where the batch is, or has to be grown, in an operand that is broadcast against ``y``."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return None
    own = y_axis.axis - (y.dim() - x.dim())
    if own < 0:
        return y_axis.axis, y.dim(), False
    if same_size(x.shape[own], y.shape[y_axis.axis]):
        return own, x.dim(), True
    return (own, x.dim(), False) if x.shape[own] == 1 else None


def aligned_tokens(leaf: fx.Node, application: Application, layout: Layout | None) -> list[int]:
    """Token axes of a leaf without a layout of its own, read from the value it is broadcast against."""
    name = op_name(application.node)
    if layout is None or not isinstance(value_of(leaf), Tensor) or (name in MATRIX and name not in ("aten.matmul", "aten.bmm")):
        return []
    shift = len(layout) - max(value_of(leaf).dim(), 0)
    shape = value_of(leaf).shape
    end = len(shape) - (2 if name in MATRIX else 0)  # the last two axes of a matrix product are not broadcast
    return [axis - shift for axis in token_axes(layout) if 0 <= axis - shift < end and hint(shape[axis - shift]) > 1]


def same_size(a: Any, b: Any) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)
