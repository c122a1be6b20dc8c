"""Operations of which single rows can be computed from single rows: what each is on rows (None where it mixes them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.factor_rules import factors_of_axes
from lrp_fx.ir.factors import Axis, AxisFactors
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import is_scalar, op_name, tensor_args, value_of
from lrp_fx.ir.operators import argument, has, operand_of, operator_of
from lrp_fx.ir.sizes import same_size
from lrp_fx.optimize.rows import RowPuller, RowRead, causal_row, rank_of, sizes_given

aten = torch.ops.aten
#: Its operands are counted from the right, as in broadcasting.
_BROADCASTS = (Axes.ALIGNED, Axes.CONTRACTED, Axes.LAST_ALONG)
#: Sizes stand among the arguments, or places in the whole matter (causal attention).
_OF_THE_WHOLE = (Axes.REGROUPED, Axes.REPEATED, Axes.ATTENTION, Axes.PART)
#: Several results, all with the axes of the operand.
_IN_PARTS = (Axes.CUT, Axes.LAST_ALONG)


def pulled(node: fx.Node) -> Callable[[RowPuller, fx.Node, RowRead], fx.Node | None] | None:
    """How rows of an operation are computed from rows of its operands; None where that is not known."""
    known = operator_of(node)
    if known.name in _BY_NAME:
        return _BY_NAME[known.name]
    by_sizes = has(node, Fact.EXPANSION) or known.name == "aten.squeeze"  # rows are of size one
    followed = known.axes is not None and known.axes not in _OF_THE_WHOLE and not by_sizes
    return _through if followed and (isinstance(value_of(node), Tensor) or known.axes in _IN_PARTS) else None


def _through(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """The operation on rows of those operands that run along them, and on the others as they are."""
    table = factors_of_axes(node)
    reads = _reads(table, node, read) if table is not None else None
    if table is None or reads is None or not any(reads) or len(reads) != len(tensor_args(node)):
        return None
    pairs = zip(table.operands, reads, strict=True)
    parts = iter([given if rows is None else pull.rows(given, rows) for (given, _), rows in pairs])
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: a if is_scalar(a) else next(parts))
    return pull.call(node.target, *args, like=node, **kwargs)


def _reads(table: AxisFactors, node: fx.Node, read: RowRead) -> list[RowRead | None] | None:
    """Which rows of each operand are needed (None: all of it); None where rows do not stay apart."""
    row, batch = table.result[read.axis], None if read.batch is None else table.result[read.batch]
    if not row or batch == () or table.mixed & {*row, *(batch or ())}:
        return None
    found: list[RowRead | None] = []
    for _, axes in table.operands:
        if row not in axes:
            if any({*row} & {*axis} for axis in axes):
                return None  # inside another axis
            found.append(None)
        elif batch is None or batch in axes:
            found.append(read.at(axes.index(row), None if batch is None else axes.index(batch)))
        elif (place := _broadcast_batch(axes, batch, table, node, read)) is not None:
            found.append(read.at(axes.index(row), place))
        else:
            return None
    return found


def _broadcast_batch(
    axes: tuple[Axis, ...], batch: Axis, table: AxisFactors, node: fx.Node, read: RowRead
) -> int | None:
    """Where the batch would be in an operand that is the same for all examples (negative: in front of its axes); None
    where another axis stands there, such as the one that a matrix product contracts.
    """
    if operator_of(node).axes not in _BROADCASTS or read.batch is None:
        return None
    if any({*batch} & {*axis} for axis in axes):
        return None  # inside another axis
    place = read.batch - (len(table.result) - len(axes))
    return place if place < 0 or axes[place] == () else None


def _flattened_linear(pull: RowPuller, node: fx.Node, product: fx.Node, read: RowRead) -> fx.Node | None:
    """A matrix product of all tokens of all examples in one axis: ``(x.reshape(B * T, D) @ W).reshape(B, T, F)``."""
    place = 1 if has(product, Fact.TERM_FIRST) else 0
    flat: Any = product.args[place]
    if op_name(flat) != "aten.reshape" or rank_of(flat.args[0]) != 3 or read.batch not in (0, None):
        return None
    source = flat.args[0]
    if not all(same_size(a, b) for a, b in zip(value_of(source).shape[:2], value_of(node).shape[:2], strict=True)):
        return None
    if not same_size(value_of(source).shape[2], value_of(flat).shape[1]) or (
        place == 1 and rank_of(operand_of(product)) > 1
    ):
        return None
    rows = pull.call(aten.squeeze.dim, pull.rows(source, read), 1, like=node)
    args = [rows if i == place else a for i, a in enumerate(product.args)]
    return pull.call(
        aten.unsqueeze.default, pull.call(product.target, *args, like=product, **product.kwargs), 1, like=node
    )


def _reshaped(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """Axes behind the rows regrouped."""
    x, sizes = operand_of(node), sizes_given(node)
    if has(x, Fact.CONTRACTION) and (rank_of(x), read.axis, rank_of(node)) == (2, 1, 3):
        return _flattened_linear(pull, node, x, read)
    before, after, upto = value_of(x).shape, value_of(node).shape, max(read.axis, read.batch or 0) + 1
    if min(len(before), len(after)) < upto or not all(
        same_size(a, b) for a, b in zip(before[:upto], after[:upto], strict=True)
    ):
        return None
    sizes[read.axis] = 1
    return pull.call(node.target, pull.rows(x, read), sizes, like=node)


def _attention(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """Single queries; a causal mask is written out for them."""
    query, key, value = (operand_of(node, i) for i in range(3))
    if read.axis != 2 or read.batch not in (0, None):
        return None
    dropout, causal, mask = (argument(node, name) for name in ("dropout_p", "is_causal", "attn_mask"))
    if causal and mask is not None:
        return None
    mask = (
        causal_row(pull, read.place, query, key)
        if causal
        else pull.aligned(mask, 4, read)
        if mask is not None
        else None
    )
    return pull.call(
        node.target,
        pull.rows(query, read),
        key,
        value,
        dropout,
        False,
        like=node,
        attn_mask=mask,
        scale=argument(node, "scale"),
    )


#: Rules of their own: sizes among the arguments, a causal mask that has to be written out.
_BY_NAME: dict[str, Callable[[RowPuller, fx.Node, RowRead], fx.Node | None]] = {
    "aten.reshape": _reshaped,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
}
