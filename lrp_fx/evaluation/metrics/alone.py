"""Leave-one-out: do scores rank units as their own effects do, each taken away by itself?"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.evaluation.metric import Case, Metric, register
from lrp_fx.evaluation.paired import ranks


def effects(case: Case) -> Tensor:
    """(N,): what the target's logit loses without each unit."""
    n = len(case.units)
    without = case.example.logits(~torch.eye(n, dtype=torch.bool))[:, case.example.target]
    return case.example.original()[case.example.target] - without


def correlation(case: Case) -> float:
    """Spearman's rank correlation of scores and effects; 0 where either is the same everywhere."""
    a, b = (ranks(x) for x in (case.units, effects(case)))
    a, b = a - a.mean(), b - b.mean()
    size = a.norm() * b.norm()
    return float(a @ b / size) if size > 0 else 0.0


register(
    Metric(
        "leave-one-out",
        "rank correlation of the scores with f_t(x) - f_t(x without the unit)",
        ("deyoung2020",),
        "higher",
        correlation,
        ("predict",),
        "loo",
    )
)
