"""What the model's code detaches: the same function, another gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from testing.fuzz.weights import Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("gated_by_detached", "gated_without_gradients", "gated_by_data"),
    ("normed_by_detached", "normed_without_gradients"),
)


def gated_by_detached(w: Weights, x: Tensor) -> Tensor:
    return x * w.first(x).sigmoid().detach()


def gated_without_gradients(w: Weights, x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = w.first(x).sigmoid()
    return x * gate


def gated_by_data(w: Weights, x: Tensor) -> Tensor:
    return x * w.first(x).sigmoid().data


def normed_by_detached(w: Weights, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True).detach()
    return centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt().detach()


def normed_without_gradients(w: Weights, x: Tensor) -> Tensor:
    with torch.no_grad():
        mean = x.mean(-1, keepdim=True)
        norm = ((x - mean).square().mean(-1, keepdim=True) + 0.1).sqrt()
    return (x - mean) / norm


def half_detached(w: Weights, x: Tensor) -> Tensor:
    return torch.cat([x[..., :4].detach(), w.first(x)[..., 4:]], -1)


def past_without_gradients(w: Weights, x: Tensor) -> Tensor:
    """A memory that gradients do not pass."""
    rows, s = [], torch.zeros_like(x[:, 0])
    for row in x.unbind(1):
        s = row + w.first(s.detach()).tanh()
        rows.append(s)
    return torch.stack(rows, 1)
