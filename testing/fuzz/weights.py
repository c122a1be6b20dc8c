"""What an operation of a drawn program may weigh with: a few learned tensors of every kind, for each step its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Examples, tokens, features, heads, words, classes. No two axes that can be told apart have one size.
B, T, D, H, V, CLASSES = 3, 5, 8, 2, 20, 7


class Weights(nn.Module):
    """Learned tensors of one step: maps, scales, a convolution, a table of places, experts, a token."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(D, D), nn.Linear(D, D, bias=False), nn.Linear(D, D)
        self.router, self.up, self.down = nn.Linear(D, 4), nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.scale, self.bias = nn.Parameter(1 + 0.3 * torch.randn(D)), nn.Parameter(0.3 * torch.randn(D))
        self.kernel = nn.Parameter(torch.randn(D, D, 3) / 5)
        self.places = nn.Parameter(0.5 * torch.randn(16, D))
        self.experts = nn.Parameter(torch.randn(4, D, D) / 3)
        self.token = nn.Parameter(torch.randn(1, 1, D))
        self.mean: Tensor
        self.register_buffer("mean", 0.2 * torch.randn(D))
        self.register_buffer("variance", 0.5 + torch.rand(D))
        self.variance: Tensor


def heads(x: Tensor) -> Tensor:
    """(B, T, D) as (B, H, T, D / H)."""
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    """`heads` undone."""
    return x.transpose(1, 2).flatten(2)


def causal(x: Tensor) -> Tensor:
    """(T, T): which tokens come at or before each."""
    n = torch.arange(x.shape[1], device=x.device)
    return n[:, None] >= n
