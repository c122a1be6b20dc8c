"""Normalisations, as functions and written out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("layer_norm", "layer_norm_written_out", "layer_norm_by_var"),
    ("rms_norm", "rms_norm_written_out", "rms_norm_divided"),
    ("normalised", "normalised_written_out", "normalised_by_vector_norm"),
)


def layer_norm(w: Weights, x: Tensor) -> Tensor:
    return F.layer_norm(x, (D,), w.scale, w.bias)


def layer_norm_written_out(w: Weights, x: Tensor) -> Tensor:
    c = x - x.mean(-1, keepdim=True)
    return c * torch.rsqrt(c.square().mean(-1, keepdim=True) + 1e-5) * w.scale + w.bias


def layer_norm_by_var(w: Weights, x: Tensor) -> Tensor:
    v, m = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - m) / (v + 1e-5).sqrt() * w.scale + w.bias


def layer_norm_plain(w: Weights, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def rms_norm(w: Weights, x: Tensor) -> Tensor:
    return F.rms_norm(x, (D,), w.scale, 1e-6)


def rms_norm_written_out(w: Weights, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w.scale


def rms_norm_divided(w: Weights, x: Tensor) -> Tensor:
    return w.scale * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6))


def group_norm(w: Weights, x: Tensor) -> Tensor:
    return F.group_norm(x.mT, 2, w.scale, w.bias).mT


def group_norm_of_copy(w: Weights, x: Tensor) -> Tensor:
    return F.group_norm(x.mT.contiguous(), 4).mT


def instance_norm(w: Weights, x: Tensor) -> Tensor:
    return F.instance_norm(x.mT, weight=w.scale, bias=w.bias).mT


def batch_norm(w: Weights, x: Tensor) -> Tensor:
    return F.batch_norm(x.mT, w.mean, w.variance, w.scale, w.bias).mT


def normalised(w: Weights, x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def normalised_written_out(w: Weights, x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def normalised_by_vector_norm(w: Weights, x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)


def normalised_over_tokens(w: Weights, x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


def divided_by_absolutes(w: Weights, x: Tensor) -> Tensor:
    return x / (x.abs().sum(-1, keepdim=True) + 0.1)


def divided_by_deviation(w: Weights, x: Tensor) -> Tensor:
    return x / (x.std(-1, keepdim=True) + 0.1)


def divided_by_maximum(w: Weights, x: Tensor) -> Tensor:
    return x / (x.abs().amax(-1, keepdim=True) + 0.1)


def whitened_over_tokens(w: Weights, x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 0.1).sqrt()


def local_response(w: Weights, x: Tensor) -> Tensor:
    return F.local_response_norm(x.mT, 3, alpha=0.5).mT
