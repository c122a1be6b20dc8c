"""Spellings of ``w (x - mean x) / sqrt(var x + eps) + b``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Normalised as host  # noqa: F401

EPS = 1e-2


def fused(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), w, b, EPS)


def written_out(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return w * (centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + EPS)) + b


def centred_twice(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPS) * w + b


def two_moments(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.pow(2).mean(-1, keepdim=True) - mean.pow(2)
    return w * ((x - mean) / (variance + EPS).sqrt()) + b


def var(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + EPS) * w + b


def var_mean(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + EPS) * w + b


def sum_over_size(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    n = x.shape[-1]
    centred = x - x.sum(-1, keepdim=True) / n
    return centred / ((centred * centred).sum(-1, keepdim=True) / n + EPS) ** 0.5 * w + b


def weight_folded(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    scale = w * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + EPS)
    return (x - x.mean(-1, keepdim=True)) * scale + b


def scale_and_shift(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    rstd = torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + EPS)
    return x * rstd * w - mean * rstd * w + b


def addition_of_negative(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    centred = x + (-x.mean(-1, keepdim=True))
    return torch.addcmul(b, centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + EPS), w)


def group_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return F.group_norm(rows, 1, w, b, EPS).reshape(x.shape)


def centring_matrix(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    n = x.shape[-1]
    centred = x @ (torch.eye(n, dtype=x.dtype) - 1.0 / n)
    return F.rms_norm(centred, (n,), w, EPS) + b


def rms_of_centred(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.rms_norm(x - x.mean(-1, keepdim=True), (x.shape[-1],), w, EPS) + b


def unaffine_then_affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), None, None, EPS) * w + b


def standard_deviation(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    deviation = x.std(-1, keepdim=True, correction=0)
    return w * (x - x.mean(-1, keepdim=True)) / (deviation.square() + EPS).sqrt() + b


def einsum_variance(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = torch.einsum("...d,...d->...", centred, centred)[..., None] / x.shape[-1]
    return centred * torch.rsqrt(variance + EPS) * w + b


def weight_over_deviation(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    deviation = (x.var(-1, keepdim=True, correction=0) + EPS).sqrt()
    return (x - x.mean(-1, keepdim=True)) * (w / deviation) + b


def added_product(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    scale = torch.rsqrt(x.var(-1, keepdim=True, correction=0) + EPS)
    return torch.addcmul(-x.mean(-1, keepdim=True) * scale, x, scale) * w + b


def added_quotient(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    deviation = (x.var(-1, keepdim=True, correction=0) + EPS).sqrt()
    return torch.addcdiv(b, (x - x.mean(-1, keepdim=True)) * w, deviation)


SPELLINGS = [
    fused, written_out, centred_twice, two_moments, var, var_mean, sum_over_size, weight_folded, scale_and_shift,
    addition_of_negative, group_norm, centring_matrix, rms_of_centred, unaffine_then_affine, standard_deviation,
    einsum_variance, weight_over_deviation, added_product, added_quotient,
]  # fmt: skip
