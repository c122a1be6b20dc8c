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

from lrp_fx.ir.factor_rules import factors_of_axes
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument, axes_of, axis_of, operand_of, operator_of
from lrp_fx.ir.sizes import same_size
from lrp_fx.optimize.rows import KeptRows, RowPusher, causal_row, is_zero, sizes_given

aten = torch.ops.aten


def _through(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """An operation that is zero where its first operand is, row by row, whose other operands say nothing of rows."""
    table = factors_of_axes(node)
    if table is None or node.args[0] not in pusher.rows:
        return None
    (_, own), *others = table.operands
    row, batch = own[rows.axis], own[rows.batch]
    if table.mixed & {*row, *batch} or any({*row, *batch} & {*f} for _, axes in others for f in axes):
        return None
    if any(a in pusher.rows for a, _ in others) or row not in table.result or batch not in table.result:
        return None
    places = {"axis": table.result.index(row), "batch": table.result.index(batch)}
    return pusher.again(node, (rows.kept, *node.args[1:]), rows, **places)


def _product(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """``rows * anything``, ``rows / anything``, rows where anything is positive."""
    rank = value_of(node).dim()
    if op_name(node) != "aten.mul" and node.args[0] not in pusher.rows:
        return None
    parts = [
        pusher.row(a, rank, rows) if isinstance(a, fx.Node) and isinstance(value_of(a), Tensor) else a
        for a in node.args
    ]
    whole = next(a for a in node.all_input_nodes if a in pusher.rows)
    if any(p is None for p in parts) or value_of(whole).dim() != rank or not _keeps(node, whole, rows):
        return None
    return pusher.again(node, parts, rows)


def _keeps(node: fx.Node, source: fx.Node, rows: KeptRows) -> bool:
    """Are the axes of batch and rows as long in the result as in the source (not broadcast there)?"""
    return all(same_size(value_of(node).shape[a], value_of(source).shape[a]) for a in (rows.batch, rows.axis))


def _sum_of_two(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    a, b = node.args[:2]
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return None
    ours, theirs = pusher.rows.get(a), pusher.rows.get(b)
    if (
        ours is None
        or theirs is None
        or replace(ours, kept=theirs.kept) != theirs
        or value_of(a).dim() != value_of(b).dim()
    ):
        return None
    return pusher.again(node, (ours.kept, theirs.kept), rows)


def _choice(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """``where(condition, rows, 0)``, ``where(condition, rows, other rows)``: zero wherever both are."""
    nodes = [a for a in node.args if isinstance(a, fx.Node)]
    rank = value_of(node).dim()
    if len(nodes) < len(node.args) or not all(a in pusher.rows or is_zero(a) for a in nodes[1:]):
        return None
    source = next((a for a in nodes[1:] if a in pusher.rows), None)
    if source is None or value_of(source).dim() != rank or not _keeps(node, source, rows):
        return None
    parts = [pusher.row(a, rank, rows) for a in nodes]
    return None if any(p is None for p in parts) else pusher.again(node, parts, rows)


def _comparison(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> None:
    """What compares rows is not zero elsewhere, but its rows are known to whoever needs only them."""
    if node.args[0] in pusher.rows and not isinstance(node.args[1], fx.Node):
        key = (node, rows.place, rows.axis, rows.batch, value_of(node).dim(), rows.merged)
        pusher.selected[key] = pusher.call(node.target, rows.kept, *node.args[1:], like=node)


def _reduced(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | fx.Node | None:
    """A sum over other axes keeps the rows; one over the rows is the sum of those that are not zero."""
    rank = value_of(operand_of(node)).dim()
    if len(axes_of(node, rank)) == rank or rows.axis in axes_of(node, rank):
        return pusher.call(node.target, rows.kept, *node.args[1:], like=node, **node.kwargs)
    return _through(pusher, node, rows)


def _reshaped(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """Batch and tokens merged into one axis or taken apart again, or other axes regrouped behind them."""
    before, after = value_of(operand_of(node)).shape, value_of(node).shape
    sizes = sizes_given(node)
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
    grad, query, key, value, out, lse = (operand_of(node, i) for i in range(6))
    dropout, causal, mask = (argument(node, name) for name in ("dropout_p", "is_causal", "attn_mask"))
    others_whole = not any(a in pusher.rows for a in node.all_input_nodes if a is not grad)
    if (
        grad not in pusher.rows
        or (rows.batch, rows.axis, rows.merged) != (0, 2, False)
        or not others_whole
        or (causal and mask)
    ):
        return None
    q, o = (pusher.row(a, 4, rows) for a in (query, out))
    statistic = pusher.row(pusher.call(aten.unsqueeze.default, lse, 3, like=node), 4, rows)
    if causal:
        mask = causal_row(pusher, rows.place, query, key)
    elif mask is not None:
        mask = pusher.row(mask, 4, rows)
    if (
        q is None
        or o is None
        or statistic is None
        or (mask is None and (causal or argument(node, "attn_mask") is not None))
    ):
        return None
    given = (rows.kept, q, key, value, o, pusher.call(aten.squeeze.dim, statistic, 3, like=node), dropout, False)
    found = pusher.call(node.target, *given, like=node, attn_mask=mask, scale=argument(node, "scale"))
    of_q, of_k, of_v = (pusher.call(operator.getitem, found, i, like=node) for i in range(3))
    return [replace(rows, kept=of_q), of_k, of_v]


def _attention_path(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> list[KeptRows | fx.Node] | None:
    """The same for the path rule's transpose (`lrp_fx.kernels.attention_path`), which has no statistic."""
    grad, query, key, value, bias, start, causal, scale, weight = node.args
    others_whole = not any(a in pusher.rows for a in node.all_input_nodes if a is not grad)
    if grad not in pusher.rows or (rows.batch, rows.axis, rows.merged) != (0, 2, False) or not others_whole or bias:
        return None
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node)
    q = pusher.row(query, 4, rows)
    if causal and start is None:
        start = causal_row(pusher, rows.place, query, key)
    elif isinstance(start, fx.Node):
        start = None if causal else pusher.row(start, 4, rows)
        if start is None:
            return None
    if q is None:
        return None
    found = pusher.call(node.target, rows.kept, q, key, value, None, start, False, scale, weight, like=node)
    of_q, of_k, of_v = (pusher.call(operator.getitem, found, i, like=node) for i in range(3))
    return [replace(rows, kept=of_q), of_k, of_v, pusher.call(operator.getitem, found, 3, like=node)]


def _equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(same_size(x, y) for x, y in zip(a, b, strict=True))


def _expanded(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """Other axes of size 1 made longer, or new ones put in front."""
    sizes, source = sizes_given(node), value_of(operand_of(node))
    more = len(sizes) - source.dim()
    moved = replace(rows, axis=rows.axis + more, batch=rows.batch + more)
    if more and rows.merged:
        return None
    if not all(same_size(value_of(node).shape[a + more], source.shape[a]) for a in {rows.axis, rows.batch}):
        return None
    sizes[moved.axis] = -1 if rows.merged else 1
    return pusher.again(node, (rows.kept, sizes), moved)


def _softmax_backward(pusher: RowPusher, node: fx.Node, rows: KeptRows) -> KeptRows | None:
    """The derivative of weights along another axis than those of batch and rows."""
    grad, weights, rank = operand_of(node), operand_of(node, 1), value_of(node).dim()
    if grad not in pusher.rows or weights in pusher.rows or axis_of(node, rank) in (rows.axis, rows.batch):
        return None
    part = pusher.row(weights, rank, rows)
    return pusher.again(node, (rows.kept, part, *node.args[2:]), rows) if part is not None else None


#: What an operation is on rows: rows, a value that is whole (a list of them for several results), or None where all
#: rows are needed. By a fact of it, the first that fits; or with a rule of its own.
Pushed = Callable[[RowPusher, fx.Node, KeptRows], Any]
_BY_FACT: tuple[tuple[Fact, Pushed], ...] = (
    (Fact.KEEPS_ZERO, _through),
    (Fact.SCALING, _product),
    (Fact.SUM, _sum_of_two),
    (Fact.COMPARISON, _comparison),
    (Fact.PRODUCT, _through),
)
_BY_NAME: dict[str, Pushed] = {
    "aten.reshape": _reshaped,
    "aten.view": _reshaped,
    "aten._unsafe_view": _reshaped,
    "aten.unsqueeze": _through,
    "aten.slice": _through,
    "aten.threshold_backward": _product,
    "aten.where": _choice,
    "aten.sum": _reduced,
    "aten.expand": _expanded,
    "aten._softmax_backward_data": _softmax_backward,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention,
    "lrp_fx.attention_path": _attention_path,
}


def pushed(node: fx.Node) -> Pushed | None:
    """What an operation is on rows, None where nothing is known of it."""
    known = operator_of(node)
    by_fact = next((rule for fact, rule in _BY_FACT if known.facts._value_ & fact._value_), None)
    return _BY_NAME.get(known.name) or by_fact or (_through if known.axes is Axes.PERMUTED else None)
