"""Spellings of a gate times attention: a chain of three factors, however much of it one kernel computes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import GatedAttention as host  # noqa: F401


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)


def fused(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return u * F.scaled_dot_product_attention(q, k, v)


def fused_first(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v) * u


def written_out(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return u * (_weights(q, k) @ v)


def gated_weights(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhqd,bhqk,bhkd->bhqd", u, _weights(q, k), v)


def in_bmm(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(_weights(q, k).flatten(0, 1), v.flatten(0, 1)).view_as(u).mul(u)


def fused_scaled_outside(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return u * F.scaled_dot_product_attention(q / math.sqrt(q.shape[-1]), k, v, scale=1.0)


def fused_gated_behind_moves(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (F.scaled_dot_product_attention(q, k, v).transpose(1, 2) * u.transpose(1, 2)).transpose(1, 2)


def head_by_head(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = [F.scaled_dot_product_attention(q[:, h], k[:, h], v[:, h]) for h in range(q.shape[1])]
    return torch.stack(heads, 1) * u


def divided_behind(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = (q @ k.mT / math.sqrt(q.shape[-1])).exp()
    return u * ((e @ v) / e.sum(-1, keepdim=True))


def gate_in_two_halves(u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (0.5 * u) * (F.scaled_dot_product_attention(q, k, v) * 2.0)


SPELLINGS = [
    fused, fused_first, fused_scaled_outside, fused_gated_behind_moves, gate_in_two_halves, head_by_head, written_out,
    gated_weights, in_bmm, divided_behind,
]  # fmt: skip
