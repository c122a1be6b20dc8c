"""Position relevance per token: summed as it is, its positive part, or its magnitude.

Positive parts and magnitudes are taken after summing over each rotation plane: there ``R = 1/2 sum_plane q' c(q')``,
which a shift of all positions leaves alone, while sine and cosine by themselves change. The forms that PA-LRP's
released code runs, with sine and cosine apart, are kept under names of their own.
"""

from __future__ import annotations

from torch import Tensor

from lrp_fx.aggregation import Aggregation, Rows
from lrp_fx.rule import register


def _positive(R: Tensor) -> Tensor:
    return R.clamp(min=0).sum(-1)


def _absolute(R: Tensor) -> Tensor:
    return R.sum(-1).abs()


def _over_parts(rows: Rows, f: object) -> Tensor:
    assert callable(f)
    first, *others = (f(part) for part in rows.parts)
    return sum(others, first)  # type: ignore[no-any-return]


register(
    Aggregation("signed", "sum of the relevance", ("bakish2025",), lambda rows: rows.joint.sum(-1), conserves=True),
    Aggregation(
        "positive",
        "sum of the positive part of each rotation plane (of each element where nothing is rotated)",
        ("bakish2025",),
        lambda rows: _positive(rows.joint),
    ),
    Aggregation(
        "absolute", "magnitude of the sum, for each injection", ("bakish2025",), lambda rows: _absolute(rows.joint)
    ),
    Aggregation(
        "paper-positive",
        "sum of positive entries, sine and cosine apart (eq. 11)",
        ("bakish2025",),
        lambda rows: _over_parts(rows, _positive),
    ),
    Aggregation(
        "paper-absolute",
        "magnitude of the sum, sine and cosine apart (released code)",
        ("bakish2025",),
        lambda rows: _over_parts(rows, _absolute),
    ),
)
