"""Sums: every term keeps the coefficient of the result (LRP-0). Terms that carry nothing are booked in ``bias``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, constant_part, covers, register, sample, sink

aten = torch.ops.aten


def _plain(call: Call) -> Any:
    if len(call.carriers) == 2:
        return call.run()
    (position,) = call.carriers
    y = call.value if isinstance(call.value, Tensor) else call.run().detach()
    constant = constant_part(call.map(lambda i, a: a.new_zeros(()) if i == position else a))
    linear = call.map(lambda i, a: a if i in call.carriers or i > 1 else a.new_zeros(()) if isinstance(a, Tensor) else 0).run()
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
        sample(aten.sub.Tensor, x, 1.5),
        sample(aten.rsub.Scalar, x, 1.0),
    ]


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
    )
)
