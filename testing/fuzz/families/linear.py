"""Learned maps in the spellings of the field."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    (
        "linear",
        "linear_as_product",
        "linear_in_halves",
        "linear_by_einsum",
        "linear_of_flat_rows",
        "linear_transposed",
        "linear_of_parts",
    ),
    ("residual", "residual_after"),
)


def linear(w: Weights, x: Tensor) -> Tensor:
    return w.first(x)


def linear_as_product(w: Weights, x: Tensor) -> Tensor:
    return x @ w.first.weight.mT + w.first.bias


def linear_in_halves(w: Weights, x: Tensor) -> Tensor:
    a, b = w.first.weight.chunk(2)
    return torch.cat([F.linear(x, a), F.linear(x, b)], -1) + w.first.bias


def linear_by_einsum(w: Weights, x: Tensor) -> Tensor:
    return torch.einsum("btd,ed->bte", x, w.first.weight) + w.first.bias


def linear_of_flat_rows(w: Weights, x: Tensor) -> Tensor:
    return torch.addmm(w.first.bias, x.flatten(0, 1), w.first.weight.mT).unflatten(0, x.shape[:2])


def linear_transposed(w: Weights, x: Tensor) -> Tensor:
    return (w.first.weight @ x.mT).mT + w.first.bias


def linear_of_parts(w: Weights, x: Tensor) -> Tensor:
    return F.linear(x[..., :3], w.first.weight[:, :3]) + F.linear(x[..., 3:], w.first.weight[:, 3:], w.first.bias)


def residual(w: Weights, x: Tensor) -> Tensor:
    return x + w.first(x)


def residual_after(w: Weights, x: Tensor) -> Tensor:
    return w.first(x) + x


def no_bias(w: Weights, x: Tensor) -> Tensor:
    return w.second(x)


def two_maps(w: Weights, x: Tensor) -> Tensor:
    return w.third(w.second(x)) / 2


def scaled(w: Weights, x: Tensor) -> Tensor:
    return x * w.scale


def shifted(w: Weights, x: Tensor) -> Tensor:
    return x + w.bias


def scaled_and_shifted(w: Weights, x: Tensor) -> Tensor:
    return torch.addcmul(w.bias, x, w.scale)


def batched_map(w: Weights, x: Tensor) -> Tensor:
    return torch.bmm(x, w.second.weight.expand(x.shape[0], -1, -1))


def batched_map_with_bias(w: Weights, x: Tensor) -> Tensor:
    return torch.baddbmm(w.bias.expand_as(x), x, w.experts[:1].expand(x.shape[0], -1, -1))


def map_of_tokens(w: Weights, x: Tensor) -> Tensor:
    return torch.tensordot(x, w.places[: x.shape[1], : x.shape[1]], dims=([1], [0])).mT


def low_rank(w: Weights, x: Tensor) -> Tensor:
    return x + w.second(x)[..., :2] @ w.experts[0, :2] / 2


def standardised(w: Weights, x: Tensor) -> Tensor:
    return (x - w.mean) / w.variance.sqrt()


def bilinear_with_constant(w: Weights, x: Tensor) -> Tensor:
    return F.bilinear(x, w.token.expand_as(x).contiguous(), w.kernel.new_ones(D, D, D) * w.experts[0] / 9)


def vector_product(w: Weights, x: Tensor) -> Tensor:
    return x * torch.sigmoid((x @ w.bias)[..., None])
