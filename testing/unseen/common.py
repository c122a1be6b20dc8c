"""What the unseen models share: sizes, inputs, random parameters, and the record of one model with its twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, CLASSES, LONGEST = 17, 8, 2, 3, 16
Inputs = Callable[[int, int], dict[str, Tensor]]


def ids(batch: int, length: int) -> dict[str, Tensor]:
    """input_ids (batch, length)."""
    return {
        "input_ids": torch.randint(
            1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(batch * 100 + length)
        )
    }


def padded(batch: int, length: int) -> dict[str, Tensor]:
    """input_ids, and a mask that is True on padding: each example but the first is a token shorter."""
    mask = torch.zeros(batch, length, dtype=torch.bool)
    mask[1:, -1] = True
    return {**ids(batch, length), "padding": mask}


def vectors(batch: int, length: int) -> dict[str, Tensor]:
    """Float inputs (batch, length, WIDTH)."""
    return {
        "x": torch.randn(
            batch, length, WIDTH, generator=torch.Generator().manual_seed(batch * 100 + length), dtype=torch.float64
        )
    }


@dataclass(frozen=True)
class Case:
    """A model, and another way to write the same function.

    ``build`` makes the model (in float64); ``twin`` takes it and gives the same function, written differently, or
              another
    module with its parameters. ``sites``: how many sites of each kind the report must name. ``unexplained``: rule ->
    nodes that are only approximated, and documented to be. ``output``: which of several outputs is explained.
    """

    name: str
    build: Callable[[], nn.Module]
    twin: Callable[[nn.Module], nn.Module] | None = None
    sites: Mapping[str, int] = field(default_factory=dict)
    inputs: Inputs = ids
    output: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def written_as(other: Callable[[], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """A twin: another class with the same parameters by name."""

    def twin(model: nn.Module) -> nn.Module:
        result = other().double().eval()
        result.load_state_dict(model.state_dict())
        return result

    return twin


class Text(nn.Module):
    """Words and learned positions, ``between``, and a head on the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = (
            nn.Embedding(VOCABULARY, WIDTH),
            nn.Embedding(LONGEST, WIDTH),
            nn.Linear(WIDTH, CLASSES),
        )

    def embed(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        return x

    def forward(self, input_ids: Tensor) -> Any:
        return self.head(self.between(self.embed(input_ids)).mean(1))

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError
