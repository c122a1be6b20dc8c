"""Keeps: a model that keeps more than its weights: some of it decides on what it computes, and some does not."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from testing.handmade import V


@dataclass
class Options:
    """How it is set, in an object of its own."""

    power: float = 1.0
    names: frozenset[str] = frozenset({"alpha", "beta", "gamma", "delta"})


class Store:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.held: dict[int, Tensor] = {}
        self.asked = 0

    def put(self, key: int, value: Tensor) -> None:
        self.asked += 1
        self.held[key] = value


class Keeps(nn.Module):
    """Ids to two outputs, by attributes of many kinds; counts its calls, and keeps the sizes it has seen."""

    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(V, 4), nn.Linear(4, 2)
        self.register_buffer("shift", torch.linspace(-1, 1, 4), persistent=False)
        self.temperature, self.scaling, self.options = 1.0, {"default": 1.0}, Options()
        self.active, self.plain = ["default"], torch.ones(4)
        self.hidden = [nn.Linear(4, 4)]  # in a list: no module of the model, as far as torch knows
        self.calls, self.sizes, self.store, self.last = 0, {}, Store(), None  # type: ignore[var-annotated]
        self.seen: list[int] = []
        self.register_buffer("runs", torch.zeros(()), persistent=False)
        self.lock = threading.Lock()

    def forward(self, input_ids: Tensor) -> Tensor:
        self._count(input_ids)
        x = self.words(input_ids) + self.shift
        x = self.hidden[0](x) * self.temperature * self.gain * self.options.power * self.plain
        if {"alpha", "default"} & set(self.active):  # strings in a set have another order in every process
            x = x * self.scaling["default"]
        return self.head(torch.tanh(x).mean(1))  # type: ignore[no-any-return]

    def _count(self, ids: Tensor) -> None:
        self.calls += 1
        self.sizes[ids.shape[-1]] = self.calls
        self.seen.append(int(ids.shape[-1]))
        self.store.put(self.calls, ids)
        self.last = ids
        self.runs.add_(1)


def kept() -> Any:
    """One, the same whenever it is asked for."""
    return Keeps().eval()
