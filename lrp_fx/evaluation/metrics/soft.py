"""Soft erasure at equal retention: units are kept by chance, the more likely the higher (or lower) their score.

Where a score itself is the probability of staying, an explanation with larger scores keeps more of the input, and gains
by that alone. Here the expected share that stays is fixed: scores are brought to [0, 1] by their extremes, multiplied
by the factor for which their mean, cut at 1, is that share, and units are kept with these probabilities. What is drawn
is the same for every explanation of an example, so that paired tests see the explanations only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.evaluation.metric import Case, Metric, register

RETAINED = (0.1, 0.3, 0.5, 0.7, 0.9)
DRAWS = 4
_SEED = 0


def probabilities(scores: Tensor, share: float) -> Tensor:
    """(N,) in [0, 1], growing with the scores (N,), with the mean ``share``.

    Where too few scores are above the lowest to give that mean, these units stay for certain and the others share what
    is left; equal scores have equal probabilities.
    """
    low, high = scores.double().aminmax()
    if high == low:
        return torch.full(scores.shape, share, dtype=torch.float64)
    raised = (scores.double() - low) / (high - low)
    wanted, above = share * len(raised), raised > 0
    if wanted >= int(above.sum()):
        rest = (wanted - int(above.sum())) / max(int((~above).sum()), 1)
        return torch.where(above, 1.0, rest)
    ordered = raised.sort(descending=True).values
    tail = ordered.flip(0).cumsum(0).flip(0)  # with the k highest cut at 1, the factor that gives the mean
    for k in range(len(ordered)):
        factor = (wanted - k) / tail[k]
        if factor * ordered[k] <= 1:
            return (raised * factor).clamp(0, 1)
    return above.double()


def kept(scores: Tensor) -> Tensor:
    """(shares * draws, N) bool: what stays, in all draws at all shares."""
    generator = torch.Generator().manual_seed(_SEED)
    chance = torch.rand(len(RETAINED), DRAWS, len(scores), generator=generator, dtype=torch.float64)
    likely = torch.stack([probabilities(scores, share) for share in RETAINED])
    return (chance < likely.unsqueeze(1)).flatten(0, 1)


def losses(case: Case) -> tuple[float, float]:
    """What the target's probability loses, on average: where low scores stay, and where high scores stay."""
    target, whole = case.example.target, case.example.original().softmax(-1)
    found = case.example.logits(torch.cat([kept(-case.units), kept(case.units)])).softmax(-1)[:, target]
    without, alone = (whole[target] - found).reshape(2, -1).mean(1).tolist()
    return without, alone


_CITES = ("zhao2023", "huang2026")
_SHARES = "10, 30, 50, 70 and 90 % of the units are expected to stay"

register(
    Metric(
        "soft comprehensiveness",
        f"p_t(x) - p_t(x with units kept the rather the lower they score), mean of draws where {_SHARES}",
        _CITES,
        "higher",
        lambda c: c.shared(losses)[0],
        ("predict",),
        classes=True,
    ),
    Metric(
        "soft sufficiency",
        f"p_t(x) - p_t(x with units kept the rather the higher they score), mean of draws where {_SHARES}",
        _CITES,
        "lower",
        lambda c: c.shared(losses)[1],
        ("predict",),
        classes=True,
    ),
)
