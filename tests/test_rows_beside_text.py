"""Rows put beside the text (class tokens, prompts): a table's row belongs to the token that stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

D, T = 8, 5
IDS = torch.randint(0, 20, (2, T), generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    """Learned rows before and behind the text, and a table of places over all of them."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places, self.head = nn.Embedding(20, D), nn.Embedding(32, D), nn.Linear(D, 3)
        self.before, self.behind = (nn.Parameter(torch.randn(n, D)) for n in (before, behind))

    def forward(self, input_ids: Tensor) -> Tensor:
        x, b = self.embed(input_ids), len(input_ids)
        if len(self.before):
            x = torch.cat([self.before[None].expand(b, -1, -1), x], 1)
        if len(self.behind):
            x = torch.cat([x, self.behind[None].expand(b, -1, -1)], 1)
        x = x + self.places(torch.arange(x.shape[1]))
        return self.head(x + (x @ x.mT / 3).softmax(-1) @ x).mean(1)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize(("before", "behind"), [(1, 0), (0, 3), (2, 2)])
def test_places_of_the_text_are_credited_to_the_text(before: int, behind: int, dynamic: bool) -> None:
    relevance = lrp_fx.convert(Model(before, behind).double().eval(), dynamic=dynamic)(input_ids=IDS, target=1)
    (site,) = relevance.position
    rows = site.relevance.sum(-1)
    assert rows.shape == (2, before + T + behind)
    found = relevance.tokens - relevance.content["input_ids"]
    torch.testing.assert_close(found, rows[:, before : before + T], rtol=0, atol=1e-12)


def test_a_file_keeps_where_the_text_begins(tmp_path: Path) -> None:
    explainer = lrp_fx.convert(Model(2, 0).double().eval())
    tokens = explainer(input_ids=IDS, target=1).tokens
    explainer.save(tmp_path / "model.lrpfx")
    assert torch.equal(lrp_fx.load(tmp_path / "model.lrpfx")(input_ids=IDS, target=1).tokens, tokens)


class Cached(Model):
    """Rows that a cache begins with: none, as a list of numbers that is empty."""

    def forward(self, input_ids: Tensor) -> Tensor:
        x = torch.cat([torch.tensor([], dtype=torch.float64), self.embed(input_ids)], 1)
        x = x + self.places(torch.arange(x.shape[1]))
        return self.head(x + (x @ x.mT / 3).softmax(-1) @ x).mean(1)


def test_an_empty_list_is_no_rows() -> None:
    cached, plain = (
        lrp_fx.convert(made(0, 0).double().eval())(input_ids=IDS, target=1).tokens for made in (Cached, Model)
    )
    torch.testing.assert_close(cached, plain, rtol=0, atol=1e-12)


class Pairs(nn.Module):
    """A learned row beside every token, along an axis of its own that is folded into the text."""

    def __init__(self, laid: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.row, self.laid = nn.Embedding(20, D), nn.Parameter(torch.randn(1, D)), laid
        self.mix, self.head = nn.Linear(D, D), nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        rows = {
            "expand": lambda: self.row.expand_as(x),
            "repeat": lambda: self.row.repeat(*x.shape[:2], 1),
            "sum": lambda: self.row + torch.zeros_like(x),
        }
        if self.laid == "cat":
            pairs = torch.cat([x[:, :, None], self.row.expand(len(x), x.shape[1], 1, D)], 2)
        else:
            pairs = torch.stack([x, rows[self.laid]()], 2)
        y = pairs.flatten(1, 2)
        return self.head((y + torch.tanh(self.mix(y))).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("examples", [1, 2])
@pytest.mark.parametrize("laid", ["expand", "repeat", "sum"])
def test_a_row_beside_each_token(laid: str, examples: int) -> None:
    models = (Pairs(how).double().eval() for how in (laid, "cat"))
    found, expected = (lrp_fx.convert(m, conserve="site")(IDS[:examples], target=1) for m in models)
    torch.testing.assert_close(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-12)
    leaves = found.ledger.leaves
    torch.testing.assert_close(leaves["learned"], expected.ledger.leaves["learned"], rtol=1e-9, atol=1e-12)


class Memory(nn.Module):
    """Learned rows beside the text, the residual sum of each written apart; ``norm``: before they meet."""

    def __init__(self, *, norm: bool, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.rows, self.head = nn.Embedding(20, D), nn.Parameter(torch.randn(3, D)), nn.Linear(D, 3)
        self.norm, self.mix, self.apart = nn.LayerNorm(D) if norm else nn.Identity(), nn.Linear(D, D), apart

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        z = self.rows.expand(len(x), -1, -1)
        h = torch.cat([self.norm(z), self.norm(x)], 1)
        y = (self.mix(h) @ h.mT / 3).softmax(-1) @ h
        whole = torch.cat([z + y[:, :3], x + y[:, 3:]], 1) if self.apart else torch.cat([z, x], 1) + y
        return self.head(whole.mean(1))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dynamic", [True, False])
def test_residual_sums_of_learned_rows_are_learned(norm: bool, dynamic: bool) -> None:
    apart, together = (
        lrp_fx.convert(Memory(norm=norm, apart=a).double().eval(), dynamic=dynamic, conserve="site")(IDS, target=1)
        for a in (True, False)
    )
    assert not apart.position and not together.position
    torch.testing.assert_close(apart.tokens, together.tokens, rtol=0, atol=1e-12)
    torch.testing.assert_close(apart.ledger.leaves["learned"], together.ledger.leaves["learned"], rtol=0, atol=1e-12)
