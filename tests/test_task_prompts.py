"""A soft prompt that a task shapes: rows of tables of several axes, chosen by a number that each example gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.tensor([[1, 2, 3, 7, 5], [4, 4, 5, 6, 1]])
TASKS = torch.tensor([0, 1])
D, ROWS = 8, 3


class Body(nn.Module):
    """Places, an attention and a head, for vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.inner, self.head = nn.Parameter(torch.randn(16, D)), nn.Linear(D, D), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places[: x.shape[1]]
        x = x + (x @ self.inner(x).mT / 3).softmax(-1) @ x
        return self.head(x.mean(1).tanh())  # type: ignore[no-any-return]


class Prompted(nn.Module):
    """One prompt for all, times a column and a row for each task, ahead of the words."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.prompt, self.body = nn.Embedding(11, D), nn.Embedding(ROWS, D), Body()
        self.columns, self.rows = nn.Parameter(torch.randn(2, ROWS, 1)), nn.Parameter(torch.randn(2, 1, D))
        self.register_buffer("numbers", torch.arange(ROWS))

    def vectors(self, ids: Tensor, task_ids: Tensor) -> Tensor:
        prompt = self.prompt(self.numbers[None].expand(len(ids), -1))
        task = self.columns.index_select(0, task_ids) @ self.rows.index_select(0, task_ids)
        return torch.cat([prompt * task, self.words(ids)], 1)

    def forward(self, ids: Tensor, task_ids: Tensor) -> Tensor:
        return self.body(self.vectors(ids, task_ids))  # type: ignore[no-any-return]


def test_what_a_task_chooses_is_the_tasks_and_words_keep_their_places() -> None:
    model = Prompted().double().eval()
    found = lrp_fx.convert(model)(ids=IDS, task_ids=TASKS, target=1)
    by_hand = lrp_fx.convert(model.body)(x=model.vectors(IDS, TASKS).detach(), target=1)
    rows = by_hand.content["x"].sum(-1)
    torch.testing.assert_close(found.content["ids"], rows[:, ROWS:])
    torch.testing.assert_close(found.content["task_ids"], rows[:, :ROWS].sum(-1))
    (places,) = found.position
    assert places.owner() == "ids"
    for name, shares in found.ledger.shares().items():
        torch.testing.assert_close(shares, by_hand.ledger.shares()[name])


def test_tasks_of_a_batch_are_those_of_its_examples() -> None:
    model = Prompted().double().eval()
    found = lrp_fx.convert(model)(ids=IDS, task_ids=TASKS, target=1)
    for row in range(2):
        one = slice(row, row + 1)
        alone = lrp_fx.convert(model)(ids=IDS[one], task_ids=TASKS[one], target=1)
        assert alone.content.keys() == found.content.keys() == {"ids", "task_ids"}
        for name, relevance in alone.content.items():
            torch.testing.assert_close(relevance, found.content[name][one])
        torch.testing.assert_close(alone.tokens, found.tokens[one])  # type: ignore[index]


class Conditioned(nn.Module):
    """One number for each example chooses what is added to all its words, and how much of them counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.added, self.gates = nn.Embedding(11, D), nn.Embedding(2, D), nn.Embedding(2, D)
        self.head = nn.Linear(D, 3, bias=False)

    def forward(self, ids: Tensor, task_ids: Tensor) -> Tensor:
        x = (self.words(ids) + self.added(task_ids)[:, None]) * self.gates(task_ids)[:, None]
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def test_a_number_for_each_example_has_one_amount() -> None:
    """Gate and value are two factors: each gets one half, and what is added is the task's, too."""
    model = Conditioned().double().eval()
    found = lrp_fx.convert(model)(ids=IDS, task_ids=TASKS, target=1)
    weight = model.gates(TASKS)[:, None] * model.head.weight[1]
    words, added = model.words(IDS) * weight / IDS.shape[1], model.added(TASKS) * weight[:, 0]
    torch.testing.assert_close(found.content["ids"], words.sum(-1).detach() / 2)
    torch.testing.assert_close(found.content["task_ids"], (words.sum((-1, -2)) / 2 + added.sum(-1)).detach())
    assert isinstance(found.tokens, Tensor) and found.tokens.shape == IDS.shape
