"""The record of one call: cuts by a tensor, and numbers that a model draws from a generator that it seeds itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

D, T = 8, 6
IDS = torch.randint(1, 20, (2, T), generator=torch.Generator().manual_seed(1))
IDS[:, 0] = 0


class Cut(nn.Module):
    """Leaves out as many tokens as there are zeros; ``by``: who says how many."""

    def __init__(self, by: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.by, self.embed, self.head = by, nn.Embedding(20, D), nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x, zeros = self.embed(input_ids), (input_ids == 0).sum(1).amax()
        if self.by == "narrow":
            x = torch.narrow(x, 1, zeros, T - 1)
        elif self.by == "split":
            x = x.tensor_split(zeros[None].cpu(), dim=1)[1]
        else:
            x = x[:, 1:]
        return self.head(x.tanh().mean(1))


class Seeded(nn.Module):
    """Sorts tokens into buckets by random directions, the same in every call."""

    def __init__(self, seeded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.seeded, self.embed, self.head = seeded, nn.Embedding(20, D), nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.seeded:
            torch.manual_seed(7)
        x = self.embed(input_ids)
        directions = torch.randn(D, D, dtype=x.dtype)
        return self.head((x + (x @ directions).tanh()).mean(1))


def explained(model: nn.Module) -> lrp_fx.Relevance:
    return lrp_fx.convert(model.double().eval(), dynamic=False)(input_ids=IDS, target=1)


@pytest.mark.parametrize("by", ["narrow", "split"])
def test_a_cut_where_a_tensor_says(by: str, quiet: Any) -> None:
    torch.testing.assert_close(explained(Cut(by)).tokens, explained(Cut("slice")).tokens, rtol=0, atol=1e-12)


def test_a_model_that_seeds_the_generator_draws_the_same(quiet: Any) -> None:
    model = Seeded(True).double().eval()
    state = torch.get_rng_state()
    relevance = explained(model)
    torch.set_rng_state(state)
    assert torch.equal(relevance.output, model(IDS))
    assert float(relevance.ledger.error.max()) < 1e-9
    with pytest.raises(lrp_fx.CaptureError, match="draws random numbers"):
        explained(Seeded(False))
