"""Positively homogeneous reductions: Euler's theorem divides the coefficients by the degree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, covers, register, sample, share

aten = torch.ops.aten
#: Degree of homogeneity of each operation.
DEGREE = {"linalg_vector_norm": 1.0, "norm": 1.0, "frobenius_norm": 1.0, "var": 2.0, "std": 1.0}


def _euler(call: Call) -> Any:
    weight = 1.0 / (len(call.carriers) * _degree(call))
    return call.map(lambda i, a: share(a, weight) if i in call.carriers else a).run()


def _degree(call: Call) -> float:
    return float(call.facts["degree"]) if "degree" in call.facts else DEGREE[str(call.op._schema.name).split("::")[-1]]  # type: ignore[attr-defined]


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """R(x) = x df/dx / (k f) R(y), with the derivative by central differences."""
    (x,) = call.operands()
    degree = _degree(call)
    R_x = torch.zeros_like(x).flatten()
    for i in range(x.numel()):
        step = torch.zeros_like(x).flatten()
        step[i] = 1e-5
        up, down = (call.put({0: x + s.view_as(x)}).run() for s in (step, -step))
        R_x[i] = (x.flatten()[i] * (up - down) / 2e-5 / (degree * call.run()) * R_y).sum()
    return [R_x.view_as(x)]


def _samples() -> list[Call]:
    x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, 1.0]], dtype=torch.float64)
    return [sample(aten.linalg_vector_norm.default, x, 2, [1], True), sample(aten.var.correction, x, [1], keepdim=True), sample(aten.std.correction, x, [1])]


register(
    Rule(
        name="homogeneous.euler",
        kind="homogeneous",
        law="f(t x) = t^k f(x), so x . f'(x) = k f(x); c(x) = (1/k) f'(x)^T c(y)",
        cites=("bach2015",),
        ops=covers("aten", "linalg_vector_norm norm frobenius_norm var std"),
        surrogate=_euler,
        reference=_reference,
        samples=_samples,
    ),
    Rule(
        name="homogeneous.inferred",
        kind="homogeneous",
        law="f(t x) = t^k f(x) with k found by measurement; c(x) = f'(x)^T c(y) / (n k) for n carriers",
        cites=("bach2015",),
        ops=("*",),
        surrogate=_euler,
        reference=_reference,
        samples=lambda: [sample(aten.prod.dim_int, torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), 1, facts={"degree": 3.0})],
    ),
)
