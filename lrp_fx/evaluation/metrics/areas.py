"""Areas under perturbation curves: what the model answers as units are inserted or replaced by score.

At fractions ``j / 10`` of the N free units, ``ceil(j N / 10)`` units are inserted or replaced; areas by the trapezoid
rule over the fraction, 0 to 1. Equal scores keep the order of the sequence. An area averaged over examples is the area
under the curve averaged over examples, since both are linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_fx.evaluation.metric import Case, Metric, register

STEPS = 10


@dataclass(frozen=True)
class Way:
    """A walk over the units: which score comes first, and whether units are inserted into nothing or replaced in the
    input.
    """

    insert: bool
    descending: bool
    absolute: bool = False


WAYS = {
    "generation": Way(insert=True, descending=True),
    "pruning": Way(insert=False, descending=False, absolute=True),
    "least first": Way(insert=False, descending=False),  # pruning by the signed score is the same walk
    "most first": Way(insert=False, descending=True),
}


def counts(n: int) -> Tensor:
    """(11,): units touched at each fraction, ``ceil(j n / 10)`` in whole numbers (0.7 * 10 is above 7 in floating
    point).
    """
    return torch.tensor([-(-j * n // STEPS) for j in range(STEPS + 1)])


def kept(scores: Tensor, way: Way) -> Tensor:
    """(11, N) bool: which units still have, or have again, their own value at each fraction; for scores (N,)."""
    order = (scores.abs() if way.absolute else scores).argsort(descending=way.descending, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    touched = rank < counts(len(scores)).unsqueeze(1)
    return touched if way.insert else ~touched


def curves(case: Case) -> dict[str, Tensor]:
    """Logits (11, C) along every way, all asked of the model at once."""
    masks = [kept(case.units, way) for way in WAYS.values()]
    logits = case.example.logits(torch.cat(masks))
    return dict(zip(WAYS, logits.reshape(len(WAYS), STEPS + 1, -1), strict=True))


def area(curve: Tensor) -> float:
    """Area under a curve (11,) over fractions 0 to 1."""
    return float(torch.trapezoid(curve, dx=1 / STEPS))


def probability(case: Case, way: str) -> float:
    """Area under the target's probability."""
    return area(case.shared(curves)[way].softmax(-1)[:, case.example.target])


def logit(case: Case, way: str) -> float:
    """Area under the target's logit."""
    return area(case.shared(curves)[way][:, case.example.target])


def squared_error(case: Case, way: str) -> float:
    """Area under the squared distance of all logits from those of the input, summed over classes."""
    return area((case.shared(curves)[way] - case.example.original()).square().sum(-1))


def divergence(case: Case, way: str) -> float:
    """Area under the Kullback-Leibler divergence of the answers from that to the input."""
    whole = case.example.original().log_softmax(-1)
    answers = case.shared(curves)[way].log_softmax(-1)
    return area((whole.exp() * (whole - answers)).sum(-1))


_PAPERS = ("ali2022", "bakish2025")
_DIVERGENCE = ("kullback1951", "ali2022")
_MODEL = ("predict",)

register(
    Metric(
        "AUAC generation",
        "insert by descending score into nothing; area under p_t",
        _PAPERS,
        "higher",
        lambda c: probability(c, "generation"),
        _MODEL,
        "auac",
        classes=True,
    ),
    Metric(
        "AU-MSE generation",
        "the same insertions; area under sum_c (f_c(x) - f_c(x_phi))^2",
        _PAPERS,
        "lower",
        lambda c: squared_error(c, "generation"),
        _MODEL,
        "au-mse",
    ),
    Metric(
        "AUAC pruning",
        "replace by ascending absolute score; area under p_t",
        _PAPERS,
        "higher",
        lambda c: probability(c, "pruning"),
        _MODEL,
        classes=True,
    ),
    Metric(
        "AU-MSE pruning",
        "replace by ascending absolute score; area under sum_c (f_c(x) - f_c(x_phi))^2",
        _PAPERS,
        "lower",
        lambda c: squared_error(c, "pruning"),
        _MODEL,
    ),
    Metric(
        "AU-KL generation",
        "insert by descending score into nothing; area under sum_c p_c(x) log (p_c(x) / p_c(x_phi))",
        _DIVERGENCE,
        "lower",
        lambda c: divergence(c, "generation"),
        _MODEL,
        classes=True,
    ),
    Metric(
        "AU-KL pruning",
        "replace by ascending absolute score; area under sum_c p_c(x) log (p_c(x) / p_c(x_phi))",
        _DIVERGENCE,
        "lower",
        lambda c: divergence(c, "pruning"),
        _MODEL,
        classes=True,
    ),
    Metric(
        "ABPC",
        "area of LeRF minus area of MoRF",
        ("achtibat2024",),
        "higher",
        lambda c: logit(c, "least first") - logit(c, "most first"),
        _MODEL,
    ),
    Metric(
        "SRG",
        "ABPC divided by the number of units (symmetric relevance gain)",
        ("bluecher2024",),
        "higher",
        lambda c: (logit(c, "least first") - logit(c, "most first")) / len(c.units),
        _MODEL,
    ),
    Metric(
        "MoRF",
        "replace by descending score; area under f_t",
        ("achtibat2024",),
        "lower",
        lambda c: logit(c, "most first"),
        _MODEL,
    ),
    Metric(
        "LeRF",
        "replace by ascending score; area under f_t",
        ("achtibat2024",),
        "higher",
        lambda c: logit(c, "least first"),
        _MODEL,
    ),
    Metric(
        "AUAC pruning, signed",
        "replace by ascending score; area under p_t",
        _PAPERS,
        "higher",
        lambda c: probability(c, "least first"),
        _MODEL,
        classes=True,
    ),
    Metric(
        "AU-MSE pruning, signed",
        "replace by ascending score; area under sum_c (f_c(x) - f_c(x_phi))^2",
        _PAPERS,
        "lower",
        lambda c: squared_error(c, "least first"),
        _MODEL,
    ),
)
