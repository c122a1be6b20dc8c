"""Residual sums: recognised by dataflow, in whatever order they are added, and bounded under the gamma rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.architectures import BY_NAME

IDS = torch.tensor([[3, 7, 1, 9, 4], [2, 2, 8, 5, 6]])


class Parallel(nn.Module):
    """Two branches beside the stream, added in a given order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.embed, self.one, self.two, self.head = (
            nn.Embedding(20, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for _ in range(2):
            a, b = self.one(torch.tanh(x)), self.two(torch.relu(x))
            x = {"left": (x + a) + b, "right": x + (a + b), "last": (a + b) + x}[self.order]
        return self.head(x.mean(1))


def test_order_of_addition_does_not_matter() -> None:
    tokens = []
    for order in ("left", "right", "last"):
        explain = lrp_fx.convert(Parallel(order).double().eval(), rules="pa-lrp-gamma", conserve="site")
        relevance = explain(input_ids=IDS, target=0)
        assert explain.coverage["rule"]["residual.gamma"] == 2
        tokens.append(relevance.tokens)
    assert torch.allclose(tokens[0], tokens[1], rtol=1e-9, atol=1e-12)
    assert torch.allclose(tokens[0], tokens[2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("llama", 4), ("gpt_neox", 2), ("bert", 4), pytest.param("bart", 10, marks=pytest.mark.slow), ("vit", 4)],
)
def test_the_stream_is_found(name: str, blocks: int) -> None:
    """Two sums a block (one where attention and MLP run in parallel, three with cross-attention), no other sum."""
    architecture = BY_NAME[name]
    explain = lrp_fx.convert(architecture.build("eager", torch.float64), rules="pa-lrp-gamma", conserve="site")
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in architecture.inputs().items()}
    relevance = explain(**inputs)
    assert relevance.ledger.error.max() <= 1e-10
    assert len([s for s in explain.sites if s.kind == "residual"]) == blocks
    assert explain.coverage["rule"]["residual.gamma"] == blocks


def test_a_cancelling_sum_amplifies_no_relevance() -> None:
    """At gamma 1 the absolute relevance of the terms is at most three times that of the sum."""
    from lrp_fx.rule import registry, sample

    x = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = -x * (1 + 1e-6 * torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    call = sample(torch.ops.aten.add.Tensor, x.requires_grad_(), z.requires_grad_(), carriers=(0, 1))
    y = registry.rules["residual.gamma"].surrogate(call)
    c_x, c_z = torch.autograd.grad(y.sum(), (x, z))
    amplification = ((x * c_x).abs() + (z * c_z).abs()) / y.abs()
    assert float(amplification.max()) <= 3.0 + 1e-6
