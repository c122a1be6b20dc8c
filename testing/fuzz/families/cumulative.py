"""Cumulative operators and recurrences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (("cumulative_sum", "cumulative_sum_as_product"),)


def cumulative_sum(w: Weights, x: Tensor) -> Tensor:
    return x.cumsum(1)


def cumulative_sum_as_product(w: Weights, x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril() @ x


def cumulative_sum_backwards(w: Weights, x: Tensor) -> Tensor:
    return x.flip(1).cumsum(1).flip(1)


def cumulative_mean(w: Weights, x: Tensor) -> Tensor:
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]


def cumulative_product(w: Weights, x: Tensor) -> Tensor:
    return x.tanh().cumprod(-1)


def cumulative_maximum(w: Weights, x: Tensor) -> Tensor:
    return x.cummax(1).values


def cumulative_minimum(w: Weights, x: Tensor) -> Tensor:
    return x.cummin(-1).values


def cumulative_logsumexp(w: Weights, x: Tensor) -> Tensor:
    return x.logcumsumexp(1)


def average_by_steps(w: Weights, x: Tensor) -> Tensor:
    rows, s = [], torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        s = 0.8 * s + 0.2 * x[:, t]
        rows.append(s)
    return torch.stack(rows, 1)


def recurrence(w: Weights, x: Tensor) -> Tensor:
    rows, s = [], torch.zeros_like(x[:, 0])
    for row in x.unbind(1):
        s = torch.tanh(w.first(s) + w.second(row))
        rows.append(s)
    return torch.stack(rows, 1)


def gated_recurrence(w: Weights, x: Tensor) -> Tensor:
    rows, s = [], x[:, 0]
    for row in x.unbind(1):
        z = torch.sigmoid(w.first(row))
        s = z * s + (1 - z) * w.second(row)
        rows.append(s)
    return torch.stack(rows, 1)


def selective_scan(w: Weights, x: Tensor) -> Tensor:
    step, b, c = F.softplus(w.first(x)), w.second(x)[..., :4], w.third(x)[..., :4]
    rows, s = [], torch.zeros_like(x[:, 0, :, None] * b[:, 0, None])
    for t in range(x.shape[1]):
        s = torch.exp(-step[:, t, :, None]) * s + (step * x)[:, t, :, None] * b[:, t, None]
        rows.append((s * c[:, t, None]).sum(-1))
    return torch.stack(rows, 1)


def decayed_sums(w: Weights, x: Tensor) -> Tensor:
    a = F.logsigmoid(w.first(x)[..., :1]).cumsum(1)
    return torch.exp(a - a.mT).tril() @ x


def delta_rule(w: Weights, x: Tensor) -> Tensor:
    k, v = F.normalize(w.first(x), dim=-1), w.second(x)
    rows, s = [], x.new_zeros(x.shape[0], D, D)
    for t in range(x.shape[1]):
        s = s + k[:, t, :, None] * (v[:, t] - (k[:, t, None] @ s)[:, 0])[:, None]
        rows.append((x[:, t, None] @ s)[:, 0])
    return torch.stack(rows, 1)


def gru_cell(w: Weights, x: Tensor) -> Tensor:
    rows, s = [], x[:, 0]
    for row in x.unbind(1):
        s = torch.gru_cell(row, s, w.experts.view(-1, D)[: 3 * D], w.experts.view(-1, D)[D:])
        rows.append(s)
    return torch.stack(rows, 1)
