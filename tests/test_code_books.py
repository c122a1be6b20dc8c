"""Rows of a code book that activations choose: the choice has no derivative, in any spelling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx

WIDTH, CODES = 6, 4
IDS = torch.randint(0, 20, (3, 8), generator=torch.Generator().manual_seed(1))

CHOICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nearest": lambda x, book: torch.cdist(x, book).argmin(-1),
    "cut off": lambda x, book: (x[..., 0] * 2).long().clamp(0, CODES - 1),
}
ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda code, book: book[code],
    "embedding": F.embedding,
    "one-hot": lambda code, book: F.one_hot(code, CODES).to(book.dtype) @ book,
}


class Coded(nn.Module):
    """Words, rows that they choose added to them, an attention."""

    def __init__(self, choice: str, rows: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.book = nn.Parameter(torch.randn(CODES, WIDTH))
        self.choice, self.rows = CHOICES[choice], ROWS[rows]

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.words(ids))

    def read(self, x: Tensor) -> Tensor:
        x = x + self.rows(self.choice(x, self.book), self.book)
        y = self.inner(x)
        return self.head((x + (y @ y.mT / 3).softmax(-1) @ y).mean(1).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("rows", ROWS)
def test_the_gradient_preset_is_the_gradient(choice: str, rows: str) -> None:
    model = Coded(choice, rows).double().eval()
    words = model.words(IDS).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.read(words)[:, 1].sum(), words)
    found = lrp_fx.convert(model, rules="gradient")(IDS, target=1)
    torch.testing.assert_close(found.content["ids"], (gradient * words).sum(-1).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("choice", CHOICES)
def test_tokens_are_those_of_any_spelling(choice: str) -> None:
    found = [lrp_fx.convert(Coded(choice, rows).double().eval())(IDS, target=1).tokens for rows in ROWS]
    for tokens in found[1:]:
        torch.testing.assert_close(tokens, found[0], rtol=1e-9, atol=1e-12)


def test_whole_numbers_that_are_given_as_others_are_content() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.book, self.head = nn.Embedding(CODES, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, numbers: Tensor) -> Tensor:
            return self.head(self.book(numbers.long()).mean(1).tanh())  # type: ignore[no-any-return]

    found = lrp_fx.convert(Given().double().eval())((IDS % CODES).double(), target=1)
    assert float(found.ledger.leaves["content"].abs().min()) > 0
