"""The logarithmic mean of two weights."""

from __future__ import annotations

import torch
from torch import Tensor


def logarithmic_mean(p: Tensor, p0: Tensor, d: Tensor) -> Tensor:
    """``(p - p0) / d`` with ``d = log(p / p0)``, which is known where they are too small for a number; 0 where ``d`` is
    none (what is masked has no logarithm).

    Where they are close the quotient would cancel, where they are far apart ``exp(d)`` has no number: each has its
    formula.
    """
    seen = d.isfinite()
    d = torch.where(seen, d, 0.0)
    near = p0 * relative_growth(d.clamp(-1, 1))
    return torch.where(seen, torch.where(d.abs() < 1, near, (p - p0) / torch.where(d == 0, 1.0, d)), 0.0)


def relative_growth(d: Tensor) -> Tensor:
    """``(exp(d) - 1) / d``, 1 where ``d`` is 0."""
    return torch.where(d == 0, 1.0, torch.expm1(d) / torch.where(d == 0, 1.0, d))
