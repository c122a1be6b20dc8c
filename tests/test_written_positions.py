"""Positions written into features of a copy: the same function, and the same relevance, as features put beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
Write = Callable[[Tensor, Tensor], Tensor]


def several(x: Tensor, places: Tensor) -> Tensor:
    y = x.clone()
    y[..., 3:] = places[:, 3:]
    return y


def copied(x: Tensor, places: Tensor) -> Tensor:
    y = x.clone()
    y[..., 3:].copy_(places[:, 3:])
    return y


def scattered(x: Tensor, places: Tensor) -> Tensor:
    return x.slice_scatter(places[:, 3:].expand(x.shape[0], -1, -1), 2, 3, F)


def one(x: Tensor, places: Tensor) -> Tensor:
    y = x.clone()
    y[..., 3] = places[:, 3]
    return y


def beside(x: Tensor, places: Tensor, end: int = F) -> Tensor:
    return torch.cat([x[..., :3], places[:, 3:end].expand(x.shape[0], -1, -1), x[..., end:]], -1)


class Model(nn.Module):
    def __init__(self, write: Write) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)
        self.places, self.write = nn.Parameter(torch.randn(16, F)), write

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        x = self.inner(self.write(x, self.places[: x.shape[1]]))
        return self.head(((x @ x.mT).softmax(-1) @ x).mean(1).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("preset", ["pa-lrp", "gradient"])
@pytest.mark.parametrize("write", [several, copied, scattered, one])
def test_places_written_into_features_are_places(write: Write, preset: str) -> None:
    put: Write = (lambda x, places: beside(x, places, 4)) if write is one else beside
    found, expected = (
        lrp_fx.convert(ready(Model(how)), rules=preset)(input_ids=ids(2), target=1) for how in (write, put)
    )
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)
    assert [(p.kind, p.variant) for p in found.position] == [(p.kind, p.variant) for p in expected.position]
    assert preset == "gradient" or [p.kind for p in found.position] == ["absolute"]
    assert found.ledger.leaves.keys() == expected.ledger.leaves.keys()
    for name, total in expected.ledger.leaves.items():
        torch.testing.assert_close(found.ledger.leaves[name], total, rtol=1e-9, atol=1e-12)


def test_a_token_written_is_learned() -> None:
    def first(x: Tensor, places: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0].copy_(places[0])
        return y

    relevance = lrp_fx.convert(ready(Model(first)))(input_ids=ids(2), target=1)
    assert "learned" in relevance.ledger.leaves and not relevance.position
    assert bool((relevance.content["input_ids"][:, 0] == 0).all())
