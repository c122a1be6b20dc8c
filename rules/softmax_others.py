"""Softmax rules of other work, to compare with: alternatives that no preset names.

* ``softmax.temperature`` linearises at flatter weights, those at temperature 2 (Edin et al. 2025): where attention is
  saturated, scores still get something. It is the path from no scores to the scores as they are (`rules/path.py`), read
  at its middle alone; what that misses is the sink ``softmax``.
* ``softmax.shared`` gives a row's relevance to its scores by their weights (so it is reported of the code behind Arora
  et al. 2026): nothing is left over, and what a key's own weight did to the output does not matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, carry, freeze, precise, register, sink, where_positive
from lrp_fx.rules.softmax import OPS, weights_of
from lrp_fx.rules.softmax import _samples as plain_samples

aten = torch.ops.aten
TEMPERATURE = 2.0


def _flatter(p: Tensor, dim: int, rest: Tensor | float) -> Tensor:
    """Weights at the temperature, from the weights as they are; ``rest``: what a score beside them holds."""
    raised = p ** (1 / TEMPERATURE)
    return raised / (raised.sum(dim, keepdim=True) + rest).clamp_min(torch.finfo(p.dtype).tiny)


def _temperature(call: Call) -> Any:
    x, dim = call.args[0], int(call.arg(1, "dim", -1))
    y = weights_of(call, x)
    p = precise(y)
    rest: Tensor | float = 0.0
    if call.facts.get("written_out"):
        lacking = 1 - p.sum(dim, keepdim=True)
        rest = torch.where(lacking > 64 * torch.finfo(p.dtype).eps, lacking, 0.0) ** (1 / TEMPERATURE)  # not rounding
    flat = freeze(_flatter(p, dim, rest).to(y.dtype))

    def tangent(scores: Tensor) -> Tensor:
        return flat * (scores - (flat * scores).sum(dim, keepdim=True))

    value = tangent(where_positive(flat, x.detach()).to(y.dtype))
    return carry(value, tangent(x.to(y.dtype))) + sink("softmax", y - value, y)


def _temperature_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """AttnLRP's prop. 3.1 with the weights at temperature 2 in the Jacobian: R_i = x_i q_i (g_i - sum_j q_j g_j)."""
    x, dim = call.args[0], int(call.args[1])
    p, q = (torch.softmax(x / t, dim).nan_to_num() for t in (1.0, TEMPERATURE))
    g = torch.where(p == 0, torch.zeros_like(p), R_y / torch.where(p == 0, torch.ones_like(p), p))
    R = x * q * (g - (q * g).sum(dim, keepdim=True))
    return [torch.where(q == 0, torch.zeros_like(x), R)]


def _shared(call: Call) -> Any:
    x, dim = call.args[0], int(call.arg(1, "dim", -1))
    y = weights_of(call, x)
    p = precise(y)
    scores = precise(where_positive(p, x.detach()))
    none = scores == 0
    part = freeze(torch.where(none, 0.0, p / torch.where(none, 1.0, scores)))
    p = freeze(p)
    lost = 1 - torch.where(none, 0.0, p).sum(dim, keepdim=True)
    through = p * (part * x.to(p.dtype)).sum(dim, keepdim=True)
    return carry((p * (1 - lost)).to(y.dtype), through.to(y.dtype)) + sink("softmax", lost, y, times=y.detach())


def _shared_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """R_i = p_i sum_j R_j."""
    x, dim = call.args[0], int(call.args[1])
    p = torch.softmax(x, dim).nan_to_num()
    return [p * R_y.sum(dim, keepdim=True)]


def _samples() -> list[Call]:
    """Those whose weights are all numbers: here a key counts whose weight is too small for one."""
    return [c for c in plain_samples() if not c.args[0].abs().clamp(max=1e9).max() > 100 or c.args[0].isinf().any()]


register(
    Rule(
        name="softmax.temperature",
        kind="softmax",
        law="p = J x + sink(p - J x), J = diag q - q q^T, q the weights at temperature 2",
        cites=("edin2025",),
        ops=OPS,
        surrogate=_temperature,
        sinks=("softmax",),
        reference=_temperature_reference,
        samples=_samples,
    ),
    Rule(
        name="softmax.shared",
        kind="softmax",
        law="R_i = p_i sum_j R_j; a score of zero has nothing that could carry its part: sink(softmax)",
        cites=("arora2026",),
        ops=OPS,
        surrogate=_shared,
        sinks=("softmax",),
        reference=_shared_reference,
        samples=_samples,
    ),
)
