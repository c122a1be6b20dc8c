"""Statistics over examples: mean and standard error, and a paired comparison of two methods on the same examples."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of values (E,) and its standard error (sample deviation over sqrt(E); nan for one example)."""
    error = float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.double().mean()), error


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
    from scipy.stats import rankdata, wilcoxon  # type: ignore[import-untyped]

    if values.shape != reference.shape or values.dim() != 1:
        raise ValueError(
            f"paired values have one axis and equal length, got {tuple(values.shape)} and {tuple(reference.shape)}"
        )
    difference = (values.double() - reference.double()).numpy()
    unequal = difference[difference != 0]
    if not len(unequal):
        return Comparison(0.0, 0.0, 0.0, 1.0)
    ranks = rankdata(abs(unequal))
    shift = float((ranks * (unequal > 0)).sum() - (ranks * (unequal < 0)).sum()) / float(ranks.sum())
    return Comparison(float(difference.mean()), float(np.median(difference)), shift, float(wilcoxon(unequal).pvalue))


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
