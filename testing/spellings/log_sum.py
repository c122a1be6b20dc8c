"""Spellings of a logarithm of a sum of exponentials over tokens, beside the tokens themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from testing.spellings.common import Activated as host  # noqa: F401


def named(s: Tensor) -> Tensor:
    return s + s.logsumexp(1, keepdim=True)


def written(s: Tensor) -> Tensor:
    return s + s.exp().sum(1, keepdim=True).log()


def new_axis_between(s: Tensor) -> Tensor:
    return s + s.exp().sum(1)[:, None].log()


def shifted(s: Tensor) -> Tensor:
    most = s.amax(1, keepdim=True)
    return s + (most + (s - most).exp().sum(1, keepdim=True).log())


def shifted_by_detached(s: Tensor) -> Tensor:
    most = s.detach().amax(1, keepdim=True)
    return s + (s - most).exp().sum(1, keepdim=True).log() + most


def last_of_running(s: Tensor) -> Tensor:
    return s + torch.logcumsumexp(s, 1)[:, -1:]


def last_of_running_written(s: Tensor) -> Tensor:
    return s + s.exp().cumsum(1).log()[:, -1:]


def token_by_token(s: Tensor) -> Tensor:
    total = s[:, :1]
    for t in range(1, s.shape[1]):
        total = torch.logaddexp(total, s[:, t : t + 1])
    return s + total


SPELLINGS = [
    named, written, new_axis_between, shifted, shifted_by_detached, last_of_running, last_of_running_written,
    token_by_token,
]  # fmt: skip
