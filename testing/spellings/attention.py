"""Spellings of causal attention ``softmax(q k^T / sqrt(d) + mask) v`` on (B, H, T, d)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Attending as host  # noqa: F401


def _causal(q: Tensor) -> Tensor:
    n = torch.arange(q.shape[-2])
    return n[:, None] >= n


def _additive(q: Tensor) -> Tensor:
    return torch.zeros(q.shape[-2], q.shape[-2], dtype=q.dtype).masked_fill(~_causal(q), float("-inf"))


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(~_causal(q), float("-inf")), -1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def fused_boolean_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, _causal(q))


def fused_additive_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, _additive(q))


def fused_scaled_outside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q / math.sqrt(q.shape[-1]), k, v, is_causal=True, scale=1.0)


def multiplied_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    return torch.matmul(F.softmax(scores + _additive(q), dim=-1), v)


def scaled_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores + _additive(q)).softmax(-1) @ v


def scaled_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ (k / math.sqrt(q.shape[-1])).transpose(-1, -2)
    return torch.where(_causal(q), scores, float("-inf")).softmax(-1) @ v


def lowest_number(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.where(_causal(q), scores, torch.full_like(scores, torch.finfo(q.dtype).min)).softmax(-1) @ v


def lowest_number_added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = (1.0 - _causal(q).to(q.dtype)) * torch.finfo(q.dtype).min
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(-1) @ v


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhij,bhjd->bhid", scores.masked_fill(~_causal(q), float("-inf")).softmax(-1), v)


def merged_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.bmm(flat_q, flat_k.transpose(1, 2)) / math.sqrt(q.shape[-1])
    return torch.bmm((scores + _additive(q)).softmax(-1), flat_v).unflatten(0, q.shape[:2])


def added_by_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
    mask = _additive(q).expand(flat_q.shape[0], -1, -1)
    weights = torch.baddbmm(mask, flat_q, flat_k.transpose(1, 2), beta=1.0, alpha=q.shape[-1] ** -0.5).softmax(-1)
    return torch.bmm(weights, flat_v).unflatten(0, q.shape[:2])


def loop_over_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h].transpose(-1, -2) / math.sqrt(q.shape[-1])
        heads.append(scores.masked_fill(~_causal(q), float("-inf")).softmax(-1) @ v[:, h])
    return torch.stack(heads, 1)


def decomposed_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~_causal(q), float("-inf"))
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True) @ v


def transposed_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (k @ q.transpose(-1, -2) / math.sqrt(q.shape[-1])).transpose(-1, -2)
    return scores.masked_fill(~_causal(q), float("-inf")).softmax(-1) @ v


def product_and_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) / math.sqrt(q.shape[-1])
    return (scores.masked_fill(~_causal(q), float("-inf")).softmax(-1).unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)


def _exponentials(q: Tensor, k: Tensor) -> Tensor:
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~_causal(q), float("-inf"))
    return torch.exp(scores - scores.amax(-1, keepdim=True))


def divided_at_last(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = _exponentials(q, k)
    return (weights @ v) / weights.sum(-1, keepdim=True)


def divided_behind_moves(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = _exponentials(q, k)
    mixed = torch.einsum("bhij,bhjd->bihd", weights, v)
    return (mixed * (1.0 / weights.sum(-1).transpose(1, 2).unsqueeze(-1))).transpose(1, 2)


def divided_at_last_by_ones(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = _exponentials(q, k)
    return (weights @ v) / (weights @ torch.ones(k.shape[-2], 1, dtype=q.dtype))


def keys_in_front(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = _exponentials(q, k).transpose(-1, -2)
    return ((v.transpose(-1, -2) @ weights) / weights.sum(-2, keepdim=True)).transpose(-1, -2)


def sums_divided_at_last(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = _exponentials(q, k)
    return (weights.unsqueeze(-1) * v.unsqueeze(-3)).sum(-2) / weights.sum(-1, keepdim=True)


SPELLINGS = [
    written_out, fused, fused_boolean_mask, fused_additive_mask, fused_scaled_outside, multiplied_scale,
    scaled_query, scaled_key, lowest_number, lowest_number_added, einsum, merged_heads, added_by_kernel,
    loop_over_heads, decomposed_softmax, transposed_scores, product_and_sum,
    divided_at_last, divided_behind_moves, divided_at_last_by_ones, keys_in_front, sums_divided_at_last,
]  # fmt: skip
