"""Several texts in each example (answers to choose from, windows of a text): each token keeps its own relevance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

D, T, ANSWERS = 8, 6, 3
IDS = torch.randint(0, 20, (2, ANSWERS, T), generator=torch.Generator().manual_seed(1))


class Reader(nn.Module):
    """A score for each text, by one attention over its own tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places, self.head = nn.Embedding(20, D), nn.Embedding(T, D), nn.Linear(D, 1)

    def read(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head((x + (x @ x.mT / 3).softmax(-1) @ x).mean(1))


class Choice(Reader):
    """``spelling``: how the texts are put into one batch; all of them are the same function."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling

    def forward(self, input_ids: Tensor) -> Tensor:
        b, n, t = input_ids.shape
        rows = input_ids.view(-1, t) if self.spelling == "view" else input_ids.flatten(0, 1)
        if self.spelling == "slice":
            rows = rows[:, -t:].long()
        return self.read(rows).view(b, n)


class Alone(Reader):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.read(input_ids)


class Windows(Reader):
    """The same windows, cut before the table is read or after."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before

    def forward(self, input_ids: Tensor) -> Tensor:
        b, t = input_ids.shape
        rows = input_ids.reshape(-1, T) if self.before else input_ids
        x = self.embed(rows).reshape(-1, T, D)
        x = x + (x @ x.mT / 3).softmax(-1) @ x
        return self.head(x.reshape(b, t, D).mean(1))


def explained(model: nn.Module, ids: Tensor, dynamic: bool, **keywords: object) -> lrp_fx.Relevance:
    return lrp_fx.convert(model.double().eval(), dynamic=dynamic)(input_ids=ids, **keywords)


@pytest.mark.parametrize(("spelling", "dynamic"), [("view", False), ("flatten", False), ("slice", True)])
def test_an_answer_is_explained_as_if_it_stood_alone(spelling: str, dynamic: bool) -> None:
    relevance = explained(Choice(spelling), IDS, dynamic, target=1)
    alone = explained(Alone(), IDS[:, 1], dynamic, target=0)
    content, tokens = relevance.content["input_ids"], relevance.tokens
    assert isinstance(tokens, Tensor) and content.shape == tokens.shape == IDS.shape
    torch.testing.assert_close(content[:, 1], alone.content["input_ids"], rtol=0, atol=1e-12)
    torch.testing.assert_close(tokens[:, 1], alone.tokens, rtol=0, atol=1e-12)
    assert float(tokens[:, [0, 2]].abs().max()) == 0.0, "the other answers have no part in the score"
    (site,) = relevance.position
    assert float((tokens - content).abs().sum()) > 0.0
    torch.testing.assert_close((tokens - content).sum((1, 2)), site.total, rtol=0, atol=1e-12)


def test_windows_of_tokens_are_put_back_in_their_order() -> None:
    ids = IDS.flatten(1)
    first, second = (explained(Windows(before), ids, dynamic=False, target=0) for before in (True, False))
    assert first.content["input_ids"].shape == ids.shape
    torch.testing.assert_close(first.tokens, second.tokens, rtol=0, atol=1e-12)


def test_tokens_of_several_texts_are_told_text_by_text() -> None:
    relevance = explained(Choice("view"), IDS, dynamic=False, target=1)
    for b, parts in enumerate(relevance.top(10**3)):
        assert len(parts) == ANSWERS * T
        mine = [p for p in parts if p.input == "input_ids, text 2 of 3"]
        amounts = {p.start: p.relevance for p in mine}
        torch.testing.assert_close(
            torch.tensor([amounts[t] for t in range(T)]).double(), relevance.tokens[b, 1].double()
        )
