"""Spellings of ``z a + (1 - z) b`` with a gate ``z`` that is computed, too (highway networks, gated residuals)."""

from __future__ import annotations

import torch
from torch import Tensor

from testing.spellings.common import Highway as host  # noqa: F401


def two_products(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return z * a + (1 - z) * b


def kept_first(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (1.0 - z) * b + a * z


def lerp(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.lerp(b, a, z)


def lerp_back(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.lerp(a, b, 1 - z)


def step(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return b + z * (a - b)


def step_back(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a - (1 - z) * (a - b)


def three_products(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return z * a + b - z * b


def added_product(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.addcmul(z * a, 1 - z, b)


def negated(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return z * a - (z - 1) * b


def ones(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return z * a + torch.ones_like(z).sub(z).mul(b)


SPELLINGS = [
    two_products, kept_first, lerp, lerp_back, step, step_back, three_products, added_product, negated, ones,
]  # fmt: skip
