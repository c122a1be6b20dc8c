"""Sums: every term keeps the coefficient of the result (LRP-0). Terms that carry nothing are booked in ``bias``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, constant_part, covers, freeze, register, sample, sink

aten = torch.ops.aten


def _plain(call: Call) -> Any:
    if len(call.carriers) == 2:
        return call.run()
    (position,) = call.carriers
    y = call.value if isinstance(call.value, Tensor) else call.run().detach()
    constant = constant_part(call.map(lambda i, a: a.new_zeros(()) if i == position else a))
    linear = call.map(
        lambda i, a: a if i in call.carriers or i > 1 else a.new_zeros(()) if isinstance(a, Tensor) else 0
    ).run()
    return linear.to(y.dtype).expand(y.shape) + sink("bias", constant, y)


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """LRP-0 on a sum: R(z) = z / y R(y) for each term z."""
    y = call.run()
    results = []
    for position in sorted(call.carriers):
        other = call.operand(1 - position)
        term = call.put({1 - position: torch.zeros_like(other) if isinstance(other, Tensor) else 0}).run()
        results.append((term * R_y / y).sum_to_size(call.operand(position).shape))
    return results


def _samples() -> list[Call]:
    g = torch.Generator().manual_seed(2)
    x, z = (torch.randn(2, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    row = torch.randn(4, generator=g, dtype=torch.float64)
    return [
        sample(aten.add.Tensor, x, z, carriers=(0, 1)),
        sample(aten.sub.Tensor, x, z, carriers=(0, 1)),
        sample(aten.add.Tensor, x, row, carriers=(0, 1)),
        sample(aten.add.Tensor, x, row, alpha=0.5),
        sample(aten.add.Tensor, row, x, carriers=(1,)),
        sample(aten.add.Tensor, row, x, alpha=2.0),
        sample(aten.sub.Tensor, x, row, carriers=(1,)),
        sample(aten.add.Tensor, x, 1),
        sample(aten.sub.Tensor, row, x),
        sample(aten.sub.Tensor, x, 1.5),
        sample(aten.rsub.Tensor, x, row),
        sample(aten.rsub.Scalar, x, 1.0),
    ]


def _terms(call: Call) -> list[Tensor]:
    return [a for a in call.flat() if isinstance(a, Tensor)]


def gamma_surrogate(gamma: float) -> Any:
    """Terms that push the way the sum goes count ``1 + gamma`` times: cancelling terms amplify no relevance."""

    def surrogate(call: Call) -> Any:
        terms = _terms(call)
        y = freeze(sum(terms[1:], terms[0]))
        raised = [freeze(1.0 + gamma * (t.detach() * y > 0)) for t in terms]
        total = freeze(
            sum((w * t.detach() for w, t in zip(raised[1:], terms[1:], strict=True)), raised[0] * terms[0].detach())
        )
        ratio = freeze(
            torch.where(total == 0, torch.zeros_like(y), y / torch.where(total == 0, torch.ones_like(y), total))
        )
        return sum(
            (t * (w * ratio) for t, w in zip(terms[1:], raised[1:], strict=True)), terms[0] * (raised[0] * ratio)
        )

    return surrogate


def _reference_gamma(call: Call, R_y: Tensor) -> list[Tensor]:
    """Residual gamma rule: R(z) = (1 + gamma [z y > 0]) z / sum_t (1 + gamma [t y > 0]) t R(y), gamma = 1."""
    terms = _terms(call)
    y = sum(terms[1:], terms[0])
    raised = [t * (1.0 + (t * y > 0)) for t in terms]
    return [r / sum(raised[1:], raised[0]) * R_y for r in raised]


def _residual_samples() -> list[Call]:
    g = torch.Generator().manual_seed(12)
    x, z = (torch.randn(2, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    return [sample(aten.add.Tensor, x, z, carriers=(0, 1)), sample(aten.add.Tensor, x, -0.9 * x, carriers=(0, 1))]


register(
    Rule(
        name="sum.plain",
        kind="sum",
        law="y = sum of terms; c(term) = c(y); constant terms to the sink",
        cites=("bach2015",),
        ops=covers("aten", "add sub rsub"),
        surrogate=_plain,
        sinks=("bias",),
        reference=_reference,
        samples=_samples,
    ),
    Rule(
        name="residual.plain",
        kind="residual",
        law="y = sum of terms; c(term) = c(y)",
        cites=("bach2015",),
        ops=covers("aten", "add"),
        surrogate=lambda call: call.run(),
        reference=_reference,
        samples=_residual_samples,
    ),
    Rule(
        name="residual.gamma",
        kind="residual",
        law="y = sum_t t * frozen(w_t y / D), w_t = 1 + gamma [t y > 0], D = sum_t w_t t, gamma = 1; factor 0 if D = 0",
        cites=("berend2026",),
        ops=covers("aten", "add"),
        surrogate=gamma_surrogate(1.0),
        reference=_reference_gamma,
        samples=_residual_samples,
    ),
)
