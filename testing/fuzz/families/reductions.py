"""Statistics that are given back to every element."""

from __future__ import annotations

import torch
from torch import Tensor

from testing.fuzz.weights import Weights


def less_mean(w: Weights, x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def less_mean_of_features(w: Weights, x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def less_maximum(w: Weights, x: Tensor) -> Tensor:
    return x - x.amax(-1, keepdim=True)


def plus_minimum(w: Weights, x: Tensor) -> Tensor:
    return x + x.min(1, keepdim=True).values


def plus_both_ends(w: Weights, x: Tensor) -> Tensor:
    return x + sum(x.aminmax(dim=-1, keepdim=True))


def plus_norm(w: Weights, x: Tensor) -> Tensor:
    return x + x.norm(dim=-1, keepdim=True)


def plus_product(w: Weights, x: Tensor) -> Tensor:
    return x + x[..., :3].tanh().prod(-1, keepdim=True)


def plus_deviation(w: Weights, x: Tensor) -> Tensor:
    return x + x.std(1, keepdim=True)


def plus_variance(w: Weights, x: Tensor) -> Tensor:
    return x - x.var(-1, keepdim=True)


def plus_median(w: Weights, x: Tensor) -> Tensor:
    return x + x.median(-1, keepdim=True).values


def plus_kth(w: Weights, x: Tensor) -> Tensor:
    return x - x.kthvalue(3, -1, keepdim=True).values


def plus_quantile(w: Weights, x: Tensor) -> Tensor:
    return x + x.quantile(0.3, -1, keepdim=True)


def plus_sum(w: Weights, x: Tensor) -> Tensor:
    return x + x.sum((1, 2), keepdim=True) / 9


def plus_first(w: Weights, x: Tensor) -> Tensor:
    return x + w.first(x[:, 0]).unsqueeze(1)


def squeezed_excited(w: Weights, x: Tensor) -> Tensor:
    return x * torch.sigmoid(w.first(x.mean(1)))[:, None]


def plus_best(w: Weights, x: Tensor) -> Tensor:
    return x + x.topk(2, 1).values.mean(1, keepdim=True)


def plus_nan_mean(w: Weights, x: Tensor) -> Tensor:
    return x + x.nanmean(-1, keepdim=True)


def plus_p_norm(w: Weights, x: Tensor) -> Tensor:
    return x + x.norm(p=3, dim=-1, keepdim=True)


def sorted_features(w: Weights, x: Tensor) -> Tensor:
    return x.sort(-1).values


def sorted_tokens(w: Weights, x: Tensor) -> Tensor:
    return x.sort(1, descending=True).values
