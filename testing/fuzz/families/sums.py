"""Sums, differences and their orders."""

from __future__ import annotations

import torch
from torch import Tensor

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("sum_scaled", "sum_scaled_written_out"),
    ("sum_of_three", "sum_of_three_reassociated", "sum_of_stack"),
)


def sum_of_two(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x + y


def sum_scaled(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.add(x, y, alpha=0.5)


def sum_scaled_written_out(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x + y / 2


def difference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x - w.second(y)


def difference_reversed(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.rsub(x, y)


def sum_of_three(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return (x + y) + w.second(x)


def sum_of_three_reassociated(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x + (y + w.second(x))


def sum_of_stack(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y, w.second(x)]).sum(0)


def sum_of_three_as_product(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y, w.second(x)], -1) @ torch.eye(D, dtype=x.dtype).repeat(3, 1)


def mean_of_two(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y], -1).mean(-1)
