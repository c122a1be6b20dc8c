"""Tokens of all examples sorted by expert, computed and put back: by whatever operation, each to its own example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
#: (rows in the experts' order, where each comes from) -> rows in their own order.
Back = Callable[[Tensor, Tensor], Tensor]


def assigned(y: Tensor, order: Tensor) -> Tensor:
    back = torch.zeros_like(y)
    back[order] = y
    return back


BACK: dict[str, Back] = {
    "index_add": lambda y, order: torch.zeros_like(y).index_add(0, order, y),
    "index_copy": lambda y, order: torch.zeros_like(y).index_copy(0, order, y),
    "scatter": lambda y, order: torch.zeros_like(y).scatter(0, order[:, None].expand_as(y), y),
    "scatter_add": lambda y, order: torch.zeros_like(y).scatter_add(0, order[:, None].expand_as(y), y),
    "index_put": lambda y, order: torch.zeros_like(y).index_put((order,), y),
    "assignment": assigned,
}


class Experts(nn.Module):
    def __init__(self, back: Back) -> None:
        super().__init__()
        self.words, self.router, self.head = nn.Embedding(V, F), nn.Linear(F, 4), nn.Linear(F, 3)
        self.bank, self.bias, self.back = nn.Parameter(torch.randn(4, F, F)), nn.Parameter(torch.randn(F)), back

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        rows = x.reshape(-1, F)
        weight, expert = self.router(rows).softmax(-1).max(-1)
        order = expert.argsort(stable=True)
        y = torch.bmm(rows[order][:, None], self.bank[expert[order]])[:, 0] * weight[order][:, None]
        x = x + self.back(y + self.bias, order).view_as(x)
        return self.head(((x @ x.mT).softmax(-1) @ x).mean(1).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("preset", ["pa-lrp", "gradient"])
@pytest.mark.parametrize("name", BACK)
def test_each_row_is_its_own_examples(name: str, preset: str) -> None:
    explainer = lrp_fx.convert(ready(Experts(BACK[name])), rules=preset)
    found = explainer(input_ids=ids(3), target=1)  # raises unless every example closes
    expected = lrp_fx.convert(ready(Experts(lambda y, order: y[order.argsort()])), rules=preset)
    torch.testing.assert_close(found.tokens, expected(input_ids=ids(3), target=1).tokens, rtol=1e-9, atol=1e-12)
    alone = explainer(input_ids=ids(3)[1:2], target=1)
    for sink, total in found.ledger.sinks.items():
        torch.testing.assert_close(total[1], alone.ledger.sinks[sink][0], rtol=1e-9, atol=1e-12)


class Picked(nn.Module):
    """A few rows of every example, picked by constants, at places of their own, behind a learned token."""

    def __init__(self, pick: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.head, self.pick = nn.Embedding(V, F), nn.Linear(F, 3), pick
        self.places, self.first = nn.Parameter(torch.randn(3, F)), nn.Parameter(torch.randn(1, 1, F))
        self.register_buffer("kept", torch.tensor([4, 0, 2]))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.pick(self.words(input_ids), self.kept) + self.places
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        return self.head(((x @ x.mT).softmax(-1) @ x).mean(1).tanh())  # type: ignore[no-any-return]


def pairs(x: Tensor, kept: Tensor) -> Tensor:
    return x[torch.arange(len(x)).repeat_interleave(len(kept)), kept.repeat(len(x))].reshape(len(x), -1, F)


def numbered(x: Tensor, kept: Tensor) -> Tensor:
    return x.reshape(-1, F)[(torch.arange(len(x))[:, None] * x.shape[1] + kept).flatten()].view(len(x), -1, F)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pick", [pairs, numbered])
def test_rows_picked_by_constants_are_laid_out_by_examples_again(
    pick: Callable[[Tensor, Tensor], Tensor], batch: int
) -> None:
    found = lrp_fx.convert(ready(Picked(pick)), dynamic=False)(input_ids=ids(batch), target=1)
    expected = lrp_fx.convert(ready(Picked(lambda x, kept: x[:, kept])))(input_ids=ids(batch), target=1)
    torch.testing.assert_close(found.content, expected.content)
    assert [site.kind for site in found.position] == [site.kind for site in expected.position] == ["absolute"]
    torch.testing.assert_close(found.position[0].relevance, expected.position[0].relevance)
    for part in ("leaves", "sinks"):
        torch.testing.assert_close(getattr(found.ledger, part), getattr(expected.ledger, part))
