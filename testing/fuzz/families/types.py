"""Other types on the way, and numbers made of truth values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Not in double precision.
NARROW = ("in_single_precision", "in_single_precision_throughout")


def by_signs(w: Weights, x: Tensor) -> Tensor:
    return x * (x > 0).to(x.dtype)


def by_signs_of_other(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x * (y > 0.1)


def by_sign(w: Weights, x: Tensor) -> Tensor:
    return w.first(x) * x.sign()


def in_single_precision(w: Weights, x: Tensor) -> Tensor:
    return w.second(x).float().mul(2.0).to(x.dtype)


def in_single_precision_throughout(w: Weights, x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), (D,)).double()


def counted(w: Weights, x: Tensor) -> Tensor:
    return x / (x > 0).sum(-1, keepdim=True).clamp(min=1)


def by_rank(w: Weights, x: Tensor) -> Tensor:
    return x * x.argsort(-1).argsort(-1) / D


def same_type(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x.type_as(y) + y.to(x)


def with_constant(w: Weights, x: Tensor) -> Tensor:
    return x + torch.linspace(-1, 1, D, dtype=torch.float64)


def of_whole_numbers(w: Weights, x: Tensor) -> Tensor:
    return x * torch.arange(x.shape[1])[:, None] / 3
