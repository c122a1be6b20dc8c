"""Operations of which single rows can be computed from single rows: what each is on rows (None where it mixes them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.sizes import same_size
from lrp_fx.optimize.rows import RowPuller, RowRead, _rank, axis_order, causal_row

aten = torch.ops.aten
_REDUCTIONS = "aten.mean aten.sum aten.amax aten.amin aten.var aten.prod aten.linalg_vector_norm".split()


def _again(pull: RowPuller, node: fx.Node, x: fx.Node, *rest: Any) -> fx.Node:
    return pull.call(node.target, x, *rest, like=node, **node.kwargs)


def _linear(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    x = node.args[0]
    return (
        None if _rank(node) - 1 in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]
    )


def _matmul(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    x, y = node.args[:2]
    last = _rank(node) - 1
    if last in (read.axis, read.batch) or _rank(x) != _rank(node) or not (_rank(y) == 2 or read.axis == last - 1):
        return None
    return _again(pull, node, pull.rows(x, read), y)  # type: ignore[arg-type]


def _layer_norm(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    x, shape = node.args[:2]
    return (
        None
        if max(read.axis, read.batch or 0) >= _rank(x) - len(shape)  # type: ignore[arg-type]
        else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]
    )


def _softmax(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    x, dim = node.args[:2]
    return (
        None
        if int(dim) % _rank(x) in (read.axis, read.batch)  # type: ignore[arg-type]
        else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]
    )


def _reduced(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    x = node.args[0]
    where = 2 if op_name(node) == "aten.linalg_vector_norm" else 1
    if len(node.args) <= where or not isinstance(node.args[where], (list, tuple)) or not node.args[where]:
        return None
    dims = sorted(int(d) % _rank(x) for d in node.args[where])  # type: ignore[union-attr,arg-type]
    kept = [a for a in range(_rank(x)) if _rank(node) == _rank(x) or a not in dims]
    axis, batch = kept[read.axis], None if read.batch is None else kept[read.batch]
    return (
        None
        if axis in dims or batch in dims
        else _again(pull, node, pull.rows(x, read.at(axis, batch)), *node.args[1:])  # type: ignore[arg-type]
    )


def _moved(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """Axes in another order."""
    order = axis_order(node)
    return _again(
        pull,
        node,
        pull.rows(node.args[0], read.at(order[read.axis], None if read.batch is None else order[read.batch])),  # type: ignore[arg-type]
        *node.args[1:],
    )


def _unsqueezed(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    dim = int(node.args[1]) % _rank(node)  # type: ignore[arg-type]
    if dim in (read.axis, read.batch):
        return None
    source = read.at(read.axis - (dim < read.axis), None if read.batch is None else read.batch - (dim < read.batch))
    return _again(pull, node, pull.rows(node.args[0], source), dim)  # type: ignore[arg-type]


def _flattened_linear(pull: RowPuller, node: fx.Node, product: fx.Node, read: RowRead) -> fx.Node | None:
    """A matrix product of all tokens of all examples in one axis: ``(x.reshape(B * T, D) @ W).reshape(B, T, F)``."""
    place = 1 if op_name(product) == "aten.addmm" else 0
    flat: Any = product.args[place]
    if op_name(flat) != "aten.reshape" or _rank(flat.args[0]) != 3 or read.batch not in (0, None):
        return None
    source = flat.args[0]
    if not all(same_size(a, b) for a, b in zip(value_of(source).shape[:2], value_of(node).shape[:2], strict=True)):
        return None
    if not same_size(value_of(source).shape[2], value_of(flat).shape[1]) or (place == 1 and _rank(product.args[0]) > 1):
        return None
    rows = pull.call(aten.squeeze.dim, pull.rows(source, read), 1, like=node)
    args = [rows if i == place else a for i, a in enumerate(product.args)]
    return pull.call(
        aten.unsqueeze.default, pull.call(product.target, *args, like=product, **product.kwargs), 1, like=node
    )


def _reshaped(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """Axes behind the rows regrouped."""
    x: Any = node.args[0]
    sizes: Any = list(node.args[1])  # type: ignore[arg-type]
    if op_name(x) in ("aten.addmm", "aten.mm") and (read.axis, _rank(node)) == (1, 3):
        return _flattened_linear(pull, node, x, read)
    before, after, upto = value_of(x).shape, value_of(node).shape, max(read.axis, read.batch or 0) + 1
    if min(len(before), len(after)) < upto or not all(
        same_size(a, b) for a, b in zip(before[:upto], after[:upto], strict=True)
    ):
        return None
    sizes[read.axis] = 1
    return _again(pull, node, pull.rows(x, read), sizes)


def _along_another(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """A part, along another axis."""
    x = node.args[0]
    dim = int(node.args[1] if len(node.args) > 1 else 0) % _rank(x)  # type: ignore[arg-type]
    return None if dim in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _in_parts(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """Several parts along another axis."""
    x = node.args[0]
    dim = int(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)) % _rank(x)  # type: ignore[arg-type]
    return None if dim in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _joined(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    parts, dim = node.args[0], int(node.args[1] if len(node.args) > 1 else 0) % _rank(node)  # type: ignore[arg-type]
    if dim in (read.axis, read.batch) or any(_rank(p) != _rank(node) for p in parts):  # type: ignore[union-attr]
        return None
    return pull.call(node.target, [pull.rows(p, read) for p in parts], dim, like=node)  # type: ignore[union-attr,arg-type]


def _attention(pull: RowPuller, node: fx.Node, read: RowRead) -> fx.Node | None:
    """Single queries; a causal mask is written out for them."""
    query, key, value = node.args[:3]
    if read.axis != 2 or read.batch not in (0, None):
        return None
    dropout, causal = (node.args[i] if len(node.args) > i else d for i, d in ((3, 0.0), (4, False)))
    mask: Any = node.kwargs.get("attn_mask")
    if causal and mask is not None:
        return None
    mask = (
        causal_row(pull, read.place, query, key)  # type: ignore[arg-type]
        if causal
        else pull.aligned(mask, 4, read)
        if mask is not None
        else None
    )
    return pull.call(
        node.target,
        pull.rows(query, read),  # type: ignore[arg-type]
        key,
        value,
        dropout,
        False,
        like=node,
        attn_mask=mask,
        scale=node.kwargs.get("scale"),
    )


#: Operation -> its rows from rows.
SOURCES: dict[str, Callable[[RowPuller, fx.Node, RowRead], fx.Node | None]] = {
    "aten.linear": _linear,
    **dict.fromkeys(("aten.matmul", "aten.bmm"), _matmul),
    **dict.fromkeys(("aten.native_layer_norm", "aten.layer_norm", "aten.rms_norm"), _layer_norm),
    **dict.fromkeys(("aten.softmax", "aten._softmax", "aten._safe_softmax", "aten.log_softmax"), _softmax),
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(("aten.permute", "aten.transpose", "aten.t"), _moved),
    **dict.fromkeys(
        ("aten.clone", "aten.contiguous", "aten.detach", "aten.alias"),
        lambda pull, node, read: _again(pull, node, pull.rows(node.args[0], read), *node.args[1:]),  # type: ignore[arg-type]
    ),
    "aten.unsqueeze": _unsqueezed,
    "aten.reshape": _reshaped,
    "aten.slice": _along_another,
    **dict.fromkeys(("aten.split", "aten.split_with_sizes", "aten.chunk"), _in_parts),
    "aten.cat": _joined,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
}
