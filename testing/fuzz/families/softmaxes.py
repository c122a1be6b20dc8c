"""Softmaxes and their kin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("softmax", "softmax_written_out", "softmax_by_logsumexp", "softmax_of_log"),
    ("log_softmax", "log_softmax_by_logsumexp"),
    ("averaged_by_exponentials", "averaged_and_divided"),
)


def softmax(w: Weights, x: Tensor) -> Tensor:
    return x.softmax(-1)


def softmax_over_tokens(w: Weights, x: Tensor) -> Tensor:
    return x.softmax(1)


def softmax_written_out(w: Weights, x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def softmax_by_logsumexp(w: Weights, x: Tensor) -> Tensor:
    return torch.exp(x - x.logsumexp(-1, keepdim=True))


def softmax_of_log(w: Weights, x: Tensor) -> Tensor:
    return F.log_softmax(x, -1).exp()


def softmin(w: Weights, x: Tensor) -> Tensor:
    return F.softmin(x, -1)


def log_softmax(w: Weights, x: Tensor) -> Tensor:
    return F.log_softmax(x, -1)


def log_softmax_by_logsumexp(w: Weights, x: Tensor) -> Tensor:
    return x - x.logsumexp(-1, keepdim=True)


def softmax_with_temperature(w: Weights, x: Tensor) -> Tensor:
    return (x / 0.7).softmax(-1) * 2


def softmax_of_two_axes(w: Weights, x: Tensor) -> Tensor:
    return x.flatten(1).softmax(-1).view_as(x) * 4


def gated_by_softmax(w: Weights, x: Tensor) -> Tensor:
    return x * w.first(x).softmax(-1)


def entropy(w: Weights, x: Tensor) -> Tensor:
    return x - x.softmax(-1) * F.log_softmax(x, -1)


def logsumexp_added(w: Weights, x: Tensor) -> Tensor:
    return x + x.logsumexp(-1, keepdim=True)


def logsumexp_over_tokens(w: Weights, x: Tensor) -> Tensor:
    return x + x.logsumexp(1, keepdim=True)


def softmax_of_best(w: Weights, x: Tensor) -> Tensor:
    best = x.topk(3, -1)
    return torch.zeros_like(x).scatter(-1, best.indices, best.values.softmax(-1))


def averaged_by_exponentials(w: Weights, x: Tensor) -> Tensor:
    e = torch.exp(w.first(x) @ x.mT / 4)
    return (e / e.sum(-1, keepdim=True)) @ x


def averaged_and_divided(w: Weights, x: Tensor) -> Tensor:
    e = torch.exp(w.first(x) @ x.mT / 4)
    return (e @ x) / e.sum(-1, keepdim=True)
