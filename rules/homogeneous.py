"""Positively homogeneous operations: Euler's theorem divides the coefficients by the degree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, register, sample, share

aten = torch.ops.aten


class _LimitAtZero(torch.autograd.Function):
    """``x``; where it is zero a coefficient without a finite value is zero: roots are steep there, but ``x f'(x)``
    vanishes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where((x == 0) & ~grads[0].isfinite(), torch.zeros_like(grads[0]), grads[0])


def _euler(call: Call) -> Any:
    """Each result with the coefficients of its carriers scaled by ``1 / (n k)``; degrees may differ from result to
    result.
    """
    rows = [tuple(1.0 / (len(call.carriers) * k) for k in row) for row in call.facts["degrees"]]
    runs = {row: _shared(call, row) for row in dict.fromkeys(rows)}
    if len(runs) == 1:
        return runs[rows[0]]
    queue = iter(rows)
    first = runs[rows[0]]
    return type(first)(
        runs[next(queue)][i] if y.is_floating_point() or y.is_complex() else y for i, y in enumerate(first)
    )


def _shared(call: Call, weights: tuple[float, ...]) -> Any:
    of = dict(zip(sorted(call.carriers), weights, strict=True))

    def limited(x: Tensor, weight: float) -> Any:
        return _LimitAtZero.apply(share(x, weight))  # type: ignore[no-untyped-call]

    return call.map(lambda i, a: limited(a, of[i]) if i in of else a).run()


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """R(x_i) = x_i df/dx_i / (n k_i f) R(y), with the derivative by central differences."""
    results = []
    for position, degree in zip(sorted(call.carriers), call.facts["degrees"][0], strict=True):
        x = call.operand(position)
        R_x = torch.zeros_like(x).flatten()
        for i in range(x.numel()):
            step = torch.zeros_like(x).flatten()
            step[i] = 1e-5
            up, down = (call.put({position: x + s.view_as(x)}).run() for s in (step, -step))
            R_x[i] = (x.flatten()[i] * (up - down) / 2e-5 / (len(call.carriers) * degree * call.run()) * R_y).sum()
        results.append(R_x.view_as(x))
    return results


def _samples() -> list[Call]:
    x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, 1.0]], dtype=torch.float64)
    one = {"degrees": ((1.0,),)}
    return [
        sample(aten.linalg_vector_norm.default, x, 2, [1], True, facts=one),
        sample(aten.var.correction, x, [1], keepdim=True, facts={"degrees": ((2.0,),)}),
        sample(aten.std.correction, x, [1], facts=one),
        sample(aten.prod.dim_int, x[:1], 1, facts={"degrees": ((3.0,),)}),
        sample(aten.hypot.default, x, x.flip(1), carriers=(0, 1), facts={"degrees": ((0.5, 0.5),)}),
    ]


register(
    Rule(
        name="homogeneous.inferred",
        kind="homogeneous",
        law="f(.., t x_i, ..) = t^k_i f, k_i found by measurement; c(x_i) = f'_i(x)^T c(y) / (n k_i) for n carriers",
        cites=("bach2015",),
        ops=("*",),
        surrogate=_euler,
        reference=_reference,
        samples=_samples,
    ),
)
