"""Spellings of ``w x / sqrt(mean(x^2) + eps)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Normalised as host  # noqa: F401

EPS = 1e-2


def base(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


def fused(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), w, EPS)


def square_as_product(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def divide_by_root(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x / torch.sqrt(x.square().mean(-1, keepdim=True) + EPS))


def epsilon_first(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * x * torch.rsqrt(EPS + x.pow(2).mean(-1, True))


def power(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x * (x.pow(2).mean(-1, keepdim=True) + EPS).pow(-0.5))


def half_power_below(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * x / (x**2).mean(-1, keepdim=True).add(EPS) ** 0.5


def sum_over_size(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + EPS))


def weight_first(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (w * x) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def weight_on_scale(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (w * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)) * x


def one_plus_weight(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    normalised = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return normalised * (1.0 + (w - 1.0))


def reciprocal(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * x * torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS).reciprocal()


def einsum_statistic(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    square = torch.einsum("btd,btd->bt", x, x) / x.shape[-1]
    return w * x * torch.rsqrt(square + EPS).unsqueeze(-1)


def matmul_statistic(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    square = (x.unsqueeze(-2) @ x.unsqueeze(-1)).squeeze(-1) / x.shape[-1]
    return w * x * torch.rsqrt(square + EPS)


def vector_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * x * torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).pow(2) / x.shape[-1] + EPS)


def statistic_used_twice(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    square = x.pow(2).mean(-1, keepdim=True)
    return w * (x * torch.rsqrt(square + EPS)) + 0.0 * square


def cast_and_back(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.to(torch.float64)
    return w * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)


def flattened(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return (w * (rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + EPS))).reshape(x.shape)


def transposed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    columns = x.transpose(1, 2)
    return (columns * torch.rsqrt(columns.pow(2).mean(1, keepdim=True) + EPS)).transpose(1, 2) * w


def expanded_scale(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS).expand_as(x))


def one_over_root(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * x * (1.0 / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


def scaled_before(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = 2.0 * x
    return w * y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 4.0 * EPS)


def weight_over_root(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x * (w / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt())


SPELLINGS = [
    base, fused, square_as_product, divide_by_root, epsilon_first, power, half_power_below, sum_over_size,
    weight_first, weight_on_scale, one_plus_weight, reciprocal, einsum_statistic, matmul_statistic, vector_norm,
    statistic_used_twice, cast_and_back, flattened, transposed, expanded_scale, one_over_root, scaled_before,
    weight_over_root,
]  # fmt: skip
