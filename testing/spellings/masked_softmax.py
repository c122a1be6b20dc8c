"""Spellings of the softmax over the keys that a causal mask leaves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Softmaxed as host  # noqa: F401


def _kept(s: Tensor) -> Tensor:
    return torch.ones(s.shape[-2:], dtype=torch.bool).tril()


def _over_sum(w: Tensor) -> Tensor:
    return w / w.sum(-1, keepdim=True)


def hidden_before(s: Tensor) -> Tensor:
    return s.masked_fill(~_kept(s), -torch.inf).softmax(-1)


def hidden_exponents(s: Tensor) -> Tensor:
    return _over_sum(s.masked_fill(~_kept(s), -torch.inf).exp())


def exponentials_times_mask(s: Tensor) -> Tensor:
    return _over_sum(s.exp() * _kept(s))


def exponentials_times_whole_numbers(s: Tensor) -> Tensor:
    return _over_sum(s.exp() * _kept(s).long())


def exponentials_times_numbers(s: Tensor) -> Tensor:
    return _over_sum(s.exp() * _kept(s).long().to(s.dtype))


def exponentials_filled(s: Tensor) -> Tensor:
    return _over_sum(s.exp().masked_fill(~_kept(s), 0.0))


def exponentials_chosen(s: Tensor) -> Tensor:
    return _over_sum(torch.where(~_kept(s), 0.0, s.exp()))


def lower_triangle_of_exponentials(s: Tensor) -> Tensor:
    return _over_sum(s.exp().tril())


def shifted_exponentials_times_mask(s: Tensor) -> Tensor:
    return _over_sum((s - s.amax(-1, keepdim=True)).exp() * _kept(s))


def normalised_exponentials(s: Tensor) -> Tensor:
    return F.normalize(s.exp() * _kept(s), p=1.0, dim=-1)


def weights_times_mask(s: Tensor) -> Tensor:
    return _over_sum(s.softmax(-1) * _kept(s))


def weights_times_whole_numbers(s: Tensor) -> Tensor:
    return _over_sum(s.softmax(-1) * _kept(s).long())


def weights_filled(s: Tensor) -> Tensor:
    return _over_sum(s.softmax(-1).masked_fill(~_kept(s), 0.0))


def weights_chosen(s: Tensor) -> Tensor:
    return _over_sum(torch.where(~_kept(s), 0.0, s.softmax(-1)))


def lower_triangle_of_weights(s: Tensor) -> Tensor:
    return _over_sum(s.softmax(-1).tril())


def bounded_below(s: Tensor) -> Tensor:
    return s.masked_fill(~_kept(s), -torch.inf).clamp(min=-1e9).softmax(-1)


def above_the_lowest_number(s: Tensor) -> Tensor:
    hidden = s + torch.zeros_like(s).masked_fill(~_kept(s), -torch.inf)
    return torch.max(hidden, torch.tensor(torch.finfo(s.dtype).min)).softmax(-1)


def finite_instead(s: Tensor) -> Tensor:
    return torch.nan_to_num(s.masked_fill(~_kept(s), -torch.inf)).softmax(-1)


SPELLINGS = [
    hidden_before, hidden_exponents, exponentials_times_mask, exponentials_times_whole_numbers,
    exponentials_times_numbers, exponentials_filled, exponentials_chosen, lower_triangle_of_exponentials,
    shifted_exponentials_times_mask, normalised_exponentials, weights_times_mask, weights_times_whole_numbers,
    weights_filled, weights_chosen, lower_triangle_of_weights, bounded_below, above_the_lowest_number, finite_instead,
]  # fmt: skip
