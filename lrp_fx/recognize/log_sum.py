"""Logarithms of sums of exponentials, written out: ``log(sum(exp(z)))`` is ``logsumexp(z)``, and so are its kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument, axes_of, keeps_order, operand_of
from lrp_fx.ir.sizes import same_shape, same_size
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal

aten = torch.ops.aten
_LONGEST = 8
#: What takes away from its first operand, or keeps it above a bound.
_LESS = ("aten.sub", "aten.clamp", "aten.clamp_min")


def written_log_sum(context: Context, node: fx.Node) -> Meaning | Refusal:
    """``log(sum(exp(z)))``, also running, as a mean, of two values, or with terms that carry nothing beside them."""
    if op_name(node) not in ("aten.log", "aten.log1p"):
        return Refusal(f"{op_name(node)} is no logarithm", Nearness.OPERATION)
    found = _two(node) or _running(node) or _summed(context.flow, node)
    if isinstance(found, Refusal):
        return found
    if frozen := [z for z in found.signals if z not in context.carrying]:
        return Refusal(f"relevance of the scores %{frozen[0].name} was frozen above", Nearness.CONDITION)
    return found


def _meaning(scores: Sequence[fx.Node], op: Any, *others: Any, **facts: Any) -> Meaning:
    why = "the logarithm of a sum of exponentials"
    return Meaning("softmax", tuple(dict.fromkeys(scores)), why, op, (*scores, *others), facts)


def _exponent(node: object) -> fx.Node | None:
    """z for ``exp(z)``."""
    z = node.args[0] if isinstance(node, fx.Node) and op_name(node) == "aten.exp" else None
    return z if isinstance(z, fx.Node) else None


def _two(node: fx.Node) -> Meaning | None:
    """``log(exp(a) + exp(b))``."""
    total = operand_of(node)
    if op_name(node) != "aten.log" or op_name(total) != "aten.add" or total.kwargs:
        return None
    scores = [z for z in map(_exponent, total.args) if z is not None]
    return _meaning(scores, aten.logaddexp.default) if len(scores) == 2 else None


def _running(node: fx.Node) -> Meaning | None:
    """``log(cumsum(exp(z)))``."""
    total = operand_of(node)
    is_running = op_name(node) == "aten.log" and op_name(total) == "aten.cumsum"
    z = _exponent(total.args[0]) if is_running else None
    return _meaning([z], aten.logcumsumexp.default, argument(total, "dim")) if z is not None else None


def _summed(flow: Dataflow, node: fx.Node) -> Meaning | Refusal:
    """``log(c * sum(exp(z)) + d)``, c a number and d what carries nothing."""
    total, factor = _less_numbers(flow, operand_of(node))
    if op_name(total) not in ("aten.sum", "aten.mean"):
        return Refusal(f"%{total.name} is no sum of exponentials", Nearness.PATTERN)
    z = _exponent(summed := operand_of(total))
    if z is None:
        return Refusal(f"%{summed.name}, which is summed, is no exponential", Nearness.PATTERN)
    sizes = list(value_of(summed).shape)
    dims = sorted(axes_of(total, len(sizes)))
    for keepdim in (True, False):
        left = [1 if d in dims else s for d, s in enumerate(sizes) if keepdim or d not in dims]
        shape = value_of(node).shape
        if len(left) == len(shape) and all(map(same_size, left, shape)):
            facts = {"written_out": factor, "mean": op_name(total) == "aten.mean"}
            return _meaning([z], aten.logsumexp.default, dims, keepdim, **facts)
    return Refusal(f"%{total.name} and the logarithm of it have other axes", Nearness.CONDITION)


def _less_numbers(flow: Dataflow, total: fx.Node) -> tuple[fx.Node, float]:
    """What carries relevance in a sum with other terms, seen through numbers and new axes; the numbers' product."""
    factor = 1.0
    for _ in range(_LONGEST):
        name, operands = op_name(total), flow.operands(total)
        if len(operands) != 1 or total.kwargs or not total.args:
            break
        is_first = total.args[0] is operands[0]
        number = total.args[1 if is_first else 0] if len(total.args) == 2 else None
        if name == "aten.mul" and isinstance(number, (int, float)):
            factor *= number
        elif name == "aten.div" and is_first and isinstance(number, (int, float)):
            factor /= number
        elif not (keeps_order(total) or _is_all(total) or name == "aten.add" or (is_first and name in _LESS)):
            break
        total = operands[0]
    return total, factor


def _is_all(node: fx.Node) -> bool:
    """Is it a slice from the first to the last?"""
    return op_name(node) == "aten.slice" and same_shape(value_of(node), value_of(operand_of(node)))


LOG_SUM = Recogniser(
    "log-sum-exp written out",
    "log(sum(exp(z))), running or as a mean: an average of the scores, and its entropy",
    ("softmax",),
    written_log_sum,
    before=("log-softmax written out",),
)
