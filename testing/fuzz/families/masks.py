"""What a mask of the text says."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights, causal

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("mask_multiplied", "mask_filled", "mask_chosen"),
    ("attention_to_kept", "attention_to_kept_by_bias"),
)


def mask_multiplied(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return x * mask[..., None]


def mask_filled(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(mask[..., None] == 0, 0.0)


def mask_chosen(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None].bool(), x, torch.zeros_like(x))


def mean_of_kept(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return x + (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]


def attention_to_kept(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(w.first(x), w.second(x), x, mask[:, None].bool())


def attention_to_kept_by_bias(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    bias = (1.0 - mask[:, None].to(x.dtype)) * torch.finfo(x.dtype).min
    return (w.first(x) @ w.second(x).mT / math.sqrt(D) + bias).softmax(-1) @ x


def causal_attention_to_kept(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    allowed = causal(x) & mask[:, None].bool()
    scores = (w.first(x) @ x.mT / 3).masked_fill(~allowed, torch.finfo(x.dtype).min)
    return scores.softmax(-1) @ w.third(x)


def softmax_of_kept(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return x + x.masked_fill(mask[..., None] == 0, -1e9).softmax(1)


def maximum_of_kept(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return x + x.masked_fill(mask[..., None] == 0, -9.0).amax(1, keepdim=True)


def places_by_mask(w: Weights, x: Tensor, mask: Tensor) -> Tensor:
    return x + w.places[(mask.cumsum(1) - 1).clamp(min=0)]
