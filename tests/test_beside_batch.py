"""Tokens before the batch and texts (or windows, views) behind it, all on one axis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.ir.layout import BatchAxis, Given

F, V = 6, 20
Operation = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    def __init__(self, operation: Operation) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)
        self.attention = nn.MultiheadAttention(F, 2, batch_first=True)
        self.place, self.operation = nn.Parameter(torch.randn(F)), operation

    def by_values(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self, x).mean(1).tanh())  # type: ignore[no-any-return]

    def forward(self, ids: Tensor) -> Tensor:
        return self.by_values(self.words(ids))


def _attended(m: Model, x: Tensor) -> Tensor:
    return m.attention(x, x, x)[0]  # type: ignore[no-any-return]


def _rows(m: Model, x: Tensor) -> Tensor:
    """Tokens first, each with a row of its own, to which a vector is added."""
    y = x.reshape(x.shape[0], -1, 2, F).transpose(0, 1)
    rows = torch.relu(m.inner(y.flatten(0, 2)) + m.place) + m.inner(y.flatten(0, 2)) * m.place
    return rows.view_as(y).transpose(0, 1).reshape(x.shape)


OPERATIONS: dict[str, Operation] = {
    "views": lambda m, x: _attended(m, torch.stack([x, 2 * x], 1).flatten(0, 1)).unflatten(0, (x.shape[0], 2)).sum(1),
    "windows": lambda m, x: _attended(m, x.reshape(-1, 4, F)).reshape(x.shape),
    "rows": _rows,
    "experts": lambda m, x: m.inner(x.reshape(-1, F).repeat(3, 1) * 0.5 + 0.1).reshape(3, -1, F).sum(0).view_as(x),
}


def _ids(*shape: int) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_example_gets_its_gradient(name: str, dynamic: bool) -> None:
    model, ids = Model(OPERATIONS[name]).double().eval(), _ids(3, 8)
    explainer = lrp_fx.convert(model, rules="gradient", dynamic=dynamic)
    found = explainer(ids, target=1)
    words = model.words(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.by_values(words)[:, 1].sum(), words)
    torch.testing.assert_close(found.tokens, (gradient * words).sum(-1).detach(), rtol=1e-9, atol=1e-12)
    alone = explainer(ids[1:2], target=1)
    for sink, total in found.ledger.sinks.items():
        torch.testing.assert_close(total[1], alone.ledger.sinks[sink][0], rtol=1e-9, atol=1e-12)


class Choices(nn.Module):
    """Answers to choose from, each read by a transformer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(V, F), nn.Linear(F, 1)
        self.layer = nn.TransformerEncoderLayer(F, 2, 12, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layer(self.words(ids.view(-1, ids.shape[-1])))
        return self.head(x.mean(1).tanh()).view(-1, ids.shape[1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("preset", ["pa-lrp", "gradient"])
def test_answers_to_choose_from_are_read_by_a_transformer(preset: str) -> None:
    explainer = lrp_fx.convert(Choices().double().eval(), rules=preset)
    for ids in (_ids(3, 4, 7), _ids(2, 5, 9)):
        found = explainer(ids, target=1)  # raises unless every example closes
        assert bool((found.tokens[:, 1].abs().sum(-1) > 0).all())
        assert bool((found.tokens[:, [0, 2]] == 0).all())  # the score of one answer does not read the others
        alone = explainer(ids[1:], target=1)
        torch.testing.assert_close(alone.tokens, found.tokens[1:], rtol=1e-9, atol=1e-12)
    assert explainer.statistics.captures <= 2


def test_a_size_is_told_in_the_place_of_a_node() -> None:
    node = torch.fx.Graph().placeholder("size")
    told: list[torch.fx.Node] = []
    axis = BatchAxis(0, node, None).given(told)
    assert (axis, told) == (BatchAxis(0, Given(0), None), [node])
    assert axis.with_sizes([2]).split(torch.arange(24), 3).shape == (2, 3, 4)
