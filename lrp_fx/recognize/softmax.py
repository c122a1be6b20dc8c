"""Softmax, written out."""

from __future__ import annotations

import torch
from torch import fx

from lrp_fx.analysis.dataflow import Dataflow, same_size_along
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import argument, has, operand_of
from lrp_fx.recognize.meaning import Meaning

aten = torch.ops.aten


# ------------------------------------------------------------------------------------------------ softmax, decomposed
def as_softmax(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning | None:
    """``exp(z) / sum(exp(z))`` in any spelling: one softmax of z, with shifts constant along the axis taken off.

    A term beside the sum that is no function of z (``1 +``, or the exponential of a learned sink) is one more score.
    """
    for numerator, statistic in ((a, b),) if op_name(node) == "aten.div" else ((a, b), (b, a)):
        total, inverted = statistic, op_name(node) == "aten.div"
        while (inner := _through(flow, total)) is not None:
            inverted ^= op_name(total) == "aten.reciprocal"
            total = inner
        if not inverted or op_name(numerator) != "aten.exp":
            continue
        total, sink = _beside(flow, numerator, total)
        if op_name(total) != "aten.sum" or total.args[0] is not numerator:
            continue
        dims = argument(total, "dim")
        if (
            isinstance(dims, (list, tuple))
            and len(dims) == 1
            and same_size_along(statistic, dim := _from_right(dims[0], numerator))
        ):
            return _softmax_of(flow, numerator.args[0], dim, f"exp over its own sum{sink}")
    return None


def _beside(flow: Dataflow, numerator: fx.Node, total: fx.Node) -> tuple[fx.Node, str]:
    """The sum in ``sum(exp(z - m)) + exp(s - m)``, and what to say of the other term."""
    if op_name(total) != "aten.add" or total.kwargs:
        return total, ""
    for i, j in ((0, 1), (1, 0)):
        found, term = total.args[i], total.args[j]
        if (
            isinstance(found, fx.Node)
            and op_name(found) == "aten.sum"
            and (not isinstance(term, fx.Node) or _is_sink(flow, numerator, term))
        ):
            return found, ", with a sink"
    return total, ""


def _is_sink(flow: Dataflow, numerator: fx.Node, term: fx.Node) -> bool:
    """Is a term no function of the scores, but for the shift that is taken off them?"""
    if not flow.carries(term):
        return True
    shifted = numerator.args[0]
    shift = (
        flow.core(shifted.args[1])
        if isinstance(shifted, fx.Node) and op_name(shifted) == "aten.sub" and isinstance(shifted.args[1], fx.Node)
        else None
    )
    exponent = term.args[0] if op_name(term) == "aten.exp" else None
    if shift is None or not isinstance(exponent, fx.Node):
        return False
    less = (
        exponent.args[1]
        if op_name(exponent) == "aten.sub" and not flow.carries(operand_of(exponent))
        else exponent.args[0]
        if op_name(exponent) == "aten.neg"
        else None
    )
    return isinstance(less, fx.Node) and flow.core(less) is shift


def _through(flow: Dataflow, node: fx.Node) -> fx.Node | None:
    """The operand of an expansion, a reciprocal, a new axis or a multiplication by one."""
    is_one = op_name(node) == "aten.mul" and any(isinstance(a, (int, float)) and a == 1 for a in node.args[:2])
    is_grown = has(node, Fact.EXPANSION) or op_name(node) == "aten.unsqueeze"
    if is_one or is_grown or op_name(node) == "aten.reciprocal":
        return next((a for a in node.all_input_nodes if flow.carries(a)), None)
    return None


def exp_meaning(flow: Dataflow, node: fx.Node) -> Meaning | None:
    """``exp(z - logsumexp(z))`` and ``exp(log_softmax(z))`` are softmaxes."""
    z = node.args[0]
    if not isinstance(z, fx.Node):
        return None
    if has(z, Fact.LOG_SOFTMAX):
        return _softmax_of(flow, z.args[0], _from_right(argument(z, "dim"), z), "exp of a log-softmax")
    if (
        op_name(z) == "aten.sub"
        and isinstance(z.args[1], fx.Node)
        and op_name(flow.core(z.args[1])) == "aten.logsumexp"
    ):
        normaliser = flow.core(z.args[1])
        dims = normaliser.args[1]
        if normaliser.args[0] is z.args[0] and isinstance(dims, (list, tuple)) and len(dims) == 1:
            return _softmax_of(flow, z.args[0], _from_right(dims[0], z), "exp of a value less its logsumexp")
    if (
        op_name(z) == "aten.sub"
        and isinstance(z.args[1], fx.Node)
        and op_name(log := flow.core(z.args[1])) == "aten.log"
    ):
        total = log.args[0]
        if isinstance(total, fx.Node) and op_name(total) == "aten.sum":
            e, dims = total.args[0], argument(total, "dim")
            if (
                isinstance(e, fx.Node)
                and op_name(e) == "aten.exp"
                and e.args[0] is z.args[0]
                and isinstance(dims, (list, tuple))
                and len(dims) == 1
            ):
                return _softmax_of(
                    flow,
                    z.args[0],
                    _from_right(dims[0], z),
                    "exp of a value less the logarithm of its sum of exponentials",
                )
    return None


def _from_right(dim: object, node: fx.Node) -> int:
    rank: int = node.meta["val"].dim()
    assert isinstance(dim, int)
    return dim % rank - rank


def _softmax_of(flow: Dataflow, z: object, dim: int, why: str) -> Meaning | None:
    assert isinstance(z, fx.Node)
    while (
        op_name(z) == "aten.sub"
        and isinstance(z.args[1], fx.Node)
        and same_size_along(z.args[1], dim)
        and isinstance(z.args[0], fx.Node)
        and flow.carries(z.args[0])
    ):
        z = z.args[0]
    return Meaning("softmax", (z,), why, aten.softmax.int, (z, dim), {"written_out": True})
