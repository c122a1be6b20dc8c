"""Layers that wrap others: adapters of low rank, parametrisations, weights shared across blocks; norms before, after
and both.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from testing.handmade import ready
from testing.unseen.common import HEADS, WIDTH, Case, Text


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


class Mixed(Text):
    """A block with the norm before, one with it after, one with both (sandwich), one in parallel."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.feed = nn.ModuleList([Attend() for _ in range(2)]), nn.ModuleList([Feed() for _ in range(2)])
        self.norms = nn.ModuleList(
            [nn.LayerNorm(WIDTH) for _ in range(2)] + [nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(3)]
        )

    def between(self, x: Tensor) -> Tensor:
        x = x + self.attend[0](self.norms[0](x))
        x = self.norms[1](x + self.feed[0](x))
        y = self.norms[2](x)
        x = x + self.norms[3](self.attend[1](y)) + self.feed[1](y)
        return self.norms[4](x)  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, base: nn.Linear, rank: int = 2, scale: float = 1.5) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.a, self.b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x)) * self.scale  # type: ignore[no-any-return]

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.base.weight += self.scale * self.b.weight @ self.a.weight
        return self.base


def replaced(model: nn.Module, old: type[nn.Module], new: object) -> nn.Module:
    """A copy in which every module of a type is replaced by ``new(module)``."""
    result = copy.deepcopy(model)
    for parent in list(result.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is old and type(parent) is not LowRank:
                setattr(parent, name, new(child))  # type: ignore[operator]
    return result


def adapted() -> nn.Module:
    return ready(replaced(Mixed(), nn.Linear, LowRank))


def parametrised() -> nn.Module:
    """Weight norm, spectral norm and an old-style hook, on maps of the attention and of the feed-forward."""
    model = ready(Mixed())
    assert isinstance(model, Mixed)
    for attend in model.attend:
        parametrizations.weight_norm(attend.q)
        parametrizations.spectral_norm(attend.v)
        parametrizations.orthogonal(attend.o)
    with torch.no_grad():
        for feed in model.feed:
            torch.nn.utils.weight_norm(feed.up)
    return model.eval()


def plain(model: nn.Module) -> nn.Module:
    """The weights that the parametrisations lead to."""
    result = copy.deepcopy(model)
    for module in filter(parametrize.is_parametrized, result.modules()):
        # A copy has the very class that was made for the original, and removing takes its property away from both.
        own = type(module)
        module.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
    for module in result.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
        elif hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)
    return result


class Shared(Text):
    """One block, applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.feed, self.norm = Attend(), Feed(), nn.LayerNorm(WIDTH)

    def between(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.norm(x + self.attend(x))
            x = self.norm(x + self.feed(x))
        return x


class Copied(Text):
    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.words, self.places, self.head = copy.deepcopy([shared.words, shared.places, shared.head])
        self.blocks = nn.ModuleList(
            [copy.deepcopy(m) for _ in range(2) for m in (shared.attend, shared.norm, shared.feed, shared.norm)]
        )

    def between(self, x: Tensor) -> Tensor:
        for i in range(0, len(self.blocks), 2):
            x = self.blocks[i + 1](x + self.blocks[i](x))
        return x


CASES = [
    Case(
        "norms of all kinds, adapters",
        adapted,
        lambda m: replaced(m, LowRank, LowRank.merged),
        {"attention": 2, "normalisation": 5, "position": 1},
    ),
    Case("parametrised layers", parametrised, plain, {"attention": 2, "normalisation": 5}),
    Case(
        "shared blocks",
        lambda: ready(Shared()),
        lambda m: Copied(m).double().eval(),
        {"attention": 2, "normalisation": 4},
    ),  # type: ignore[arg-type]
]
