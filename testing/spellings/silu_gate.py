"""Spellings of ``g sigmoid(g) u`` for a fused projection ``[g, u]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Gated as host  # noqa: F401


def fused(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return F.silu(g) * u


def up_first(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return u * F.silu(g)


def sigmoid_written(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return g * torch.sigmoid(g) * u


def sigmoid_inside(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return u * (g * torch.sigmoid(g))


def sigmoid_last(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return (u * g) * torch.sigmoid(g)


def sigmoid_on_up(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return g * (torch.sigmoid(g) * u)


def exponential(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return g / (1.0 + torch.exp(-g)) * u


def reciprocal_exponential(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return g * (1.0 + torch.exp(-g)).reciprocal() * u


def hyperbolic(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return 0.5 * g * (1.0 + torch.tanh(0.5 * g)) * u


def sliced(x: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    return F.silu(x[..., :n]) * x[..., n:]


def split_with_sizes(x: Tensor) -> Tensor:
    g, u = x.split([x.shape[-1] // 2] * 2, -1)
    return F.silu(g).mul(u)


def unflattened(x: Tensor) -> Tensor:
    g, u = x.unflatten(-1, (2, -1)).unbind(-2)
    return F.silu(g) * u


def einsum(x: Tensor) -> Tensor:
    g, u = x.chunk(2, -1)
    return torch.einsum("btd,btd->btd", F.silu(g), u)


SPELLINGS = [
    fused, up_first, sigmoid_written, sigmoid_inside, sigmoid_last, sigmoid_on_up, exponential,
    reciprocal_exponential, hyperbolic, sliced, split_with_sizes, unflattened, einsum,
]  # fmt: skip
