"""Statistics over examples: mean and standard error, and a paired comparison of two methods on the same examples."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lrp_fx.errors import InputError

#: Up to so many pairs that differ p is exact: where all differences are of different size, and where some are equal.
EXACT, EXACT_WITH_TIES = 50, 13


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of values (E,) and its standard error (sample deviation over sqrt(E); nan for one example)."""
    error = float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.double().mean()), error


def ranks(values: Tensor) -> Tensor:
    """(N,) float64: ranks from 1, equal values with the mean of theirs."""
    _, place, count = torch.unique(values.double(), return_inverse=True, return_counts=True)
    middle: Tensor = count.cumsum(0) - (count.double() - 1) / 2
    return middle[place]


@dataclass(frozen=True)
class Comparison:
    """Values of a method minus those of a reference, example by example.

    ``mean``, ``median``  of the differences.
    ``shift``             (W+ - W-) / (W+ + W-) of the signed ranks: -1 all lower, 1 all higher, 0 where all are equal.
    ``p``                 two-sided p of the Wilcoxon signed-rank test, equal pairs left out (Wilcoxon 1945).
    """

    mean: float
    median: float
    shift: float
    p: float

    def verdict(self, better: str) -> str:
        """``++`` better with p < 0.01, ``+`` with p < 0.05, ``--`` and ``-`` worse, empty where neither is shown."""
        mark = "+" if (self.shift > 0) == (better == "higher") else "-"
        return mark * ((self.p < 0.05) + (self.p < 0.01))


def compare(values: Tensor, reference: Tensor) -> Comparison:
    """Paired comparison of values (E,) with those of a reference on the same examples."""
    if values.shape != reference.shape or values.dim() != 1:
        raise InputError(
            f"paired values have one axis and equal length, got {tuple(values.shape)} and {tuple(reference.shape)}"
        )
    difference = values.double() - reference.double()
    unequal = difference[difference != 0]
    if not len(unequal):
        return Comparison(0.0, 0.0, 0.0, 1.0)
    ranked = ranks(unequal.abs())
    up, down = float(ranked[unequal > 0].sum()), float(ranked[unequal < 0].sum())
    median = float(np.median(difference.numpy()))
    return Comparison(float(difference.mean()), median, (up - down) / (up + down), _two_sided(ranked, up))


def _two_sided(ranked: Tensor, up: float) -> float:
    """Probability of rank sums as far from the middle as this one, if every sign is as likely as the other."""
    n, tied = len(ranked), len(torch.unique(ranked)) < len(ranked)
    middle = n * (n + 1) / 4
    if n <= (EXACT_WITH_TIES if tied else EXACT):
        doubled = (2 * ranked).long().tolist()  # ranks of ties are halves
        ways = np.zeros(sum(doubled) + 1)
        ways[0] = 1
        for rank in doubled:
            ways[rank:] = ways[rank:] + ways[:-rank]
        less = float(ways[: round(2 * min(up, 2 * middle - up)) + 1].sum()) / 2.0**n
        return min(1.0, 2 * less)
    spread = math.sqrt(float(ranked.square().sum())) / 2
    return math.erfc(abs(up - middle) / spread / math.sqrt(2))


def corrected(found: list[Comparison]) -> list[Comparison]:
    """The same with p corrected for how many there are, so that any false finding among all is as unlikely as p says
    (Holm 1979); comparisons of equal values count, too.
    """
    order = sorted(range(len(found)), key=lambda i: found[i].p)
    result, least = list(found), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(found) - rank) * found[i].p))
        result[i] = dataclasses.replace(found[i], p=least)
    return result
