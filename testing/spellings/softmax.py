"""Spellings of the softmax over the last axis."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Softmaxed as host  # noqa: F401


def fused(s: Tensor) -> Tensor:
    return F.softmax(s, -1)


def method(s: Tensor) -> Tensor:
    return s.softmax(dim=s.dim() - 1)


def in_float32_style(s: Tensor) -> Tensor:
    return F.softmax(s, dim=-1, dtype=torch.float64).to(s.dtype)


def over_own_sum(s: Tensor) -> Tensor:
    e = torch.exp(s)
    return e / e.sum(-1, keepdim=True)


def shifted_by_maximum(s: Tensor) -> Tensor:
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def shifted_by_max_values(s: Tensor) -> Tensor:
    e = (s - s.max(-1, keepdim=True).values).exp()
    return e / torch.sum(e, -1, keepdim=True)


def shifted_twice(s: Tensor) -> Tensor:
    s = s - s.mean(-1, keepdim=True)
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def shifted_by_detached(s: Tensor) -> Tensor:
    e = torch.exp(s - s.detach().amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def times_reciprocal(s: Tensor) -> Tensor:
    e = torch.exp(s)
    return e * e.sum(-1, keepdim=True).reciprocal()


def one_over_sum(s: Tensor) -> Tensor:
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return e * (1.0 / e.sum(-1, keepdim=True))


def sum_without_keepdim(s: Tensor) -> Tensor:
    e = torch.exp(s)
    return e / e.sum(-1).unsqueeze(-1)


def less_logsumexp(s: Tensor) -> Tensor:
    return torch.exp(s - torch.logsumexp(s, -1, keepdim=True))


def less_logsumexp_unsqueezed(s: Tensor) -> Tensor:
    return torch.exp(s - torch.logsumexp(s, -1)[..., None])


def less_log_of_sum(s: Tensor) -> Tensor:
    return torch.exp(s - torch.log(torch.exp(s).sum(-1, keepdim=True)))


def exp_of_log_softmax(s: Tensor) -> Tensor:
    return F.log_softmax(s, -1).exp()


def other_axis(s: Tensor) -> Tensor:
    return s.transpose(-1, -2).softmax(-2).transpose(-1, -2)


def moved_axis(s: Tensor) -> Tensor:
    return s.permute(3, 0, 1, 2).softmax(0).permute(1, 2, 3, 0)


def softmin(s: Tensor) -> Tensor:
    return F.softmin(-s, -1)


def power_of_two(s: Tensor) -> Tensor:
    e = torch.exp2(s * 1.4426950408889634)
    return e / e.sum(-1, keepdim=True)


def power_of_e(s: Tensor) -> Tensor:
    e = torch.pow(math.e, s)
    return e / e.sum(-1, keepdim=True)


def over_own_norm(s: Tensor) -> Tensor:
    e = torch.exp(s)
    return e / torch.linalg.vector_norm(e, 1, -1, keepdim=True)


def normalised(s: Tensor) -> Tensor:
    return F.normalize(s.exp(), p=1, dim=-1)


def exponentials_moved(s: Tensor) -> Tensor:
    e = torch.exp(s).transpose(-1, -2)
    return (e / e.sum(-2, keepdim=True)).transpose(-1, -2)


def over_its_sum_again(s: Tensor) -> Tensor:
    w = torch.softmax(s, -1)
    return w / w.sum(-1, keepdim=True)


def less_than_1_over_its_sum(s: Tensor) -> Tensor:
    w = torch.softmax(s, -1)
    return (w.sum(-1, keepdim=True) + 1e-12).reciprocal() * w


def kept_a_number(s: Tensor) -> Tensor:
    return torch.nan_to_num(torch.softmax(s, -1))


def kept_between_bounds(s: Tensor) -> Tensor:
    return torch.softmax(s, -1).transpose(-1, -2).clamp(0, 1).transpose(-1, -2).relu()


SPELLINGS = [
    fused, method, in_float32_style, over_own_sum, shifted_by_maximum, shifted_by_max_values, shifted_twice,
    shifted_by_detached, times_reciprocal, one_over_sum, sum_without_keepdim, less_logsumexp,
    less_logsumexp_unsqueezed, less_log_of_sum, exp_of_log_softmax, other_axis, moved_axis, softmin, power_of_two,
    power_of_e, over_own_norm, normalised, exponentials_moved, over_its_sum_again, less_than_1_over_its_sum,
    kept_a_number, kept_between_bounds,
]  # fmt: skip
