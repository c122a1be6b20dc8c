"""Weights that are divided by their sum behind the product: rewritten where every row has its own, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

D, T = 6, 6  # as many features as tokens: shapes tell nothing
IDS = torch.randint(0, 20, (2, T), generator=torch.Generator().manual_seed(1))
Mix = Callable[[Tensor, Tensor], Tensor]


class Mixed(nn.Module):
    def __init__(self, mix: Mix) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head, self.mix = nn.Embedding(20, D), nn.Linear(D, D), nn.Linear(D, 3), mix
        self.double().eval()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        return self.head((x + self.mix(torch.exp(self.inner(x) @ x.mT / 4), x)).mean(1))  # type: ignore[no-any-return]


def explained(mix: Mix, rules: str = "pa-lrp") -> lrp_fx.Relevance:
    return lrp_fx.convert(Mixed(mix), rules=rules, conserve="site")(IDS, target=1)


@pytest.mark.parametrize("rules", ["pa-lrp", "cp-lrp", "pa-lrp-path"])
@pytest.mark.parametrize(
    "late",
    [
        lambda e, x: (e @ x) / e.sum(-1, keepdim=True),
        lambda e, x: (e @ x) * e.sum(-1).reciprocal()[..., None],
        lambda e, x: (e @ x) / (e @ torch.ones(T, 1, dtype=x.dtype)),
        lambda e, x: ((e @ x).mT / e.sum(-1)[:, None]).mT,
        lambda e, x: (e[..., None] * x[:, None]).sum(2) / e.sum(2, keepdim=True),
    ],
)
def test_one_attention(late: Mix, rules: str) -> None:
    found, expected = explained(late, rules), explained(lambda e, x: (e / e.sum(-1, keepdim=True)) @ x, rules)
    torch.testing.assert_close(found.content["ids"], expected.content["ids"], rtol=1e-9, atol=1e-12)
    assert set(found.ledger.sinks) == set(expected.ledger.sinks)


@pytest.mark.parametrize(
    "other",
    [
        lambda e, x: (e @ x) / e.sum(-2)[..., None],  # by the sums of the columns
        lambda e, x: (e @ x) / e.sum(-1)[:, None],  # every feature by the sum of another row
        lambda e, x: (e @ x) / e.sum(-1).flip(1)[..., None],
    ],
)
def test_another_function_is_left_as_it_is(other: Mix) -> None:
    found = explained(other, "gradient")
    model = Mixed(other)
    x = model.words(IDS).detach().requires_grad_()
    logits = model.head((x + other(torch.exp(model.inner(x) @ x.mT / 4), x)).mean(1))
    torch.testing.assert_close(found.output, logits.detach(), rtol=1e-9, atol=1e-12)


def test_a_mean_over_a_mask_is_no_attention() -> None:
    """Whole numbers that are divided by their sum: in float64, as the model does it."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(20, D), nn.Linear(D, 3)
            self.double().eval()

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = self.words(ids)
            return self.head((x * attention_mask[..., None]).sum(1) / attention_mask.sum(1)[:, None])  # type: ignore[no-any-return]

    mask, model = torch.tensor([[1] * T, [1, 1, 1, 0, 0, 0]]), Mean()
    found = lrp_fx.convert(model, rules="gradient")(IDS, attention_mask=mask, target=1)
    expected = (model.words(IDS) @ model.head.weight[1]) * mask / mask.sum(1, keepdim=True)
    torch.testing.assert_close(found.content["ids"], expected.detach(), rtol=1e-12, atol=1e-14)
