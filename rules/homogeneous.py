"""Positively homogeneous operations: Euler's theorem divides the coefficients by the degree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, draw, register, sample, share

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


def _is_product(facts: Mapping[str, Any]) -> bool:
    """Is it a product of its carriers: linear in each of several?"""
    return all(len(row) > 1 and set(row) == {1.0} for row in facts["degrees"])


def _shares(call: Call) -> list[float]:
    """What is due to each carrier: the same or, of a product, in proportion to the factors behind it."""
    counts = [call.factors.get(i, 1) if _is_product(call.facts) else 1 for i in sorted(call.carriers)]
    return [count / sum(counts) for count in counts]


def _euler(call: Call) -> Any:
    """Each result with the coefficients of its carriers scaled by ``w / k``; degrees may differ among results."""
    rows = [tuple(w / k for w, k in zip(_shares(call), row, strict=True)) for row in call.facts["degrees"]]
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
    """R(x_i) = w_i x_i df/dx_i / (k_i f) R(y), with the derivative by central differences."""
    results = []
    for position, degree, due in zip(sorted(call.carriers), call.facts["degrees"][0], _shares(call), strict=True):
        x = call.operand(position)
        R_x = torch.zeros_like(x).flatten()
        for i in range(x.numel()):
            step = torch.zeros_like(x).flatten()
            step[i] = 1e-5
            up, down = (call.put({position: x + s.view_as(x)}).run() for s in (step, -step))
            R_x[i] = (due * x.flatten()[i] * (up - down) / 2e-5 / (degree * call.run()) * R_y).sum()
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


def _calls() -> list[Call]:
    """A map by computed weights whose values are a product of two."""
    x, w = draw(2, 3, 5), draw(4, 3, 2, seed=1)
    bilinear = {"degrees": ((1.0, 1.0),)}
    return [
        sample(aten.conv1d.default, x, w, carriers=(0, 1), facts=bilinear),
        sample(aten.conv1d.default, x, w, carriers=(0, 1), factors={0: 2, 1: 1}, facts=bilinear),
    ]


register(
    Rule(
        name="homogeneous.inferred",
        kind="homogeneous",
        law="f(.., t x_i, ..) = t^k_i f, k_i found by measurement; c(x_i) = w_i f'_i(x)^T c(y) / k_i, w_i = 1/n for n "
        "carriers, and for a product of them in proportion to the factors of the chains behind them",
        cites=("bach2015",),
        ops=("*",),
        surrogate=_euler,
        reference=_reference,
        samples=_samples,
        calls=_calls,
        chain=lambda factors, facts: sum(factors.values()) if _is_product(facts) else 1,
    ),
)
