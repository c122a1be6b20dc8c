"""Tokens that are taken out one by one and put together again are tokens: a table added to them holds their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

pytestmark = pytest.mark.usefixtures("quiet")
WIDTH, LENGTH, PATCH = 8, 4, 2
#: (model, tokens or pixels) -> tokens that were computed one by one.
Put = Callable[[Any, Tensor], Tensor]
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


class Text(nn.Module):
    """A map of each token, a table of places, and a layer that mixes tokens."""

    def __init__(self, put: Put) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.put = put
        self.words, self.map = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.cell, self.gru = nn.GRUCell(WIDTH, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        for name, parameter in self.cell.named_parameters():
            getattr(self.gru, f"{name}_l0").data.copy_(parameter.data)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mixed(self.put(self, self.words(ids)) + self.places)

    def mixed(self, x: Tensor) -> Tensor:
        return self.head(((x @ x.mT).softmax(-1) @ x).mean(1).tanh())  # type: ignore[no-any-return]


class Picture(Text):
    """The same of patches."""

    def __init__(self, put: Put) -> None:
        super().__init__(put)
        self.conv = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.mixed(self.put(self, pixels) + self.places)


def written(m: Any, e: Tensor, width: int) -> Tensor:
    out = e.new_zeros(e.shape)
    for t in range(e.shape[1]):
        if width:
            out[:, t : t + width] = m.map(e[:, t : t + width])
        else:
            out[:, t] = m.map(e[:, t])
    return out


def run(m: Any, e: Tensor, order: Iterable[int]) -> Tensor:
    h, out = e.new_zeros(e[:, 0].shape), {}
    for t in order:
        h = out[t] = m.cell(e[:, t], h)
    return torch.stack([out[t] for t in range(e.shape[1])], 1)


def written_patches(m: Any, x: Tensor) -> Tensor:
    out, places = x.new_zeros(x.shape[0], LENGTH, WIDTH), [(i, j) for i in (0, PATCH) for j in (0, PATCH)]
    for k, (i, j) in enumerate(places):
        out[:, k] = m.conv(x[:, :, i : i + PATCH, j : j + PATCH]).flatten(1)
    return out


TEXTS: dict[str, Put] = {
    "stacked": lambda m, e: torch.stack([m.map(e[:, t]) for t in range(LENGTH)], 1),
    "stacked in front": lambda m, e: torch.stack([m.map(t) for t in e.transpose(0, 1)]).transpose(0, 1),
    "cut and joined": lambda m, e: torch.cat([m.map(e[:, t : t + 1]) for t in range(LENGTH)], 1),
    "split": lambda m, e: torch.cat([m.map(t) for t in e.split(1, 1)], 1),
    "unbound": lambda m, e: torch.stack([m.map(t) for t in e.unbind(1)], 1),
    "written": lambda m, e: written(m, e, 0),
    "written as intervals": lambda m, e: written(m, e, 1),
}
PICTURES: dict[str, Put] = {
    "stacked": lambda m, x: torch.stack(
        [m.conv(x[:, :, i : i + PATCH, j : j + PATCH]).flatten(1) for i in (0, PATCH) for j in (0, PATCH)], 1
    ),
    "rows of rows": lambda m, x: torch.stack(
        [torch.stack([m.conv(p).flatten(1) for p in r.chunk(2, 3)], 1) for r in x.chunk(2, 2)], 1
    ).flatten(1, 2),
    "written": written_patches,
}


def explained(model: nn.Module, inputs: Tensor) -> lrp_fx.Relevance:
    return lrp_fx.convert(model.double().eval(), conserve="site")(inputs, target=1)


def assert_same(found: lrp_fx.Relevance, wanted: lrp_fx.Relevance) -> None:
    assert [(s.kind, s.variant) for s in wanted.position] == [("absolute", "learned")]
    assert [(s.kind, s.variant) for s in found.position] == [("absolute", "learned")]
    torch.testing.assert_close(found.position[0].relevance, wanted.position[0].relevance)
    torch.testing.assert_close(list(found.content.values()), list(wanted.content.values()))


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_one_by_one(name: str) -> None:
    assert_same(explained(Text(TEXTS[name]), IDS), explained(Text(lambda m, e: m.map(e)), IDS))


@pytest.mark.parametrize("name", PICTURES)
def test_patches_one_by_one(name: str) -> None:
    pixels = torch.randn(2, 3, 2 * PATCH, 2 * PATCH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = explained(Picture(lambda m, x: m.conv(x).flatten(2).transpose(1, 2)), pixels)
    assert_same(explained(Picture(PICTURES[name]), pixels), wanted)


def test_steps_of_a_recurrence() -> None:
    stepwise = explained(Text(lambda m, e: run(m, e, range(LENGTH))), IDS)
    assert_same(explained(Text(lambda m, e: m.gru(e)[0]), IDS), stepwise)
    assert_same(explained(Text(lambda m, e: m.gru(e)[0]), IDS[:1]), stepwise[0])
    backwards = explained(Text(lambda m, e: run(m, e, reversed(range(LENGTH)))), IDS)
    assert_same(explained(Text(lambda m, e: m.gru(e.flip(1))[0].flip(1)), IDS), backwards)


class Two(nn.Module):
    """Two answers, each of a token and by a map of its own, with a bias for each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.first, self.last = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, ids: Tensor) -> Tensor:
        e = self.words(ids)
        return torch.cat([self.first(e[:, 0]), self.last(e[:, -1])], 1) + self.bias


def test_maps_of_their_own_make_no_tokens() -> None:
    assert not explained(Two(), IDS).position
