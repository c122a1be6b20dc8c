"""The rules of the axis table: for each kind of axes, the factors of a call's operands and of its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import fx

from lrp_fx.ir.factors import Axis, AxisFactors, Naming, whole_shape
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name, tensor_args
from lrp_fx.ir.operators import argument, axes_of, axis_of, factors_of, has, operand_of, operator_of
from lrp_fx.ir.sizes import hint, is_one


def factors_of_axes(node: fx.Node) -> AxisFactors | None:
    """The factors of a call's axes; None where the table says nothing of them, or they do not divide."""
    kind = operator_of(node).axes
    rule = _RULES.get(kind) if kind is not None else None
    return rule(Naming(node)) if rule is not None else None


def _aligned(call: Naming) -> AxisFactors | None:
    result = [call.new(s) for s in call.shape]
    given = tensor_args(call.node)
    if any(len(whole_shape(a)) > len(result) for a in given):
        return None
    for a in given:
        call.aligned(a, result, call.shape)
    return call.done(result)


def _regrouped(call: Naming) -> AxisFactors | None:
    """The finest division that serves both shapes, from the last axis on; None where they are skewed."""
    x = operand_of(call.node)
    real = op_name(call.node) == "aten.view_as_real"
    complex_parts = op_name(call.node) == "aten.view_as_complex"
    before = [hint(s) for s in whole_shape(x)[: -1 if complex_parts else None]]
    after = [hint(s) for s in call.shape[: -1 if real else None]]
    if prod(before) != prod(after) or 0 in before:
        return None
    sides: tuple[list[list[int]], list[list[int]]] = ([[] for _ in before], [[] for _ in after])
    left, right = [(i, s) for i, s in enumerate(before) if s != 1], [(i, s) for i, s in enumerate(after) if s != 1]
    while left and right:
        (i, m), (j, n) = left.pop(), right.pop()
        small = min(m, n)
        if max(m, n) % small:
            return None
        (factor,) = call.new(small)
        sides[0][i].insert(0, factor)
        sides[1][j].insert(0, factor)
        left += [(i, m // small)] if m > small else []
        right += [(j, n // small)] if n > small else []
    parts = [call.new(2)]  # of a complex number
    call.operands.append((x, (*map(tuple, sides[0]), *(parts if complex_parts else ()))))
    return call.done([*map(tuple, sides[1]), *(parts if real else ())])


def _units(call: Naming) -> AxisFactors:
    """Axes of size one come or go."""
    x = operand_of(call.node)
    own = call.all_of(x)
    if op_name(call.node) == "aten.unsqueeze":
        dim = axis_of(call.node, len(call.shape))
        return call.done([*own[:dim], call.new(1), *own[dim:]])
    shape = whole_shape(x)
    gone = [d for d in axes_of(call.node, len(own)) if is_one(shape[d])]
    return call.done([f for i, f in enumerate(own) if i not in gone])


def _permuted(call: Naming) -> AxisFactors:
    own = call.all_of(operand_of(call.node))
    if op_name(call.node) == "aten.permute":
        return call.done([own[d] for d in axes_of(call.node, len(own), "dims")])
    if own:
        names = ("dim0", "dim1")
        i, j = (axis_of(call.node, len(own), n) for n in names) if len(call.node.args) > 2 else (0, len(own) - 1)
        own[i], own[j] = own[j], own[i]
    return call.done(own)


def _repeated(call: Naming) -> AxisFactors:
    x = operand_of(call.node)
    own, shape = call.all_of(x), whole_shape(x)
    result = [call.new(s) for s in call.shape[: len(call.shape) - len(own)]]
    for axis, before, after in zip(own, shape, call.shape[len(result) :], strict=True):
        result.append((*call.new(hint(after) // max(hint(before), 1)), *axis))
    return call.done(result)


def _reduced(call: Naming) -> AxisFactors:
    own = call.all_of(operand_of(call.node))
    gone = axes_of(call.node, len(own))
    if len(call.shape) == len(own):
        return call.done([call.new(1) if i in gone else f for i, f in enumerate(own)])
    return call.done([f for i, f in enumerate(own) if i not in gone])


def _along(call: Naming) -> AxisFactors:
    own = call.all_of(operand_of(call.node))
    call.mix([own[axis_of(call.node, len(own))]] if own else [])
    return call.done(own)


def _last_along(call: Naming) -> AxisFactors:
    """Normalised over the last axes; weights run along these."""
    x = operand_of(call.node)
    own = call.all_of(x)
    call.mix(own[len(own) - len(argument(call.node, "normalized_shape")) :])
    for a in tensor_args(call.node)[1:]:
        call.aligned(a, own, whole_shape(x))
    return call.done(own)


def _staying(call: Naming) -> AxisFactors | None:
    own = call.all_of(operand_of(call.node))
    call.mix(own)
    return call.done(own) if len(own) == len(call.shape) else None


def _convolved(call: Naming) -> AxisFactors | None:
    """By weights, with examples in front. (Of pools it is not known whether their first axis runs over examples.)"""
    x, weight = operand_of(call.node), argument(call.node, "weight")
    own = call.all_of(x)
    call.mix(own[2:])
    if not isinstance(weight, fx.Node) or len(own) != len(whole_shape(weight)):
        return None
    for a in tensor_args(call.node)[1:]:  # in groups their channels are not those of the result, place by place
        call.all_of(a)
    return call.done([own[0], call.new(call.shape[1]), *own[2:]])


def _matrices(call: Naming) -> AxisFactors:
    own = call.all_of(operand_of(call.node))
    call.mix(own[-2:])
    return call.done(own)


def _cut(call: Naming) -> AxisFactors | None:
    """An index runs along the axis that it picks from."""
    own = call.all_of(operand_of(call.node))
    name = "dim" if argument(call.node, "dims") is None else "dims"
    if argument(call.node, name) in (None, []) or not own:
        return None
    dims = axes_of(call.node, len(own), name)
    call.mix([own[d] for d in dims])
    call.operands += [(a, (own[dims[0]],) * len(whole_shape(a))) for a in tensor_args(call.node)[1:]]
    return call.done(own)


def _selected(call: Naming) -> AxisFactors:
    own = call.all_of(operand_of(call.node))
    dim = axis_of(call.node, len(own))
    if op_name(call.node) == "aten.unbind":  # the whole: one axis goes where a part is taken
        call.mix([own[dim]])
        return call.done(own)
    return call.done([f for i, f in enumerate(own) if i != dim])


def _part(call: Naming) -> AxisFactors | None:
    """One of several results."""
    source = operand_of(call.node)
    own = call.all_of(source)
    if op_name(source) == "aten.unbind":
        dim = axis_of(source, len(own))
        return call.done([f for i, f in enumerate(own) if i != dim])
    above = factors_of_axes(source)
    if above is None or len(call.shape) != len(own):
        return None
    call.mix([own[i] for i, axis in enumerate(above.result) if above.mixed & set(axis)])
    return call.done([call.new(1) if is_one(call.shape[i]) else f for i, f in enumerate(own)])


def _contracted(call: Naming) -> AxisFactors | None:
    left, right = factors_of(call.node)
    (m, n), shared = (whole_shape(left), whole_shape(right)), call.new(whole_shape(left)[-1])
    result = [call.new(s) for s in call.shape]
    columns = [result[-1]] if len(n) > 1 else []
    rows = [result[-1 - len(columns)]] if len(m) > 1 else []
    batch = result[: len(result) - len(rows) - len(columns)]
    sizes = call.shape[: len(batch)]

    def leading(shape: tuple[Any, ...]) -> list[Axis]:
        offset = len(batch) - (len(shape) - 2)
        spread = [is_one(s) and not is_one(sizes[offset + i]) for i, s in enumerate(shape[:-2])]
        return [() if wide else batch[offset + i] for i, wide in enumerate(spread)]

    for a in tensor_args(call.node)[: 1 if has(call.node, Fact.TERM_FIRST) else 0]:
        call.aligned(a, result, call.shape)
    call.operands.append((left, (*leading(m), *rows, shared)))
    call.operands.append((right, (*leading(n), shared, *columns)))
    return call.done(result)


def _mapped(call: Naming) -> AxisFactors:
    x, weight = operand_of(call.node), operand_of(call.node, 1)
    own, mapped = call.all_of(x), call.new(call.shape[-1]) if call.shape else ()
    result = [*own[:-1], mapped] if len(whole_shape(weight)) > 1 else own[:-1]
    if op_name(call.node) == "aten.linear":
        call.operands.append((weight, (mapped, own[-1])[-len(whole_shape(weight)) :]))
    else:  # a weight for each group of rows
        call.operands.append((weight, (call.new(whole_shape(weight)[0]), own[-1], mapped)))
    if isinstance(bias := argument(call.node, "bias"), fx.Node):
        call.aligned(bias, result, call.shape)
    return call.done(result)


def _joined(call: Naming) -> AxisFactors | None:
    result, parts = [call.new(s) for s in call.shape], tensor_args(call.node)
    if any(len(whole_shape(p)) != len(result) for p in parts):
        return None
    call.mix([result[axis_of(call.node, len(result))]])
    call.operands += [(p, tuple(result)) for p in parts]
    return call.done(result)


def _stacked(call: Naming) -> AxisFactors:
    result = [call.new(s) for s in call.shape]
    dim = axis_of(call.node, len(result))
    call.operands += [(p, (*result[:dim], *result[dim + 1 :])) for p in tensor_args(call.node)]
    return call.done(result)


def _attention(call: Naming) -> AxisFactors | None:
    """Queries by features of the values; several heads of queries may share one of keys."""
    query, key, value = (operand_of(call.node, i) for i in range(3))
    q, k, v = map(whole_shape, (query, key, value))
    if not len(q) == len(k) == len(v) or any(hint(m) < hint(n) for m, n in zip(q[:-2], k[:-2], strict=True)):
        return None
    keys, inner, row, outer = call.new(k[-2]), call.new(q[-1]), call.new(q[-2]), call.new(v[-1])
    of_queries, of_keys = _shared_heads(call, q[:-2], k[:-2])
    call.operands += [(query, (*of_queries, row, inner)), (key, (*of_keys, keys, inner))]
    call.operands.append((value, (*of_keys, keys, outer)))
    if isinstance(mask := argument(call.node, "attn_mask"), fx.Node):
        call.aligned(mask, [*of_queries, row, keys], (*q[:-1], k[-2]))
    return call.done([*of_queries, row, outer])


def _shared_heads(call: Naming, q: Sequence[Any], k: Sequence[Any]) -> tuple[list[Axis], list[Axis]]:
    of_queries: list[Axis] = []
    of_keys: list[Axis] = []
    for m, n in zip(q, k, strict=True):
        groups = hint(m) // max(hint(n), 1)
        own = call.new(n)
        of_keys.append(own if groups <= 1 or not is_one(n) else ())
        of_queries.append(own if groups <= 1 else (*own, *call.new(groups)) if not is_one(n) else call.new(m))
    return of_queries, of_keys


def _looked_up(call: Naming) -> AxisFactors:
    table, index = operand_of(call.node), operand_of(call.node, 1)
    result = [call.new(s) for s in call.shape]
    rows = len(whole_shape(index))
    call.operands += [(table, (call.new(whole_shape(table)[0]), *result[rows:])), (index, tuple(result[:rows]))]
    return call.done(result)


#: Of what is not here (indices, strides) the table says only how layouts pass it.
_RULES: dict[Axes, Callable[[Naming], AxisFactors | None]] = {
    Axes.ALIGNED: _aligned,
    Axes.REGROUPED: _regrouped,
    Axes.UNITS: _units,
    Axes.PERMUTED: _permuted,
    Axes.REPEATED: _repeated,
    Axes.REDUCED: _reduced,
    Axes.ALONG: _along,
    Axes.LAST_ALONG: _last_along,
    Axes.MATRICES: _matrices,
    Axes.CUT: _cut,
    Axes.STAYING: _staying,
    Axes.CONVOLVED: _convolved,
    Axes.SELECTED: _selected,
    Axes.PART: _part,
    Axes.CONTRACTED: _contracted,
    Axes.MAPPED: _mapped,
    Axes.JOINED: _joined,
    Axes.STACKED: _stacked,
    Axes.ATTENTION: _attention,
    Axes.LOOKED_UP: _looked_up,
}
