"""Erasure (ERASER): what the probability loses without the best units, and with the best units alone.

Of N free units, ``ceil(q N)`` are the best, for q of 1, 5, 10, 20 and 50 per cent. Equal scores keep the order of the
sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.evaluation.metric import Case, Metric, register

PERCENT = (1, 5, 10, 20, 50)


def best(scores: Tensor) -> Tensor:
    """(5, N) bool: the best units at each share, for scores (N,)."""
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    counts = torch.tensor([-(-q * len(scores) // 100) for q in PERCENT])
    return rank < counts.unsqueeze(1)


def losses(case: Case) -> tuple[float, float]:
    """What the target's probability loses, on average: without the best units, and with these alone."""
    chosen, target = best(case.units), case.example.target
    whole = case.example.original().softmax(-1)[target]
    found = case.example.logits(torch.cat([~chosen, chosen])).softmax(-1)[:, target]
    without, alone = (whole - found).reshape(2, -1).mean(1).tolist()
    return without, alone


register(
    Metric(
        "comprehensiveness",
        "p_t(x) - p_t(x without the best q %), mean over q = 1, 5, 10, 20, 50",
        ("deyoung2020",),
        "higher",
        lambda c: c.shared(losses)[0],
        ("predict",),
        classes=True,
    ),
    Metric(
        "sufficiency",
        "p_t(x) - p_t(the best q % alone), mean over q = 1, 5, 10, 20, 50",
        ("deyoung2020",),
        "lower",
        lambda c: c.shared(losses)[1],
        ("predict",),
        classes=True,
    ),
)
