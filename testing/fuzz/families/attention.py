"""Attention, fused and written out, of one value or two."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, H, Weights, causal, heads, merged

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("attention", "attention_written_out", "attention_by_einsum"),
    ("causal_attention", "causal_attention_written_out"),
    ("attention_of_heads", "attention_of_heads_written_out", "attention_of_folded_heads"),
)


def attention(w: Weights, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(w.first(x), w.second(x), w.third(x))


def attention_written_out(w: Weights, x: Tensor) -> Tensor:
    return (w.first(x) @ w.second(x).mT / math.sqrt(D)).softmax(-1) @ w.third(x)


def attention_by_einsum(w: Weights, x: Tensor) -> Tensor:
    a = torch.einsum("bqd,bkd->bqk", w.first(x) * D**-0.5, w.second(x)).softmax(-1)
    return torch.einsum("bqk,bkd->bqd", a, w.third(x))


def attention_of_itself(w: Weights, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


def causal_attention(w: Weights, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(w.first(x), w.second(x), x, is_causal=True)


def causal_attention_written_out(w: Weights, x: Tensor) -> Tensor:
    scores = w.first(x) @ w.second(x).mT / math.sqrt(D)
    return scores.masked_fill(~causal(x), -torch.inf).softmax(-1) @ x


def attention_of_heads(w: Weights, x: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(heads(w.first(x)), heads(w.second(x)), heads(x)))


def attention_of_heads_written_out(w: Weights, x: Tensor) -> Tensor:
    q, k, v = heads(w.first(x)), heads(w.second(x)), heads(x)
    return merged((q @ k.transpose(2, 3) * (D // H) ** -0.5).softmax(-1) @ v)


def attention_of_folded_heads(w: Weights, x: Tensor) -> Tensor:
    q, k, v = (heads(z).flatten(0, 1) for z in (w.first(x), w.second(x), x))
    return merged(torch.bmm(torch.softmax(torch.bmm(q, k.mT) / math.sqrt(D // H), -1), v).unflatten(0, (-1, H)))


def grouped_attention(w: Weights, x: Tensor) -> Tensor:
    k, v = (z[..., : D // H].unsqueeze(1) for z in (w.second(x), w.third(x)))
    return merged(F.scaled_dot_product_attention(heads(w.first(x)), k, v, enable_gqa=True))


def attention_to_other(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(w.first(x), w.second(y), y)


def attention_with_slopes(w: Weights, x: Tensor) -> Tensor:
    n = torch.arange(x.shape[1], dtype=x.dtype)
    return F.scaled_dot_product_attention(w.first(x), w.second(x), x, -0.3 * (n[:, None] - n).abs())


def attention_with_learned_bias(w: Weights, x: Tensor) -> Tensor:
    bias = w.places[: x.shape[1], : x.shape[1]]
    return (w.first(x) @ x.mT / 3 + bias).softmax(-1) @ w.third(x)


def attention_of_windows(w: Weights, x: Tensor) -> Tensor:
    n = torch.arange(x.shape[1])
    return F.scaled_dot_product_attention(w.first(x), w.second(x), x, (n[:, None] - n).abs() < 2)


def attention_by_sigmoid(w: Weights, x: Tensor) -> Tensor:
    return torch.sigmoid(w.first(x) @ w.second(x).mT) @ x / 3


def attention_by_relu(w: Weights, x: Tensor) -> Tensor:
    return F.relu(w.first(x) @ w.second(x).mT) @ x / 5


def linear_attention(w: Weights, x: Tensor) -> Tensor:
    q, k = F.elu(w.first(x)) + 1, F.elu(w.second(x)) + 1
    return q @ (k.mT @ x) / (q @ k.sum(1).unsqueeze(-1))


def mixed_heads(w: Weights, x: Tensor) -> Tensor:
    a = (heads(w.first(x)) @ heads(w.second(x)).mT / 2).softmax(-1)
    return merged(torch.einsum("bhqk,hg->bgqk", a, w.experts[0, :H, :H]) @ heads(x))


def attention_of_capped_scores(w: Weights, x: Tensor) -> Tensor:
    return (3 * torch.tanh(w.first(x) @ w.second(x).mT / 9)).softmax(-1) @ x


def attention_over_features(w: Weights, x: Tensor) -> Tensor:
    return ((w.first(x).mT @ w.second(x) / 2).softmax(-1) @ x.mT).mT


def attention_by_distance(w: Weights, x: Tensor) -> Tensor:
    return (-torch.cdist(w.first(x), w.second(x) + 3)).softmax(-1) @ x


def pooled_by_query(w: Weights, x: Tensor) -> Tensor:
    return x + (x @ w.token.mT / 3).softmax(1).mT @ x
