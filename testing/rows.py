"""Rows of a data set in small: a classifier under a mask, a tokenizer of letters, and texts of all lengths."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from testing.handmade import V

#: More tokens than there are places for.
PLACES = 24


class Classifier(nn.Module):
    """Attends under a mask, adds learned places, and answers from the first token."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(V, width), nn.Embedding(PLACES, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        scores = scores.masked_fill(attention_mask[:, None] == 0, float("-inf"))
        x = self.norm(x + scores.softmax(-1) @ self.value(x))
        return self.head(x[:, 0])  # type: ignore[no-any-return]


class Tokenizer:
    """Words are letters, called like a tokenizer of transformers."""

    pad_token_id, eos_token_id = 0, 1

    def __len__(self) -> int:
        return V

    def __call__(self, *texts: str, **options: Any) -> dict[str, list[int]]:
        ids = [1 + (ord(c) - ord("a")) % (V - 1) for text in texts for c in text if c != " "]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"<{i}>" for i in ids]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice("abcdefgh") for _ in range(draw.randint(2, PLACES - 4))) for _ in range(count)]
