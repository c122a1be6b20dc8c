"""Known causes: how much of an explanation lies on the units that are known to cause the output."""

from __future__ import annotations

import torch

from benchmarks.metrics.metric import Case, Metric, register
from testing.scoring import Sequences, hit_and_mass


def both(case: Case) -> tuple[float, float]:
    """Hit and mass of one example, as `testing.scoring.hit_and_mass` has them (unit 0 excluded)."""
    inputs, causal = case.example.inputs, case.example.causal
    if causal is None:
        raise ValueError("nothing is known about the causes of this example: give Example(causal=...)")
    one = Sequences(
        inputs.unsqueeze(0),
        torch.ones(1, len(inputs), dtype=torch.int64),
        torch.tensor([case.example.target]),
        causal.bool().unsqueeze(0),
    )
    return hit_and_mass(case.scores.unsqueeze(0), one)


register(
    Metric(
        "hit",
        "share of the k known causal units among the k highest scores (relevance rank accuracy)",
        ("arras2022",),
        "higher",
        lambda c: c.shared(both)[0],
        ("causal",),
    ),
    Metric(
        "mass",
        "share of positive relevance on the known causal units (relevance mass accuracy)",
        ("arras2022",),
        "higher",
        lambda c: c.shared(both)[1],
        ("causal",),
    ),
)
