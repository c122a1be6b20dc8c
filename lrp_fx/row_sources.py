"""Operations of which single rows can be computed from single rows: what each is on rows (None where it mixes them)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from lrp_fx.layout import same_size
from lrp_fx.program import op_name, value_of

if TYPE_CHECKING:
    from lrp_fx.row_reads import Puller, Read

aten = torch.ops.aten
_REDUCTIONS = "aten.mean aten.sum aten.amax aten.amin aten.var aten.prod aten.linalg_vector_norm".split()


def _again(pull: Puller, node: fx.Node, x: fx.Node, *rest: Any) -> fx.Node:
    return pull.call(node.target, x, *rest, like=node, **node.kwargs)


def _rank(node: Any) -> int:
    return int(value_of(node).dim())


def _linear(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    x = node.args[0]
    return None if _rank(node) - 1 in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _matmul(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    x, y = node.args[:2]
    last = _rank(node) - 1
    if last in (read.axis, read.batch) or _rank(x) != _rank(node) or not (_rank(y) == 2 or read.axis == last - 1):
        return None
    return _again(pull, node, pull.rows(x, read), y)  # type: ignore[arg-type]


def _layer_norm(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    x, shape = node.args[:2]
    return None if max(read.axis, read.batch or 0) >= _rank(x) - len(shape) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _softmax(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    x, dim = node.args[:2]
    return None if int(dim) % _rank(x) in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _reduced(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    x = node.args[0]
    where = 2 if op_name(node) == "aten.linalg_vector_norm" else 1
    if len(node.args) <= where or not isinstance(node.args[where], (list, tuple)) or not node.args[where]:
        return None
    dims = sorted(int(d) % _rank(x) for d in node.args[where])  # type: ignore[union-attr,arg-type]
    kept = [a for a in range(_rank(x)) if _rank(node) == _rank(x) or a not in dims]
    axis, batch = kept[read.axis], None if read.batch is None else kept[read.batch]
    return None if axis in dims or batch in dims else _again(pull, node, pull.rows(x, read.at(axis, batch)), *node.args[1:])  # type: ignore[arg-type]


def axis_order(node: fx.Node) -> list[int]:
    """For each axis of a permuted or transposed value, which axis of its operand that was."""
    rank = _rank(node)
    if op_name(node) == "aten.permute":
        return [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr,arg-type]
    order = list(range(rank))
    a, b = (0, 1) if op_name(node) == "aten.t" else (int(d) % rank for d in node.args[1:3])  # type: ignore[arg-type]
    order[a], order[b] = order[b], order[a]
    return order


def _moved(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    """Axes in another order."""
    order = axis_order(node)
    return _again(pull, node, pull.rows(node.args[0], read.at(order[read.axis], None if read.batch is None else order[read.batch])), *node.args[1:])  # type: ignore[arg-type]


def _unsqueezed(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    dim = int(node.args[1]) % _rank(node)  # type: ignore[arg-type]
    if dim in (read.axis, read.batch):
        return None
    source = read.at(read.axis - (dim < read.axis), None if read.batch is None else read.batch - (dim < read.batch))
    return _again(pull, node, pull.rows(node.args[0], source), dim)  # type: ignore[arg-type]


def _flattened_linear(pull: Puller, node: fx.Node, product: fx.Node, read: Read) -> fx.Node | None:
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
    return pull.call(aten.unsqueeze.default, pull.call(product.target, *args, like=product, **product.kwargs), 1, like=node)


def _reshaped(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    """Axes behind the rows regrouped."""
    x: Any = node.args[0]
    sizes: Any = list(node.args[1])  # type: ignore[arg-type]
    if op_name(x) in ("aten.addmm", "aten.mm") and (read.axis, _rank(node)) == (1, 3):
        return _flattened_linear(pull, node, x, read)
    before, after, upto = value_of(x).shape, value_of(node).shape, max(read.axis, read.batch or 0) + 1
    if min(len(before), len(after)) < upto or not all(same_size(a, b) for a, b in zip(before[:upto], after[:upto], strict=True)):
        return None
    sizes[read.axis] = 1
    return _again(pull, node, pull.rows(x, read), sizes)


def _along_another(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    """A part, along another axis."""
    x = node.args[0]
    dim = int(node.args[1] if len(node.args) > 1 else 0) % _rank(x)  # type: ignore[arg-type]
    return None if dim in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _in_parts(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    """Several parts along another axis."""
    x = node.args[0]
    dim = int(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)) % _rank(x)  # type: ignore[arg-type]
    return None if dim in (read.axis, read.batch) else _again(pull, node, pull.rows(x, read), *node.args[1:])  # type: ignore[arg-type]


def _joined(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    parts, dim = node.args[0], int(node.args[1] if len(node.args) > 1 else 0) % _rank(node)  # type: ignore[arg-type]
    if dim in (read.axis, read.batch) or any(_rank(p) != _rank(node) for p in parts):  # type: ignore[union-attr]
        return None
    return pull.call(node.target, [pull.rows(p, read) for p in parts], dim, like=node)  # type: ignore[union-attr,arg-type]


def _attention(pull: Puller, node: fx.Node, read: Read) -> fx.Node | None:
    """Single queries; a causal mask is written out for them."""
    query, key, value = node.args[:3]
    if read.axis != 2 or read.batch not in (0, None):
        return None
    dropout, causal = (node.args[i] if len(node.args) > i else d for i, d in ((3, 0.0), (4, False)))
    mask: Any = node.kwargs.get("attn_mask")
    if causal and mask is not None:
        return None
    mask = causal_row(pull, read.place, query, key) if causal else pull.aligned(mask, 4, read) if mask is not None else None  # type: ignore[arg-type]
    return pull.call(node.target, pull.rows(query, read), key, value, dropout, False, like=node, attn_mask=mask, scale=node.kwargs.get("scale"))  # type: ignore[arg-type]


def causal_row(pull: Any, place: fx.Node | int, query: fx.Node, key: fx.Node) -> fx.Node:
    """(B or 1, 1, 1, keys): 0 for the keys up to a place among the queries, minus infinity for those behind it."""
    count = pull.call(aten.arange.default, pull.size(key, 2), device=value_of(key).device)
    if isinstance(place, int):
        queries = pull.size(query, 2)
        last = place if place >= 0 else pull.call(operator.add, queries, place) if isinstance(queries, fx.Node) else queries + place
        seen = pull.call(aten.le.Scalar, count, last)
    else:
        seen = pull.call(aten.le.Tensor, count, pull.call(aten.reshape.default, place, [-1, 1, 1, 1]))
    options = {"dtype": value_of(query).dtype, "device": value_of(key).device}
    row = pull.call(aten.where.self, seen, pull.call(aten.scalar_tensor.default, 0.0, **options), pull.call(aten.scalar_tensor.default, float("-inf"), **options))
    return row if not isinstance(place, int) else pull.call(aten.reshape.default, row, [1, 1, 1, -1])  # type: ignore[no-any-return]


#: Operation -> its rows from rows.
SOURCES: dict[str, Callable[[Puller, fx.Node, Read], fx.Node | None]] = {
    "aten.linear": _linear,
    **dict.fromkeys(("aten.matmul", "aten.bmm"), _matmul),
    **dict.fromkeys(("aten.native_layer_norm", "aten.layer_norm", "aten.rms_norm"), _layer_norm),
    **dict.fromkeys(("aten.softmax", "aten._softmax", "aten._safe_softmax", "aten.log_softmax"), _softmax),
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(("aten.permute", "aten.transpose", "aten.t"), _moved),
    **dict.fromkeys(("aten.clone", "aten.contiguous", "aten.detach", "aten.alias"), lambda pull, node, read: _again(pull, node, pull.rows(node.args[0], read), *node.args[1:])),  # type: ignore[arg-type]
    "aten.unsqueeze": _unsqueezed,
    "aten.reshape": _reshaped,
    "aten.slice": _along_another,
    **dict.fromkeys(("aten.split", "aten.split_with_sizes", "aten.chunk"), _in_parts),
    "aten.cat": _joined,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
}
