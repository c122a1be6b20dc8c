"""Operations on values that are zero but for one row of each example: which keep them so, and what they do to the
row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.sizes import same_size
from lrp_fx.optimize.rows import KeptRows, RowPusher, axis_order, causal_row, is_zero

aten = torch.ops.aten
#: Pointwise operations of one operand that are zero at zero, and moves that leave every axis where it is.
KEEP_ZERO = frozenset(
    "aten.zeros_like aten.neg aten._to_copy aten.clone aten.detach aten.alias aten.abs aten.contiguous aten.conj "
    "aten._conj".split()
)


def _same_axes(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    return pusher.again(node, (rows.kept, *node.args[1:]), rows) if node.args[0] in pusher.rows else None


def _product(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """``rows * anything``, ``rows / anything``, rows where anything is positive."""
    rank = value_of(node).dim()
    if op_name(node) != "aten.mul" and node.args[0] not in pusher.rows:
        return None
    parts = [
        pusher.row(a, rank, rows) if isinstance(a, fx.Node) and isinstance(value_of(a), Tensor) else a
        for a in node.args
    ]
    whole = next(a for a in node.args if a in pusher.rows)
    if any(p is None for p in parts) or value_of(whole).dim() != rank or not _keeps(node, whole, rows):  # type: ignore[arg-type]
        return None
    return pusher.again(node, parts, rows)


def _keeps(node: fx.Node, source: fx.Node, rows: KeptRows) -> bool:
    """Are the axes of batch and rows as long in the result as in the source (not broadcast there)?"""
    return all(same_size(value_of(node).shape[a], value_of(source).shape[a]) for a in (rows.batch, rows.axis))


def _sum_of_two(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    a, b = node.args[:2]
    ours, theirs = pusher.rows.get(a), pusher.rows.get(b)  # type: ignore[arg-type]
    if (
        ours is None
        or theirs is None
        or replace(ours, kept=theirs.kept) != theirs
        or value_of(a).dim() != value_of(b).dim()  # type: ignore[arg-type]
    ):
        return None
    return pusher.again(node, (ours.kept, theirs.kept), rows)


def _matrix(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """Rows times a matrix that is the same for all of them."""
    x, weight = node.args[:2]
    contracted = value_of(node).dim() - 1
    if (
        x not in pusher.rows
        or weight in pusher.rows
        or value_of(weight).dim() != 2  # type: ignore[arg-type]
        or len(node.args) > 2
        or contracted in (rows.axis, rows.batch)
    ):
        return None
    return pusher.again(node, (rows.kept, weight), rows)


def _choice(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """``where(condition, rows, 0)``, ``where(condition, rows, other rows)``: zero wherever both are."""
    condition, *branches = node.args
    rank = value_of(node).dim()
    if not isinstance(condition, fx.Node) or not all(
        isinstance(a, fx.Node) and (a in pusher.rows or is_zero(a)) for a in branches
    ):
        return None
    source = next((a for a in branches if a in pusher.rows), None)
    if source is None or value_of(source).dim() != rank or not _keeps(node, source, rows):  # type: ignore[arg-type]
        return None
    parts = [pusher.row(a, rank, rows) for a in (condition, *branches)]  # type: ignore[arg-type]
    return None if any(p is None for p in parts) else pusher.again(node, parts, rows)


def _comparison(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> None:
    """What compares rows is not zero elsewhere, but its rows are known to whoever needs only them."""
    if node.args[0] in pusher.rows and not isinstance(node.args[1], fx.Node):
        key = (node, rows.place, rows.axis, rows.batch, value_of(node).dim(), rows.merged)
        pusher.selected[key] = pusher.call(node.target, rows.kept, *node.args[1:], like=node)


def _reduced(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | fx.Node | None:
    """A sum over other axes keeps the rows; one over the rows is the sum of those that are not zero."""
    if len(node.args) < 2 or not node.args[1]:  # over everything
        return pusher.call(node.target, rows.kept, *node.args[1:], like=node, **node.kwargs)
    rank = value_of(node.args[0]).dim()  # type: ignore[arg-type]
    dims = sorted(int(d) % rank for d in node.args[1])  # type: ignore[union-attr,arg-type]
    keep = len(node.args) > 2 and bool(node.args[2])
    if rows.axis in dims:
        return pusher.call(node.target, rows.kept, *node.args[1:], like=node, **node.kwargs)
    if rows.batch in dims:
        return None
    gone = 0 if keep else sum(d < rows.axis for d in dims)
    before = 0 if keep else sum(d < rows.batch for d in dims)
    return pusher.again(node, (rows.kept, *node.args[1:]), rows, axis=rows.axis - gone, batch=rows.batch - before)


def _permuted(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows:
    order = axis_order(node)
    return pusher.again(
        node, (rows.kept, *node.args[1:]), rows, axis=order.index(rows.axis), batch=order.index(rows.batch)
    )


def _reshaped(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """Batch and tokens merged into one axis or taken apart again, or other axes regrouped behind them."""
    source = node.args[0]
    before, after = value_of(source).shape, value_of(node).shape  # type: ignore[arg-type]
    sizes = list(node.args[1])  # type: ignore[arg-type]
    if rows.merged:
        if (
            rows.axis == 0
            and len(after) == len(before) + 1
            and _equal(after[2:], before[1:])
            and same_size(after[0], value_of(rows.kept).shape[0])
        ):
            return replace(
                rows, kept=pusher.call(aten.unsqueeze.default, rows.kept, 1, like=node), batch=0, axis=1, merged=False
            )
        if rows.axis == 0 and same_size(after[0], before[0]):
            return pusher.again(node, (rows.kept, [-1, *sizes[1:]]), rows) if all(s != -1 for s in sizes[1:]) else None
        return None
    if (rows.batch, rows.axis) != (0, 1):
        return None
    if len(after) == len(before) - 1 and _equal(after[1:], before[2:]) and not same_size(after[0], before[0]):
        return replace(rows, kept=pusher.call(aten.squeeze.dim, rows.kept, 1, like=node), batch=0, axis=0, merged=True)
    if len(after) >= 2 and _equal(after[:2], before[:2]):
        return pusher.again(node, (rows.kept, [sizes[0], 1, *sizes[2:]]), rows)
    return None


def _attention(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> list[KeptRows | fx.Node] | None:
    """The derivative of fused attention with a gradient for single queries: only these are needed; what it gives keys
    and values is whole.
    """
    grad, query, key, value, out, lse, dropout, causal = node.args[:8]
    mask: Any = node.kwargs.get("attn_mask")
    others_whole = not any(a in pusher.rows for a in node.all_input_nodes if a is not grad)
    if (
        grad not in pusher.rows
        or (rows.batch, rows.axis, rows.merged) != (0, 2, False)
        or not others_whole
        or (causal and mask)
    ):
        return None
    q, o = (pusher.row(a, 4, rows) for a in (query, out))  # type: ignore[arg-type]
    statistic = pusher.row(pusher.call(aten.unsqueeze.default, lse, 3, like=node), 4, rows)
    if causal:
        mask = causal_row(pusher, rows.place, query, key)  # type: ignore[arg-type]
    elif mask is not None:
        mask = pusher.row(mask, 4, rows)
    if (
        q is None
        or o is None
        or statistic is None
        or (mask is None and (causal or node.kwargs.get("attn_mask") is not None))
    ):
        return None
    given = (rows.kept, q, key, value, o, pusher.call(aten.squeeze.dim, statistic, 3, like=node), dropout, False)
    found = pusher.call(node.target, *given, like=node, attn_mask=mask, scale=node.kwargs.get("scale"))
    of_q, of_k, of_v = (pusher.call(operator.getitem, found, i, like=node) for i in range(3))
    return [replace(rows, kept=of_q), of_k, of_v]


def _equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(same_size(x, y) for x, y in zip(a, b, strict=True))


def _unsqueezed(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows:
    dim = int(node.args[1]) % value_of(node).dim()  # type: ignore[arg-type]
    return pusher.again(
        node, (rows.kept, dim), rows, axis=rows.axis + (dim <= rows.axis), batch=rows.batch + (dim <= rows.batch)
    )


def _expanded(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """Other axes of size 1 made longer, or new ones put in front."""
    sizes: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    more = len(sizes) - value_of(node.args[0]).dim()  # type: ignore[arg-type]
    moved = replace(rows, axis=rows.axis + more, batch=rows.batch + more)
    if more and rows.merged:
        return None
    if not all(
        same_size(value_of(node).shape[a + more], value_of(node.args[0]).shape[a])  # type: ignore[arg-type]
        for a in {rows.axis, rows.batch}
    ):
        return None
    sizes[moved.axis] = -1 if rows.merged else 1
    return pusher.again(node, (rows.kept, sizes), moved)


def _sliced(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    dim = int(node.args[1] if len(node.args) > 1 else 0) % value_of(node.args[0]).dim()  # type: ignore[arg-type]
    return pusher.again(node, (rows.kept, *node.args[1:]), rows) if dim not in (rows.axis, rows.batch) else None


def _softmax_backward(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """The derivative of weights along another axis than those of batch and rows."""
    grad, weights, dim, *rest = node.args
    rank = value_of(node).dim()
    if grad not in pusher.rows or weights in pusher.rows or int(dim) % rank in (rows.axis, rows.batch):  # type: ignore[arg-type]
        return None
    part = pusher.row(weights, rank, rows)  # type: ignore[arg-type]
    return pusher.again(node, (rows.kept, part, dim, *rest), rows) if part is not None else None


#: Operation -> what it is on rows: rows, a value that is whole (a list of them for several results), or None where all
#: rows are needed.
OPERATIONS: dict[str, Callable[[RowPusher, fx.Node, KeptRows], Any]] = {
    **dict.fromkeys(KEEP_ZERO, _same_axes),
    **dict.fromkeys(("aten.mul", "aten.div", "aten.threshold_backward"), _product),
    **dict.fromkeys(("aten.add", "aten.sub"), _sum_of_two),
    **dict.fromkeys(("aten.mm", "aten.matmul"), _matrix),
    "aten.where": _choice,
    **dict.fromkeys(("aten.eq", "aten.ne"), _comparison),
    "aten.sum": _reduced,
    **dict.fromkeys(("aten.permute", "aten.transpose", "aten.t"), _permuted),
    **dict.fromkeys(("aten.reshape", "aten.view", "aten._unsafe_view"), _reshaped),
    "aten.expand": _expanded,
    "aten.unsqueeze": _unsqueezed,
    "aten.slice": _sliced,
    "aten._softmax_backward_data": _softmax_backward,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention,
}
