"""Where a token stands: tables, waves, rotations, tokens of the model's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (("table_added", "table_looked_up", "table_of_batch"),)


def table_added(w: Weights, x: Tensor) -> Tensor:
    return x + w.places[: x.shape[1]]


def table_looked_up(w: Weights, x: Tensor) -> Tensor:
    return x + F.embedding(torch.arange(x.shape[1]), w.places)


def table_of_batch(w: Weights, x: Tensor) -> Tensor:
    return x + w.places[torch.arange(x.shape[1]).expand(x.shape[:2])]


def waves_added(w: Weights, x: Tensor) -> Tensor:
    n = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.logspace(0, -2, D // 2, dtype=x.dtype)
    return x + torch.cat([n.sin(), n.cos()], -1)


def multiplied_by_table(w: Weights, x: Tensor) -> Tensor:
    return x * w.places[: x.shape[1]]


def rotated_by_place(w: Weights, x: Tensor) -> Tensor:
    n = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.logspace(0, -2, D // 2, dtype=x.dtype)
    c, s, (a, b) = n.cos(), n.sin(), x.chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def rotary_attention(w: Weights, x: Tensor) -> Tensor:
    q, k = rotated_by_place(w, w.first(x)), rotated_by_place(w, w.second(x))
    return F.scaled_dot_product_attention(q, k, x)


def token_in_front(w: Weights, x: Tensor) -> Tensor:
    return torch.cat([w.token.expand(x.shape[0], -1, -1), x], 1)[:, :-1]


def token_attended(w: Weights, x: Tensor) -> Tensor:
    rows = torch.cat([w.token.expand(x.shape[0], -1, -1), x], 1)
    return F.scaled_dot_product_attention(w.first(x), rows, rows)


def decayed_by_place(w: Weights, x: Tensor) -> Tensor:
    return x * 0.9 ** torch.arange(x.shape[1], dtype=x.dtype)[:, None]
