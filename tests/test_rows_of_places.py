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


def padded(table: Tensor, x: Tensor) -> Tensor:
    return (F.pad(x, (0, 0, 1, 1)) + F.pad(table[:TOKENS], (0, 0, 1, 1)))[:, 1:-1]


def written(table: Tensor, x: Tensor) -> Tensor:
    x = x.clone()
    for i in range(TOKENS):
        x[:, i] += table[i]
    return x


def counted(table: Tensor, x: Tensor) -> Tensor:
    rows, place = [], torch.zeros((), dtype=torch.long)
    for i in range(TOKENS):
        rows.append(x[:, i] + F.embedding(place, table))
        place = place + 1
    return torch.stack(rows, 1)


def picked(table: Tensor, x: Tensor) -> Tensor:
    order = torch.arange(TOKENS - 1, -1, -1)
    return (x[:, order] + table[order])[:, order]


PARTS: dict[str, Block] = {
    "row by row": lambda t, x: torch.stack([x[:, i] + t[i] for i in range(TOKENS)], 1),
    "rows looked up": lambda t, x: torch.stack([x[:, i] + F.embedding(torch.tensor(i), t) for i in range(TOKENS)], 1),
    "halves": lambda t, x: torch.cat([x[:, :4] + t[:4], x[:, 4:] + t[4:TOKENS]], 1),
    "even and odd": lambda t, x: torch.stack([x[:, ::2] + t[:TOKENS:2], x[:, 1::2] + t[1:TOKENS:2]], 2).flatten(1, 2),
    "padded": padded,
    "rows written": written,
    "rows counted": counted,
    "stacked": lambda t, x: torch.stack([x, t[:TOKENS].expand_as(x)]).sum(0),
    "counted by a triangle": lambda t, x: x + F.embedding(torch.ones(TOKENS, TOKENS).tril().sum(1).long() - 1, t),
    "picked in another order": picked,
    "moved along": lambda t, x: (x.roll(1, 1) + t[:TOKENS].roll(1, 0)).roll(-1, 1),
    "turned round": lambda t, x: (x.flip(1) + t[:TOKENS].flip(0)).flip(1),
    "a grid": lambda t, x: (x.view(-1, 2, 4, WIDTH) + t[:TOKENS].view(2, 4, WIDTH)).flatten(1, 2),
    "flat": lambda t, x: (x.reshape(-1, WIDTH) + t[:TOKENS].repeat(x.shape[0], 1)).view(x.shape),
}


@pytest.mark.parametrize("name", PARTS)
def test_places_that_are_added_in_parts(name: str) -> None:
    same(explained(PARTS[name]), explained(lambda t, x: x + t[:TOKENS]))


HIDING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiplied": lambda value, mask: value * mask,
    "truth values": lambda value, mask: value * mask.bool(),
    "chosen": lambda value, mask: torch.where(mask == 1, value, 0.0),
    "filled": lambda value, mask: value.expand(BATCH, TOKENS, -1).masked_fill(mask == 0, 0.0),
}


@pytest.mark.parametrize("name", HIDING)
@pytest.mark.parametrize("kind", ["position", "learned"])
def test_what_a_mask_hides_in_part_is_what_it_was(name: str, kind: str) -> None:
    rows = slice(TOKENS) if kind == "position" else slice(1)
    mask = torch.ones(BATCH, TOKENS)
    mask[1, 5:] = 0

    def hidden(how: Callable[[Tensor, Tensor], Tensor]) -> lrp_fx.Relevance:
        model = Placed(lambda t, x, m: x + how(t[rows], m[..., None].to(x.dtype))).double().eval()
        return lrp_fx.convert(model, roles={"places": "mask"}, conserve="site")(IDS, mask, target=1)

    found, expected = hidden(HIDING[name]), hidden(HIDING["multiplied"])
    assert {"position", "learned"} & found.ledger.leaves.keys() == {kind}
    torch.testing.assert_close(found.ledger.leaves[kind], expected.ledger.leaves[kind])
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)


def test_one_row_at_one_token_is_no_place() -> None:
    found = explained(lambda t, x: torch.cat([x[:, :2], (x[:, 2] + t[2])[:, None], x[:, 3:]], 1))
    assert not found.position


class Loop(nn.Module):
    """A cell that reads one token after the other."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(20, WIDTH), nn.Embedding(16, WIDTH)
        self.cell, self.head, self.at_once = nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 3), at_once

    def forward(self, ids: Tensor) -> Tensor:
        h = self.words.weight.new_zeros(len(ids), WIDTH)
        whole = self.words(ids) + self.places.weight[: ids.shape[1]]
        for t in range(TOKENS):
            h = self.cell(whole[:, t] if self.at_once else self.words(ids[:, t]) + self.places.weight[t], h)
        return self.head(h)  # type: ignore[no-any-return]


def test_places_in_a_loop_over_tokens() -> None:
    looped, at_once = (lrp_fx.convert(Loop(how).double().eval())(IDS, target=1) for how in (False, True))
    same(looped, at_once)


def test_places_of_no_known_token_are_named() -> None:
    found = explained(lambda t, x: torch.cat([x[:, :4] + x[:, 4:] + t[:4], x], 1))
    with pytest.warns(UserWarning, match=r"add.* \(absolute\) received is not told by token"):
        _ = found.tokens
