"""Writes into values, views and parts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights


def multiplied_in_place(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    y.mul_(2.0).add_(1.0)
    return y


def written_into_part(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:] += w.first(x[:, :-1])
    return y


def written_through_view(w: Weights, x: Tensor) -> Tensor:
    y = x.clone(memory_format=torch.contiguous_format)
    y.view(-1, D)[:, :3].mul_(0.5)
    return y


def view_read_after_write(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    half = y[..., :4]
    y.add_(w.bias)
    return torch.cat([half, half * 2], -1)


def filled_by_mask(w: Weights, x: Tensor) -> Tensor:
    y = w.first(x)
    y.masked_fill_(y < 0, 0.0)
    return y


def filled_in_new(w: Weights, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        y[:, t] = w.first(x[:, -1 - t])
    return y


def written_by_index(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, [0, 2]] = w.second(x)[:, [1, 3]]
    return y


def added_by_index(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    y.index_add_(1, torch.tensor([0, 0, 1]), w.second(x)[:, :3])
    return y


def activated_in_place(w: Weights, x: Tensor) -> Tensor:
    return F.relu(w.first(x), inplace=True)


def residual_in_place(w: Weights, x: Tensor) -> Tensor:
    y = w.first(x)
    y += x
    return y


def zeroed_columns(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    y[..., ::3] = 0
    return y


def copied(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:, :2].copy_(x[:, :2])
    out[:, 2:].copy_(y[:, 2:])
    return out


def divided_in_place(w: Weights, x: Tensor) -> Tensor:
    y = x.exp() * 1.5
    y /= y.sum(-1, keepdim=True)
    return y


def swapped_in_place(w: Weights, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0], y[:, 1] = x[:, 1], x[:, 0] * 2
    return y
