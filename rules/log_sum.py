"""Logarithms of sums of exponentials: an average of the scores under their softmax, and its entropy, which is a sink.

``logsumexp x = p . x + H(p)``: the first term is all that the scores have in it, to first order and exactly. Running
sums and sums of two scores are the same, however they are written.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, carry, covers, draw, freeze, precise, register, sample, sink

aten = torch.ops.aten
_INFINITE = float("-inf")


def _value(call: Call) -> Tensor:
    """The operation's result: the machine's where it has one."""
    if isinstance(call.value, Tensor):
        return call.value.detach()
    result: Tensor = call.map(lambda i, a: a.detach() if isinstance(a, Tensor) else a).run()
    return result


def _weighted(p: Tensor, x: Tensor) -> Tensor:
    """``p * x``, zero where p is: masked scores are infinite."""
    return p * torch.where(p == 0, torch.zeros_like(x), x)


def _whole(call: Call) -> Any:
    """``y = p . x + sink(y - p . x)``.

    ``written_out``: the factor of the exponentials in what the logarithm is taken of, ``mean``: is it divided by their
    number? What stands beside them there is no score: their weights add up to less than 1.
    """
    x, dims, keepdim = call.args[0], call.args[1], bool(call.arg(2, "keepdim", False))
    y, factor = _value(call), call.facts.get("written_out")
    if factor is None:
        p = freeze(torch.exp(x.detach() - torch.logsumexp(x.detach(), dims, keepdim=True)))
    else:
        total = y if keepdim else _with_axes(y, dims, x.dim())
        number = prod(x.shape[d] for d in dims) if call.facts["mean"] else 1
        p = freeze(torch.exp(x.detach() - total) * factor / number)
    average = _weighted(p, x).sum(dims, keepdim=keepdim)
    return average + sink("softmax", y - average.detach(), y)


def _with_axes(y: Tensor, dims: list[int], rank: int) -> Tensor:
    """A result with the axes that were summed, of size 1."""
    for dim in sorted(d % rank for d in dims):
        y = y.unsqueeze(dim)
    return y


class _Running(torch.autograd.Function):
    """Running averages ``sum over s <= t of p_ts x_s``, ``p_ts = exp(x_s - y_t)``, of which the values are known.

    No matrix of places by places is made, and sums are taken of logarithms, so that nothing overflows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scores: Tensor, y: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(scores, y)
        ctx.dim = dim
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (scores, y), dim, c = ctx.saved_tensors, ctx.dim, precise(grads[0])
        logarithm = torch.where(scores_are_there(y), c.abs().log() - y, _nothing(y))
        sums = [torch.logcumsumexp(torch.where(s, logarithm, _nothing(y)).flip(dim), dim) for s in (c > 0, c < 0)]
        above, below = (torch.exp(scores + s.flip(dim)) for s in sums)
        return (above - below).to(grads[0].dtype), None, None, None


def scores_are_there(y: Tensor) -> Tensor:
    """Where a running sum has a term: before the first it is minus infinity."""
    return y > _INFINITE


def _nothing(like: Tensor) -> Tensor:
    return torch.full_like(like, _INFINITE)


def _running(call: Call) -> Any:
    """The same at every place, of the scores up to there; positive and negative ones are summed apart."""
    x, dim = call.args[0], int(call.args[1])
    y = _value(call)
    scores, total = freeze(precise(x)), freeze(precise(y))
    size = torch.where(scores.isfinite(), scores, torch.zeros_like(scores)).abs().log() + scores
    sides = (torch.where(side, size, _nothing(size)) for side in (scores > 0, scores < 0))
    there = scores_are_there(total)
    above, below = (torch.where(there, torch.exp(torch.logcumsumexp(s, dim) - total), 0.0) for s in sides)
    average = (above - below).to(y.dtype)
    through: Tensor = _Running.apply(x.to(y.dtype), scores, total, dim)  # type: ignore[no-untyped-call]
    return carry(average, through) + sink("softmax", y - average, y)


def _pair(call: Call) -> Any:
    """The same of two scores, either of which may carry nothing."""
    y = _value(call)
    average = sum(_weighted(freeze(torch.exp(x.detach() - y)), x) for x in call.operands())
    assert isinstance(average, Tensor)
    return average + sink("softmax", y - average.detach(), y)


def _average(call: Call) -> Any:
    name = call.name.removeprefix("aten.")
    return _whole(call) if name == "logsumexp" else _running(call) if name == "logcumsumexp" else _pair(call)


# ------------------------------------------------------------------------------------------------ laws
def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """R_i = p_i x_i / y R(y), summed over the results that a score is in."""
    name, x, y = call.name.removeprefix("aten."), call.args[0], call.run()
    if name == "logaddexp":
        return [torch.where(x == _INFINITE, 0.0, torch.exp(x - y) * x / y * R_y) for x in call.operands()]
    if name == "logcumsumexp":
        x, y, R = (t.movedim(call.args[1], -1) for t in (x, y, R_y))
        p = torch.exp(x.unsqueeze(-2) - y.unsqueeze(-1)).tril()
        shares = torch.where(p == 0, 0.0, p * x.unsqueeze(-2) / y.unsqueeze(-1) * R.unsqueeze(-1))
        return [shares.sum(-2).movedim(-1, call.args[1])]
    y = torch.logsumexp(x, call.args[1], keepdim=True)
    p = torch.exp(x - y)
    return [torch.where(p == 0, torch.zeros_like(x), p * x / y * R_y.reshape(y.shape))]


def _samples() -> list[Call]:
    x = 3 * draw(2, 3, 5, seed=5)
    masked = x.masked_fill(torch.tensor([False, True, False, False, True]), _INFINITE)
    return [
        sample(aten.logsumexp.default, x, [-1], True),
        sample(aten.logsumexp.default, x, [1]),
        sample(aten.logsumexp.default, x, [0, 2]),
        sample(aten.logsumexp.default, masked, [-1], True),
        sample(aten.logsumexp.default, masked, [2], facts={"written_out": 1.0, "mean": False}),
        sample(aten.logsumexp.default, x, [0, 2], True, facts={"written_out": 1.0, "mean": False}),
        sample(aten.logcumsumexp.default, x, 1),
        sample(aten.logcumsumexp.default, masked, -1),
        sample(aten.logcumsumexp.default, 300 * x, 2),
        sample(aten.logaddexp.default, x, masked, carriers=(0, 1)),
        sample(aten.logaddexp.default, x, x[0], carriers=(0,)),
        sample(aten.logaddexp.default, x, 2 * x.flip(-1), carriers=(0, 1)),
    ]


register(
    Rule(
        name="softmax.log_sum",
        kind="softmax",
        law="y = frozen(p) . x + sink(H(p)), p = softmax x, H its entropy",
        cites=("achtibat2024",),
        ops=covers("aten", "logsumexp logcumsumexp logaddexp"),
        surrogate=_average,
        sinks=("softmax",),
        reference=_reference,
        samples=_samples,
    ),
)
