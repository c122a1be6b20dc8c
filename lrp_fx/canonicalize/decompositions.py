"""Decompositions: operations written as the ones that later stages know, each by one function.

requires  a node of a graph just copied
ensures   the node gone, and what it computed computed by simpler operations with the same values
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lrp_fx.canonicalize.bags import split_bags
from lrp_fx.canonicalize.columns import look_up_rows
from lrp_fx.canonicalize.kernels import KERNELS
from lrp_fx.canonicalize.masked_exponentials import choose_triangle, sum_of_positive, write_power_of_number
from lrp_fx.canonicalize.ones import sum_instead
from lrp_fx.canonicalize.unpool import scatter_unpooled
from lrp_fx.ir.examples import depends_on_values
from lrp_fx.ir.graph import ancestors, call_like, is_tensor, op_name, value_of
from lrp_fx.ir.operator_table import OPERATORS
from lrp_fx.ir.operators import argument, operand_of, operator_of
from lrp_fx.ir.sizes import is_one

aten = torch.ops.aten
_NONE = object()


def split_moments(graph: fx.Graph, node: fx.Node) -> None:
    """``var_mean`` as ``var`` and ``mean``: the mean is linear, the variance a statistic."""
    spread = (aten.var if op_name(node) == "aten.var_mean" else aten.std).correction
    dims, keepdim = argument(node, "dim"), bool(argument(node, "keepdim"))
    if argument(node, "correction", _NONE) is _NONE or dims is None:
        return
    for user in list(node.users):
        with graph.inserting_before(user):
            is_mean = user.args[1] == 1
            part = (
                graph.call_function(aten.mean.dim, (node.args[0], dims, keepdim))
                if is_mean
                else graph.call_function(spread, node.args, node.kwargs)
            )
        part.meta = dict(user.meta)
        user.replace_all_uses_with(part)
        graph.erase_node(user)
    graph.erase_node(node)


def name_vector_norm(graph: fx.Graph, node: fx.Node) -> None:
    """``linalg.norm`` and ``linalg.matrix_norm`` where they are the norm of a vector; of a matrix, Frobenius' is."""
    x, dims, order = operand_of(node), argument(node, "dim"), argument(node, "ord")
    rank = value_of(x).dim()
    along = rank if dims is None else len(dims) if isinstance(dims, (list, tuple)) else 1
    frobenius = order == "fro" and along == 2
    euclidean = order is None or (isinstance(order, (int, float)) and along == 1)
    if not (frobenius or euclidean):
        return
    number = 2 if order is None or frobenius else order
    options = {k: v for k, v in (("dtype", argument(node, "dtype")),) if v is not None}
    with graph.inserting_before(node):
        result = call_like(
            graph, node, aten.linalg_vector_norm.default, x, number, dims, bool(argument(node, "keepdim")), **options
        )
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_nan_sum(graph: fx.Graph, node: fx.Node) -> None:
    """``nansum`` and ``nanmean`` as sums of what is a number; how many these are carries nothing."""
    x, dims, keepdim = operand_of(node), argument(node, "dim"), bool(argument(node, "keepdim"))
    if argument(node, "dtype") is not None:
        return
    with graph.inserting_before(node):
        missing = call_like(graph, node, aten.isnan.default, x)
        total = call_like(graph, node, aten.masked_fill.Scalar, x, missing, 0.0)
        result = call_like(graph, node, aten.sum.dim_IntList, total, dims, keepdim)
        if op_name(node) == "aten.nanmean":
            there = call_like(graph, node, aten.logical_not.default, missing)
            number = call_like(graph, node, aten.sum.dim_IntList, there, dims, keepdim)
            result = call_like(graph, node, aten.div.Tensor, result, number)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_gate(graph: fx.Graph, node: fx.Node) -> None:
    """``glu`` as what it computes, ``a * sigmoid(b)`` of the halves a and b."""
    x, dim = operand_of(node), int(argument(node, "dim"))
    size = value_of(x).shape[dim]
    if not isinstance(size, int):
        return
    with graph.inserting_before(node):
        up = call_like(graph, node, aten.slice.Tensor, x, dim, 0, size // 2)
        gate = call_like(
            graph, node, aten.sigmoid.default, call_like(graph, node, aten.slice.Tensor, x, dim, size // 2, size)
        )
        product = call_like(graph, node, aten.mul.Tensor, up, gate)
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def replace_copy(graph: fx.Graph, node: fx.Node) -> None:
    """What ``x[..] = y`` becomes when made functional: y in x's shape and type."""
    if len(node.args) < 2:
        return
    destination, source = node.args[0], node.args[1]
    assert isinstance(destination, fx.Node) and isinstance(source, fx.Node)
    shape, dtype = value_of(node).shape, value_of(node).dtype
    with graph.inserting_before(node):
        if value_of(source).dtype != dtype:
            cast = graph.call_function(aten._to_copy.default, (source,), {"dtype": dtype})
            cast.meta = {**node.meta, "val": value_of(source).to(dtype)}
            source = cast
        if tuple(value_of(source).shape) != tuple(shape):
            source = call_like(graph, node, aten.expand.default, source, _sizes(graph, node, destination))
    node.replace_all_uses_with(source)
    graph.erase_node(node)


def write_cast(graph: fx.Graph, node: fx.Node) -> None:
    """``x.to(...)``, however it is spelled, as the cast it is, or as nothing."""
    x = operand_of(node)
    before, after = value_of(x), value_of(node)
    changed = {n: getattr(after, n) for n in ("dtype", "device") if getattr(after, n) != getattr(before, n)}
    if changed:
        node.target, node.args, node.kwargs = aten._to_copy.default, (x,), changed
    else:
        node.replace_all_uses_with(x)
        graph.erase_node(node)


def put_by_mask(graph: fx.Graph, node: fx.Node) -> None:
    """``x[mask] = rows`` as a masked scatter: its size does not depend on how many elements the mask has."""
    x, indices, rows = node.args[:3]
    mask = indices[0] if isinstance(indices, (list, tuple)) and len(indices) == 1 else None
    adds = argument(node, "accumulate")
    if (
        not (isinstance(mask, fx.Node) and isinstance(x, fx.Node) and isinstance(rows, fx.Node))
        or value_of(mask).dtype != torch.bool
        or adds
    ):
        return
    behind = value_of(x).dim() - value_of(mask).dim()
    with graph.inserting_before(node):
        for _ in range(behind):
            mask = call_like(graph, node, aten.unsqueeze.default, mask, -1)
        if value_of(rows).dim() == behind + 1 and not (isinstance(n := value_of(rows).shape[0], int) and n == 1):
            whole = call_like(graph, node, aten.expand_as.default, mask, x)
            put = call_like(graph, node, aten.masked_scatter.default, x, whole, rows)
        else:  # the same row everywhere
            put = call_like(graph, node, aten.where.self, mask, rows, x)
    node.replace_all_uses_with(put)
    graph.erase_node(node)


def choose_filled(graph: fx.Graph, node: fx.Node) -> None:
    """``masked_fill`` and ``index_fill`` with a value that is computed, as the choice they are: it is spread, which
    those kernels do not take.
    """
    x, value = node.args[0], node.args[-1]
    if not (isinstance(x, fx.Node) and isinstance(value, fx.Node) and isinstance(value_of(value), torch.Tensor)):
        return
    if value_of(x).dim() == 0 or not any(n.op == "placeholder" or _is_learned(n) for n in ancestors([value])):
        return
    with graph.inserting_before(node):
        mask: Any = node.args[1]
        if op_name(node) == "aten.index_fill":
            axis, rank = mask, value_of(x).dim()
            size = value_of(x).shape[axis]
            size = size if isinstance(size, int) else call_like(graph, node, aten.sym_size.int, x, axis)
            none = call_like(graph, node, aten.full.default, [size], False, dtype=torch.bool)
            mask = call_like(graph, node, aten.index_fill.int_Scalar, none, 0, node.args[2], True)
            mask = call_like(graph, node, aten.reshape.default, mask, [-1] + [1] * (rank - 1 - axis % rank))
        if value_of(value).dtype != value_of(x).dtype:
            value = call_like(graph, node, aten._to_copy.default, value, dtype=value_of(x).dtype)
        chosen = call_like(graph, node, aten.where.self, mask, value, x)
    node.replace_all_uses_with(chosen)
    graph.erase_node(node)


def _is_learned(node: fx.Node) -> bool:
    return node.op == "get_attr" and node.meta.get("origin") == "parameter"


def forget_model(graph: fx.Graph, node: fx.Node) -> None:
    """``x.type_as(y)``, ``x.view_as(y)``, ``x.expand_as(y)``: the type or the sizes of y, none of its values."""
    x, model = node.args[:2]
    if not isinstance(model, fx.Node):
        return
    with graph.inserting_before(node):
        if op_name(node) == "aten.type_as":
            result = graph.call_function(aten._to_copy.default, (x,), {"dtype": value_of(model).dtype})
            result.meta = dict(node.meta)
        else:
            result = call_like(
                graph,
                node,
                aten.expand.default if op_name(node) == "aten.expand_as" else aten.reshape.default,
                x,
                _sizes(graph, node, model),
            )
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _sizes(graph: fx.Graph, node: fx.Node, model: fx.Node) -> list[Any]:
    return [
        s if isinstance(s, int) else call_like(graph, node, aten.sym_size.int, model, i)
        for i, s in enumerate(value_of(model).shape)
    ]


def spread_fill(graph: fx.Graph, node: fx.Node) -> None:
    """``fill`` (what ``x[..] = number`` becomes): the number in x's shape and type, none of its values."""
    model, value = node.args[:2]
    assert isinstance(model, fx.Node)
    with graph.inserting_before(node):
        if isinstance(value, fx.Node) and isinstance(value_of(value), torch.Tensor):
            if value_of(value).dtype != value_of(node).dtype:
                value = call_like(graph, node, aten._to_copy.default, value, dtype=value_of(node).dtype)
            result = call_like(graph, node, aten.expand.default, value, _sizes(graph, node, model))
        else:
            result = call_like(graph, node, aten.full_like.default, model, value)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_lerp(graph: fx.Graph, node: fx.Node) -> None:
    """``lerp(a, b, w)`` as ``a + w (b - a)``."""
    a, b, weight = node.args[:3]
    with graph.inserting_before(node):
        step = call_like(graph, node, aten.mul.Tensor, call_like(graph, node, aten.sub.Tensor, b, a), weight)
        result = call_like(graph, node, aten.add.Tensor, a, step)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_bias(graph: fx.Graph, node: fx.Node) -> None:
    """A map whose weights are computed from inputs is a product of two values; its bias is a term of its own."""
    bias, weight = argument(node, "bias"), node.args[1]
    if not isinstance(weight, fx.Node) or not depends_on_values(weight):
        return
    trailing = operator_of(node).behind_bias
    with graph.inserting_before(node):
        if op_name(node) == "aten.linear":
            result = call_like(
                graph, node, aten.matmul.default, node.args[0], call_like(graph, node, aten.t.default, weight)
            )
        else:
            result = call_like(graph, node, node.target, *(None if i == 2 else a for i, a in enumerate(node.args)))
        if isinstance(bias, fx.Node):
            term = (
                call_like(graph, node, aten.reshape.default, bias, [*value_of(bias).shape, *[1] * trailing])
                if trailing
                else bias
            )
            result = call_like(graph, node, aten.add.Tensor, result, term)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_term(graph: fx.Graph, node: fx.Node) -> None:
    """``baddbmm`` and ``addmm`` as a product and a sum, where the term is no vector of features (a map's bias)."""
    term, left, right = node.args[:3]
    if not isinstance(term, fx.Node) or value_of(term).dim() < 2:
        return
    if is_one(value_of(term).shape[-2]) and not (isinstance(right, fx.Node) and depends_on_values(right)):
        return
    product = aten.bmm.default if op_name(node) == "aten.baddbmm" else aten.mm.default
    with graph.inserting_before(node):
        result = call_like(graph, node, product, left, right)
        alpha, beta = argument(node, "alpha"), argument(node, "beta")
        if alpha not in (None, 1):
            result = call_like(graph, node, aten.mul.Tensor, result, alpha)
        if beta not in (None, 1):
            term = call_like(graph, node, aten.mul.Tensor, term, beta)
        if beta != 0:  # else the kernel does not look at the term
            result = call_like(graph, node, aten.add.Tensor, result, term)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_added_product(graph: fx.Graph, node: fx.Node) -> None:
    """``addcmul`` and ``addcdiv`` as a product (a quotient) and a sum."""
    term, left, right = node.args[:3]
    value = argument(node, "value")
    operation = aten.mul.Tensor if op_name(node) == "aten.addcmul" else aten.div.Tensor
    with graph.inserting_before(node):
        result = call_like(graph, node, operation, left, right)
        if value not in (None, 1):
            result = call_like(graph, node, aten.mul.Tensor, result, value)
        result = call_like(graph, node, aten.add.Tensor, term, result)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def negate_outside(graph: fx.Graph, node: fx.Node) -> None:
    """``x * -c`` and ``(-x) * c`` as ``-(x * c)`` (the same to the last bit)."""
    x, factor = node.args[:2]
    if not isinstance(x, fx.Node) or not isinstance(factor, (int, float)) or isinstance(factor, bool) or factor == 0:
        return
    inner = x.args[0] if op_name(x) == "aten.neg" else x
    if (factor > 0 and inner is x) or node.kwargs:
        return
    with graph.inserting_before(node):
        result = call_like(graph, node, node.target, inner, abs(factor))
        if (factor < 0) is (inner is x):
            result = call_like(graph, node, aten.neg.default, result)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_rounded_quotient(graph: fx.Graph, node: fx.Node) -> None:
    """``div(x, y, rounding_mode=...)`` and ``x // y`` as the quotient and its rounding."""
    mode = "floor" if op_name(node) == "aten.floor_divide" else argument(node, "rounding_mode")
    if mode is None:
        negate_outside(graph, node)
        return
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    only_compared = all(value_of(user).dtype == torch.bool for user in node.users if is_tensor(user))
    if not value_of(node).is_floating_point() or only_compared or not any(map(depends_on_values, operands)):
        return
    with graph.inserting_before(node):
        quotient = call_like(graph, node, aten.div.Tensor, *node.args[:2])
        if mode == "trunc":
            result = call_like(graph, node, aten.trunc.default, quotient)
        else:  # the kernel does not round up to the whole number above, as a quotient may: 6 // 0.1 is 59
            rounded = call_like(graph, node, aten.floor.default, quotient)
            exact = call_like(graph, node, aten.floor_divide.default, *node.args[:2])
            above = call_like(graph, node, aten.gt.Tensor, rounded, exact)
            result = call_like(
                graph, node, aten.where.self, above, call_like(graph, node, aten.sub.Tensor, rounded, 1.0), rounded
            )
    node.replace_all_uses_with(result)
    graph.erase_node(node)


#: Operation -> the function that writes it out.
DECOMPOSITIONS: dict[str, Callable[[fx.Graph, fx.Node], None]] = {
    "aten.embedding_bag": split_bags,
    "aten.index": look_up_rows,
    "aten.index_select": look_up_rows,
    "aten.copy": replace_copy,
    "aten.fill": spread_fill,
    "aten.masked_fill": choose_filled,
    "aten.index_fill": choose_filled,
    "aten.var_mean": split_moments,
    "aten.std_mean": split_moments,
    "aten.linalg_norm": name_vector_norm,
    "aten.linalg_matrix_norm": name_vector_norm,
    "aten.nansum": split_nan_sum,
    "aten.nanmean": split_nan_sum,
    "aten.glu": split_gate,
    "aten.exp2": write_power_of_number,
    "aten.pow": write_power_of_number,
    "aten.tril": choose_triangle,
    "aten.triu": choose_triangle,
    "aten.linalg_vector_norm": sum_of_positive,
    "aten.index_put": put_by_mask,
    "aten.lerp": split_lerp,
    "aten.baddbmm": split_term,
    "aten.addmm": split_term,
    "aten.addcmul": split_added_product,
    "aten.addcdiv": split_added_product,
    "aten.to": write_cast,
    "aten.type_as": forget_model,
    "aten.expand_as": forget_model,
    "aten.view_as": forget_model,
    "aten.reshape_as": forget_model,
    "aten.max_unpool2d": scatter_unpooled,
    "aten.max_unpool3d": scatter_unpooled,
    "aten.mul": negate_outside,
    "aten.div": split_rounded_quotient,
    "aten.floor_divide": split_rounded_quotient,
    **{f"aten.{product}": sum_instead for product in ("bmm", "mm", "mv", "matmul")},
    **KERNELS,
    **{row.name: split_bias for row in OPERATORS.values() if row.behind_bias is not None},
}
