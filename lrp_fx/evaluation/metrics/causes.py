"""Known causes: how much of an explanation lies on the units that are known to cause the output.

Only free units count: not the special tokens, nor padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.evaluation.metric import Case, Metric, register


def known(case: Case) -> Tensor:
    """(N,) bool: which of the free units are causes."""
    causal = case.example.causal
    if causal is None:
        raise InputError("nothing is known about the causes of this example: give Example(causal=...)")
    free = causal.bool()[case.example.free]
    if not bool(free.any()):
        raise InputError("none of the units that count is a cause")
    return free


def hit(case: Case) -> float:
    """The share of the k causes among the k highest scores."""
    causal = known(case)
    return float(causal[case.units.double().topk(int(causal.sum())).indices].double().mean())


def mass(case: Case) -> float:
    """The share of positive relevance on the causes; 0 where none is positive."""
    positive = case.units.double().clamp(min=0)
    return float(positive[known(case)].sum() / positive.sum().clamp_min(torch.finfo(torch.float64).tiny))


def first_rank(case: Case) -> int:
    """The place of the first cause in the order of the scores, from 1; equal scores in the order of the sequence."""
    order = case.units.argsort(descending=True, stable=True)
    return int(known(case)[order].nonzero()[0]) + 1


_CAUSES = ("causal",)

register(
    Metric(
        "hit",
        "share of the k known causal units among the k highest scores (relevance rank accuracy)",
        ("arras2022",),
        "higher",
        hit,
        _CAUSES,
    ),
    Metric(
        "mass",
        "share of positive relevance on the known causal units (relevance mass accuracy)",
        ("arras2022",),
        "higher",
        mass,
        _CAUSES,
    ),
    Metric(
        "pointing game",
        "1 where the highest score is on a known causal unit",
        ("arras2022",),
        "higher",
        lambda c: float(first_rank(c) == 1),
        _CAUSES,
        "pointing",
    ),
    Metric(
        "reciprocal rank",
        "1 over the rank of the first known causal unit",
        ("arras2022",),
        "higher",
        lambda c: 1 / first_rank(c),
        _CAUSES,
        "mrr",
    ),
)
