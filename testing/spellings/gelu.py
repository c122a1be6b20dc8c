"""Spellings of ``x Phi(x)``, Phi the standard normal distribution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Activated as host  # noqa: F401


def fused(x: Tensor) -> Tensor:
    return F.gelu(x)


def half_outside(x: Tensor) -> Tensor:
    return 0.5 * (x * (1.0 + torch.erf(x / math.sqrt(2.0))))


def half_first(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.erf(x * math.sqrt(0.5)))


def half_last(x: Tensor) -> Tensor:
    return x * (1.0 + torch.erf(x / math.sqrt(2.0))) / 2.0


def distribution_first(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x / 1.4142135623730951)) * x


def distributed(x: Tensor) -> Tensor:
    return 0.5 * (x + x * torch.erf(x / math.sqrt(2.0)))


def distributed_apart(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x * torch.erf(x / math.sqrt(2.0))


def complement(x: Tensor) -> Tensor:
    return 0.5 * x * torch.erfc(-x * math.sqrt(0.5))


def ndtr(x: Tensor) -> Tensor:
    return x * torch.special.ndtr(x)


def cast_and_back(x: Tensor) -> Tensor:
    wide = x.to(torch.float64)
    return (0.5 * wide * (1.0 + torch.erf(wide / math.sqrt(2.0)))).to(x.dtype)


def division_by_twice(x: Tensor) -> Tensor:
    return x / 2 * (torch.erf(x / math.sqrt(2.0)) + 1)


def buffer_root(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / torch.sqrt(torch.tensor(2.0, dtype=x.dtype))))


def in_two_halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([F.gelu(a), F.gelu(b)], -1)


SPELLINGS = [
    fused, half_outside, half_first, half_last, distribution_first, distributed, distributed_apart, complement,
    ndtr, cast_and_back, division_by_twice, buffer_root, in_two_halves,
]  # fmt: skip
