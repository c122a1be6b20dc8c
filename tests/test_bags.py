"""`EmbeddingBag` of a batch of texts: every token gets its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

pytestmark = pytest.mark.usefixtures("quiet")
IDS = torch.randint(0, 6, (3, 7), generator=torch.Generator().manual_seed(1))
MODES: dict[str, dict[str, Any]] = {
    "mean": {"mode": "mean"},
    "sum": {"mode": "sum"},
    "max": {"mode": "max"},
    "mean beside padding": {"mode": "mean", "padding_idx": 0},
    "sum beside padding": {"mode": "sum", "padding_idx": 2},
}


class Bag(nn.Module):
    def __init__(self, whole: bool, weighted: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(6, 8, **options)
        self.inner, self.head, self.whole, self.weighted = nn.Linear(8, 8), nn.Linear(8, 3), whole, weighted

    def forward(self, input_ids: Tensor) -> Tensor:
        weights = torch.arange(1, input_ids.shape[1] + 1, dtype=self.bag.weight.dtype).expand(input_ids.shape)
        if self.whole:
            x = self.bag(input_ids, per_sample_weights=weights if self.weighted else None)
        else:
            x = self.rows(input_ids, weights)
        return self.head(x + torch.relu(self.inner(x)))  # type: ignore[no-any-return]

    def rows(self, input_ids: Tensor, weights: Tensor) -> Tensor:
        rows, padding = self.bag.weight[input_ids], self.bag.padding_idx
        rows = rows * weights[..., None] if self.weighted else rows
        if self.bag.mode == "max":
            return rows.amax(1)
        kept = torch.ones_like(rows) if padding is None else (input_ids != padding)[..., None].to(rows.dtype)
        total = (rows * kept).sum(1)
        return total if self.bag.mode == "sum" else total / kept.expand_as(rows).sum(1).clamp(min=1)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", [*MODES, "weighted"])
def test_a_bag_is_its_rows(name: str, dynamic: bool) -> None:
    options = {"mode": "sum", "weighted": True} if name == "weighted" else MODES[name]
    found, expected = (
        lrp_fx.convert(Bag(whole, **options).double().eval(), dynamic=dynamic, conserve="site")(input_ids=IDS, target=1)
        for whole in (True, False)
    )
    assert torch.allclose(found.score, expected.score, rtol=1e-12)
    assert torch.allclose(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-12)
    padding = options.get("padding_idx")
    if padding is not None:
        assert not found.content["input_ids"][padding == IDS].any()


def test_bags_of_a_part_of_the_text_stay_whole() -> None:
    """Two bags of four of twelve words are none of the batch's texts."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            bags = nn.functional.embedding_bag(input_ids.flatten(), self.table, torch.arange(0, 8, 4), mode="sum")
            return self.head(bags)  # type: ignore[no-any-return]

    model, given = Part().double().eval(), IDS[:2, :6]
    found = lrp_fx.convert(model, conserve="off")(input_ids=given, target=1)
    assert torch.allclose(found.score, model(given)[:, 1], rtol=1e-12)
