"""Rows of a table of places belong to the tokens that they are added to, however the rows are looked up and added."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx

WIDTH, TOKENS, BATCH = 6, 8, 3
Block = Callable[..., Tensor]
IDS = torch.randint(0, 20, (BATCH, TOKENS), generator=torch.Generator().manual_seed(1))
PLACES = torch.stack([torch.randperm(TOKENS, generator=torch.Generator().manual_seed(i)) + 2 for i in range(BATCH)])


class Placed(nn.Module):
    """Words, positions added, an attention: the block is given the table of places, the words and what places there
    are.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.table = nn.Parameter(torch.randn(16, WIDTH))
        self.block = block

    def forward(self, ids: Tensor, places: Tensor | None = None) -> Tensor:
        x = self.block(self.table, self.words(ids), *([] if places is None else [places]))
        y = self.inner(x)
        return self.head((x + (y @ y.mT / 3).softmax(-1) @ y).mean(1).tanh())  # type: ignore[no-any-return]


def explained(block: Block) -> lrp_fx.Relevance:
    return lrp_fx.convert(Placed(block).double().eval(), conserve="site")(IDS, target=1)


def same(found: lrp_fx.Relevance, expected: lrp_fx.Relevance) -> None:
    assert isinstance(found.tokens, Tensor) and isinstance(expected.tokens, Tensor)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)
    assert {site.kind for site in found.position} == {site.kind for site in expected.position}
    torch.testing.assert_close(found.ledger.leaves["position"], expected.ledger.leaves["position"])


GIVEN: dict[str, Block] = {
    "gathered": lambda t, x, p: x + t.expand(BATCH, -1, -1).gather(1, p[..., None].expand(-1, -1, WIDTH)),
    "gathered flat": lambda t, x, p: x + t.gather(0, p.flatten()[:, None].expand(-1, WIDTH)).view(x.shape),
    "taken along": lambda t, x, p: x + torch.take_along_dim(t[None], p[..., None], 1),
    "token by token": lambda t, x, p: x + torch.stack([t[p[:, i]] for i in range(TOKENS)], 1),
    "text by text": lambda t, x, p: x + torch.stack([t[p[i]] for i in range(BATCH)]),
}


@pytest.mark.parametrize("name", GIVEN)
def test_places_that_are_given(name: str) -> None:
    def given(block: Block) -> lrp_fx.Relevance:
        explainer = lrp_fx.convert(Placed(block).double().eval(), roles={"places": "position"}, conserve="site")
        return explainer(IDS, PLACES, target=1)

    same(given(GIVEN[name]), given(lambda t, x, p: x + F.embedding(p, t)))
