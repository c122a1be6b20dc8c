"""A small model with blocks that are alike, a mask and positions, and calls of changing shapes."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx

WORDS, WIDTH, LONGEST = 40, 16, 48


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        y = self.norm(x)
        scores = self.query(y) @ self.key(y).mT / 4
        x = x + scores.masked_fill(hidden, -1e9).softmax(-1) @ self.value(y)
        return x + self.mix(torch.tanh(x))  # type: ignore[no-any-return]


class Reader(nn.Module):
    """Scores three classes by the last word that the mask keeps."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        hidden = attention_mask[:, None, :] == 0
        for layer in self.layers:
            x = layer(x, hidden)
        kept = attention_mask[..., None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))  # type: ignore[no-any-return]


def build(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Reader().eval()


def call(number: int) -> dict[str, Any]:
    """The arguments of one call: 1 to 4 texts of 2 to 40 words, half of the batches padded, and a class."""
    draw = random.Random(number)
    batch, length = draw.randint(1, 4), draw.randint(2, 40)
    generator = torch.Generator().manual_seed(number)
    mask = torch.ones(batch, length, dtype=torch.long)
    if draw.random() < 0.5:
        for row in range(batch):
            mask[row, draw.randint(1, length) :] = 0
    ids = torch.randint(1, WORDS, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "target": draw.randrange(3)}


def explainer(seed: int = 0) -> lrp_fx.Explainer:
    """With symbolic sizes from the first call on, so that no call is answered by another graph in another order."""
    return lrp_fx.convert(build(seed), dynamic=True)


def answer(explain: Any, number: int) -> tuple[Tensor, ...]:
    """What is compared to the bit: the score, relevance of content, and of everything by token."""
    relevance = explain(**call(number))
    return relevance.score, relevance.content["input_ids"], relevance.tokens


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))
