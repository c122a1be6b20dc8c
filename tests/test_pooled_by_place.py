"""Sums over blocks of tokens: by one-hot vectors of places as by any other spelling, and nothing in them is a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, T, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
Pool = Callable[[Tensor], Tensor]
BLOCK = 2


def classes(x: Tensor) -> Tensor:
    return fn.one_hot(torch.arange(T) // BLOCK, T // BLOCK).to(x.dtype)


def counted(x: Tensor) -> Tensor:
    block = (torch.ones(len(x), T, dtype=torch.long).cumsum(1) - 1) // BLOCK
    return torch.einsum("bnd,bng->bgd", x, fn.one_hot(block, T // BLOCK).to(x.dtype)) / BLOCK


def chosen(x: Tensor) -> Tensor:
    block = torch.arange(T) // BLOCK
    block = torch.where(block < T // BLOCK, block, torch.tensor(0))
    return torch.einsum("bnd,ng->bgd", x, fn.one_hot(block, T // BLOCK).to(x.dtype)) / BLOCK


POOLS: dict[str, Pool] = {
    "product": lambda x: classes(x).T @ x / BLOCK,
    "averages": lambda x: (classes(x) / classes(x).sum(0)).T @ x,
    "formula": lambda x: torch.einsum("bnd,ng->bgd", x, classes(x)) / BLOCK,
    "counted": counted,
    "chosen": chosen,
    "elementwise": lambda x: (x[:, :, None] * classes(x)[:, :, None]).sum(1) / BLOCK,
    "map": lambda x: fn.linear(x.mT, classes(x).T / BLOCK).mT,
}


class Model(nn.Module):
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.words, self.inner, self.head, self.pool = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3), pool

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.inner(self.pool(self.words(input_ids)))
        return self.head(((x @ x.mT).softmax(-1) @ x).mean(1).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", POOLS)
def test_blocks_of_tokens_are_summed_as_by_any_other_spelling(name: str) -> None:
    found, expected = (
        lrp_fx.convert(ready(Model(pool)), conserve="site")(input_ids=ids(), target=1)
        for pool in (POOLS[name], lambda x: x.unflatten(1, (-1, BLOCK)).mean(2))
    )
    assert not found.position
    torch.testing.assert_close(found.tokens, expected.tokens)
