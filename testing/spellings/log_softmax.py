"""Spellings of the log-softmax over the last axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Activated as host  # noqa: F401


def fused(s: Tensor) -> Tensor:
    return F.log_softmax(s, -1)


def method(s: Tensor) -> Tensor:
    return s.log_softmax(dim=s.dim() - 1)


def module(s: Tensor) -> Tensor:
    return torch.nn.LogSoftmax(-1)(s)


def moved_axis(s: Tensor) -> Tensor:
    return s.permute(2, 0, 1).log_softmax(0).permute(1, 2, 0)


def less_logsumexp(s: Tensor) -> Tensor:
    return s - torch.logsumexp(s, -1, keepdim=True)


def less_logsumexp_unsqueezed(s: Tensor) -> Tensor:
    return s - torch.logsumexp(s, -1)[..., None]


def less_logsumexp_expanded(s: Tensor) -> Tensor:
    return s - torch.logsumexp(s, -1, keepdim=True).expand_as(s)


def less_log_of_sum(s: Tensor) -> Tensor:
    return s - torch.log(torch.exp(s).sum(-1, keepdim=True))


def shifted_by_maximum(s: Tensor) -> Tensor:
    z = s - s.amax(-1, keepdim=True)
    return z - z.exp().sum(-1, keepdim=True).log()


def shifted_by_detached(s: Tensor) -> Tensor:
    z = s - s.detach().amax(-1, keepdim=True)
    return z - torch.logsumexp(z, -1, keepdim=True)


SPELLINGS = [
    fused, method, module, moved_axis, less_logsumexp, less_logsumexp_unsqueezed, less_logsumexp_expanded,
    less_log_of_sum, shifted_by_maximum, shifted_by_detached,
]  # fmt: skip
