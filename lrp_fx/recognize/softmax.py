"""Softmax, written out: ``exp(z) / sum(exp(z))`` and ``exp(log_softmax(z))`` in any spelling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from lrp_fx.analysis.dataflow import Dataflow, same_size_along
from lrp_fx.analysis.sources import PARAMETER
from lrp_fx.canonicalize.chosen_softmax import GUARD, chosen_scores, renormalised
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument, has, operand_of
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal, nearest

aten = torch.ops.aten


# ------------------------------------------------------------------------------------------------ exp over its own sum
def written_softmax(flow: Dataflow, node: fx.Node, a: fx.Node, b: fx.Node) -> Meaning | Refusal:
    """``exp(z) / sum(exp(z))`` in any spelling: one softmax of z, with shifts constant along the axis taken off.

    A term beside the sum that is no function of z (``1 +``, or the exponential of a learned sink) is one more score.
    """
    refusals = []
    for numerator, statistic in ((a, b),) if op_name(node) == "aten.div" else ((a, b), (b, a)):
        answer = _over_its_sum(flow, node, numerator, statistic)
        if isinstance(answer, Meaning):
            return answer
        refusals.append(answer)
    return nearest(refusals)


def _over_its_sum(flow: Dataflow, node: fx.Node, numerator: fx.Node, statistic: fx.Node) -> Meaning | Refusal:
    if op_name(numerator) != "aten.exp":
        return Refusal(f"%{numerator.name} is no exponential", Nearness.OPERANDS)
    total, inverted = statistic, op_name(node) == "aten.div"
    while (inner := _through(flow, total)) is not None:
        inverted ^= op_name(total) == "aten.reciprocal"
        total = inner
    if not inverted:
        return Refusal(f"%{numerator.name} is an exponential, but nothing divides it", Nearness.OPERANDS)
    total, beside = _beside(flow, numerator, total)
    if op_name(total) != "aten.sum" or total.args[0] is not numerator:
        return Refusal(f"%{total.name} is not the sum of the exponential %{numerator.name}", Nearness.PATTERN)
    axis = _only_axis(total)
    if axis is None:
        return Refusal(f"%{total.name} sums over more than one axis", Nearness.CONDITION)
    dim = _from_right(axis, numerator)
    if not same_size_along(_unexpanded(statistic), dim):
        return Refusal(f"%{statistic.name} is not constant along the axis that is summed", Nearness.CONDITION)
    found = _softmax_of(flow, numerator.args[0], dim, f"exp over its own sum{', with a sink' if beside else ''}")
    return replace(found, facts={**found.facts, "learned_beside": True}) if _is_learned(flow, beside) else found


def _unexpanded(statistic: fx.Node) -> fx.Node:
    """What is repeated to the size of what it divides."""
    while has(statistic, Fact.EXPANSION) and isinstance(inner := statistic.args[0], fx.Node):
        statistic = inner
    return statistic


def _is_learned(flow: Dataflow, beside: Any) -> bool:
    """Is what stands beside the exponentials a score of its own, learned, and not just a number?"""
    if not isinstance(beside, fx.Node):
        return False
    near = {beside, *beside.all_input_nodes, *(a for n in beside.all_input_nodes for a in n.all_input_nodes)}
    return any(PARAMETER in flow.facts.sources.get(n, ()) for n in near)


def _beside(flow: Dataflow, numerator: fx.Node, total: fx.Node) -> tuple[fx.Node, Any]:
    """The sum in ``sum(exp(z - m)) + exp(s - m)``, and the other term (None if there is none)."""
    if op_name(total) != "aten.add" or total.kwargs:
        return total, None
    for i, j in ((0, 1), (1, 0)):
        found, term = total.args[i], total.args[j]
        if (
            isinstance(found, fx.Node)
            and op_name(found) == "aten.sum"
            and (not isinstance(term, fx.Node) or _is_sink(flow, numerator, term))
        ):
            return found, term
    return total, None


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
    """The operand of an expansion, a reciprocal, a new axis, a multiplication by one or a guard against zero."""
    is_one = op_name(node) == "aten.mul" and any(isinstance(a, (int, float)) and a == 1 for a in node.args[:2])
    is_grown = has(node, Fact.EXPANSION) or op_name(node) == "aten.unsqueeze"
    limit = node.args[1] if op_name(node) in ("aten.clamp_min", "aten.clamp") and len(node.args) == 2 else None
    guards = isinstance(limit, (int, float)) and 0 <= limit <= GUARD
    if is_one or is_grown or guards or op_name(node) == "aten.reciprocal":
        return next((a for a in node.all_input_nodes if flow.carries(a)), None)
    return None


# ------------------------------------------------------------------------------------------------ exp of a logarithm
def exp_softmax(flow: Dataflow, node: fx.Node) -> Meaning | Refusal:
    """``exp(log_softmax(z))``, ``exp(z - logsumexp(z))`` and ``exp(z - log(sum(exp(z))))`` are softmaxes."""
    if op_name(node) != "aten.exp":
        return Refusal(f"{op_name(node)} is no exponential", Nearness.OPERATION)
    z = node.args[0]
    if isinstance(z, fx.Node) and has(z, Fact.LOG_SOFTMAX):
        return _softmax_of(flow, z.args[0], _from_right(argument(z, "dim"), z), "exp of a log-softmax")
    if not isinstance(z, fx.Node):
        return Refusal("its exponent is a number", Nearness.OPERANDS)
    found = _less_normaliser(flow, z)
    return found if isinstance(found, Refusal) else _softmax_of(flow, z.args[0], found[0], f"exp of {found[1]}")


def written_log_softmax(context: Context, node: fx.Node) -> Meaning | Refusal:
    """``z - logsumexp(z)`` and ``z - log(sum(exp(z)))`` are log-softmaxes, whose normaliser is no path of its own."""
    if op_name(node) != "aten.sub":
        return Refusal(f"{op_name(node)} is no difference", Nearness.OPERATION)
    found = _less_normaliser(context.flow, node)
    if isinstance(found, Refusal):
        return found
    dim, why = found
    (z,) = _softmax_of(context.flow, node.args[0], dim, why).signals
    if z not in context.carrying:
        return Refusal(f"relevance of the scores %{z.name} was frozen above", Nearness.CONDITION)
    return Meaning("softmax", (z,), why, aten.log_softmax.int, (z, dim))


def _less_normaliser(flow: Dataflow, z: fx.Node) -> tuple[int, str] | Refusal:
    """The axis of a value less the logarithm of its sum of exponentials, and what to say of it."""
    if op_name(z) != "aten.sub" or not isinstance(z.args[1], fx.Node):
        return Refusal(f"%{z.name} is neither a log-softmax nor a difference", Nearness.OPERANDS)
    normaliser = flow.core(z.args[1])
    if op_name(normaliser) == "aten.logsumexp":
        found, why = (normaliser, normaliser.args[0]), "a value less its logsumexp"
    elif op_name(normaliser) == "aten.log" and (summed := _sum_of_exp(normaliser.args[0])) is not None:
        found, why = summed, "a value less the logarithm of its sum of exponentials"
    else:
        return Refusal(f"%{normaliser.name} is no logarithm of a sum of exponentials", Nearness.PATTERN)
    total, values = found
    axis = _only_axis(total)
    if values is not z.args[0] or axis is None:
        what = "sums over more than one axis" if values is z.args[0] else "is of another value than the exponent"
        return Refusal(f"%{total.name} {what}", Nearness.CONDITION)
    return _from_right(axis, z), why


def _sum_of_exp(total: Any) -> tuple[fx.Node, Any] | None:
    """The sum, and what is exponentiated in it."""
    if not isinstance(total, fx.Node) or op_name(total) != "aten.sum" or not isinstance(e := total.args[0], fx.Node):
        return None
    return (total, e.args[0]) if op_name(e) == "aten.exp" else None


# ------------------------------------------------------------------------------------------------ of some of the scores
def renormalised_softmax(context: Context, node: fx.Node) -> Meaning | Refusal:
    """Chosen weights of a softmax, divided by their sum: the softmax of the chosen scores."""
    if not has(node, Fact.SCALING):
        return Refusal(f"{op_name(node)} is no division", Nearness.OPERATION)
    found = renormalised(node)
    if found is None:
        return Refusal("it does not divide chosen weights of a softmax by their sum", Nearness.OPERANDS)
    scores = chosen_scores(node)
    if scores is None or not context.flow.carries(scores) or value_of(scores).shape != value_of(node).shape:
        return Refusal("the graph holds no chosen scores of its shape that carry relevance", Nearness.CONDITION)
    if scores not in context.carrying:
        return Refusal(f"relevance of the scores %{scores.name} was frozen above", Nearness.CONDITION)
    why = "chosen weights over their sum: the softmax of the chosen scores"
    return Meaning("softmax", (scores,), why, aten.softmax.int, (scores, found.dim), {"written_out": True})


# ------------------------------------------------------------------------------------------------ what they share
def _only_axis(total: fx.Node) -> int | None:
    """The one axis that a sum runs over."""
    dims = argument(total, "dim")
    return dims[0] if isinstance(dims, (list, tuple)) and len(dims) == 1 and isinstance(dims[0], int) else None


def _from_right(dim: object, node: fx.Node) -> int:
    rank: int = node.meta["val"].dim()
    assert isinstance(dim, int)
    return dim % rank - rank


def _softmax_of(flow: Dataflow, z: object, dim: int, why: str) -> Meaning:
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


RENORMALISED = Recogniser(
    "renormalised softmax",
    "w / sum(w) for weights w chosen from a softmax: the softmax of the chosen scores",
    ("softmax",),
    renormalised_softmax,
    before=("multiple of zero",),
)
EXPONENTIAL = Recogniser(
    "softmax from its logarithm",
    "exp(log_softmax(z)), exp(z - logsumexp(z)): a softmax of z",
    ("softmax",),
    lambda context, node: exp_softmax(context.flow, node),
    before=("listed operation",),
)
LOGARITHM = Recogniser(
    "log-softmax written out",
    "z - logsumexp(z), z - log(sum(exp(z))): a log-softmax of z",
    ("softmax",),
    written_log_softmax,
    before=("softmax from its logarithm",),
)
