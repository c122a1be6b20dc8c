"""Softmax: first-order Taylor at the current scores (AttnLRP), or frozen weights (CP-LRP)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, carry, covers, draw, freeze, precise, register, sample, sink, where_positive

aten = torch.ops.aten
OPS = covers("aten", "softmax _softmax _safe_softmax")


def weights_of(call: Call, x: Tensor) -> Tensor:
    """The softmax itself: the machine's value where it has one."""
    return (
        call.value.detach()
        if isinstance(call.value, Tensor)
        else call.map(lambda i, a: a.detach() if isinstance(a, Tensor) else a).run()
    )


class _Weights(torch.autograd.Function):
    """Weights ``p`` with the softmax's own derivative: one kernel, one pass."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, p: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(p)
        ctx.dim = dim
        return p.view_as(p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        return aten._softmax_backward_data.default(grads[0], p, ctx.dim, p.dtype), None, None


def _taylor(call: Call) -> Any:
    x = call.args[0]
    dim = int(call.arg(1, "dim", -1))
    p = freeze(weights_of(call, x))
    if call.facts.get("written_out"):
        return _at_scores(x.to(p.dtype), p, dim)
    # x = log p + const along a row and J const = 0: the tangent needs the weights alone, so that scores need not be
    # kept. Masked scores (-inf) have weight 0 and carry nothing: 0 * log 0 must not become NaN.
    weights = precise(p)
    information = weights.clamp_min(torch.finfo(weights.dtype).tiny).log() * weights
    mean = information.sum(dim, keepdim=True)  # minus the entropy
    through: Tensor = _Weights.apply(x.to(p.dtype), p, dim)  # type: ignore[no-untyped-call]
    return (
        carry((information - weights * mean).to(p.dtype), through)
        + sink("softmax", -information, p)
        + sink("softmax", 1 + mean, p, times=p)
    )


def _at_scores(scores: Tensor, p: Tensor, dim: int) -> Any:
    """The same for weights that were written out, and may add up to less than 1: there a score beside the others, or an
    epsilon, has a part.
    """
    finite = where_positive(p, scores.detach())  # as above
    mean = (p * finite).sum(dim, keepdim=True)
    tangent = p * (finite - mean)
    through = p * (scores - (p * scores).sum(dim, keepdim=True))
    return carry(tangent, through) + sink("softmax", 1 + mean - finite, p, times=p)


def _frozen(call: Call) -> Any:
    return freeze(weights_of(call, call.args[0]))


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """AttnLRP prop. 3.1: R_i = x_i (R_i - p_i sum_j R_j)."""
    x = call.args[0]
    dim = int(call.args[1])
    p = torch.softmax(x, dim).nan_to_num()  # rows that are masked throughout have no weights
    return [torch.where(p == 0, torch.zeros_like(x), x * (R_y - p * R_y.sum(dim, keepdim=True)))]


def _samples() -> list[Call]:
    g = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 5, generator=g, dtype=torch.float64) * 3
    masked = x.masked_fill(torch.tensor([False, True, False, False, True]), float("-inf"))
    steep = x * 300  # some weights are too small for any number
    calls = [sample(aten.softmax.int, t, d) for t, d in ((x, -1), (x, 1), (masked, -1), (steep, -1))]
    throughout = x.masked_fill(torch.tensor([[True], [False], [False]]), float("-inf"))
    return [
        *calls,
        sample(aten.softmax.int, x, 0),
        sample(aten._softmax.default, x, 1, False),
        sample(aten._safe_softmax.default, masked, -1),
        sample(aten._safe_softmax.default, throughout, -1),
        sample(aten.softmax.int, masked, -1, facts={"written_out": True}),
    ]


def _log(call: Call) -> Any:
    """``log_softmax(x) = x - lse(x)``: the normaliser is frozen, as every statistic is."""
    x = call.args[0]
    y = weights_of(call, x)
    return x.to(y.dtype) + sink("offset", y - x.detach().to(y.dtype), y)


def _log_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    x, y = call.args[0], call.run()
    return [x / y * R_y]


def _log_samples() -> list[Call]:
    x = draw(3, 4, seed=6)
    return [sample(aten.log_softmax.int, x, -1), sample(aten._log_softmax.default, x, 1, False)]


register(
    Rule(
        name="softmax.taylor",
        kind="softmax",
        law="p = J x + sink(p - J x), J = diag p - p p^T; R_i = x_i (R_i - p_i sum_j R_j) in relevances",
        cites=("achtibat2024",),
        ops=OPS,
        surrogate=_taylor,
        sinks=("softmax",),
        reference=_reference,
        samples=_samples,
    ),
    Rule(
        name="softmax.frozen",
        kind="softmax",
        law="p = frozen(p): the attention path carries nothing",
        cites=("ali2022",),
        ops=OPS,
        surrogate=_frozen,
        samples=_samples,
        frozen=True,
    ),
    Rule(
        name="softmax.log",
        kind="softmax",
        law="y = x + sink(-frozen(logsumexp x))",
        cites=("ali2022",),
        ops=covers("aten", "log_softmax _log_softmax"),
        surrogate=_log,
        sinks=("offset",),
        reference=_log_reference,
        samples=_log_samples,
    ),
)
