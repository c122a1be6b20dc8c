"""Spellings of ``a (1 + g)``, a value scaled by another that is around one (FiLM, adaptive norms)."""

from __future__ import annotations

import torch
from torch import Tensor

from testing.spellings.common import Gated as host  # noqa: F401


def modulated(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return a * (1 + g)


def number_last(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return (g + 1.0) * a


def expanded(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return a + a * g


def added_product(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return torch.addcmul(a, a, g)


def product_with_term(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return torch.addcmul(torch.zeros_like(a), a, 1 + g)


def ones(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return a * (torch.ones_like(g) + g)


def from_two(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return a * (2 - (1 - g))


def scaled(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return (0.5 * a) * (2 * g + 2)


def before_the_split(x: Tensor) -> Tensor:
    _, g = (1 + x).chunk(2, -1)
    return x[..., : g.shape[-1]] * g


def behind_moves(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return (a.transpose(1, 2)[:, None] * (1 + g)[:, None].transpose(2, 3))[:, 0].transpose(1, 2)


def formula(x: Tensor) -> Tensor:
    a, g = x.chunk(2, -1)
    return torch.einsum("btd,btd->btd", a, 1 + g)


SPELLINGS = [
    modulated, number_last, expanded, added_product, product_with_term, ones, from_two, scaled, before_the_split,
    behind_moves, formula,
]  # fmt: skip
