"""What is known of one way to inject position, and how its model is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from testing.architectures import BATCH, LENGTH, Architecture, draw_ids

Pair = tuple[str, str]


@dataclass(frozen=True)
class Kind:
    """One way to inject position in one model; ``options`` for `lrp_fx.convert`, ``target`` where the default does not
    fit.

    ``learned``: how many learned tokens the model has. ``slow``: takes long, and others are like it.
    """

    name: str
    architecture: str
    model: Architecture | Callable[[], nn.Module]
    kind: str | None
    variant: str | None = None
    also: tuple[Pair, ...] = ()
    learned: int = 0
    tokens: Callable[[], dict[str, Tensor]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    target: Callable[[Tensor], Tensor] | None = None
    slow: bool = False

    @property
    def expected(self) -> set[Pair]:
        """Every (kind, variant) that the model has."""
        return {*self.also, *([(self.kind, self.variant or "")] if self.kind else [])}

    def build(self) -> nn.Module:
        if isinstance(self.model, Architecture):
            return vary(self.model.build())
        torch.manual_seed(0)
        return vary(self.model())

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model's forward."""
        return (
            self.tokens()
            if self.tokens is not None
            else self.model.inputs()
            if isinstance(self.model, Architecture)
            else {"input_ids": draw_ids(BATCH, LENGTH)}
        )


def vary(model: nn.Module) -> nn.Module:
    """Randomise what is the same everywhere (zero tokens, zero tables), and make small matrices large enough for
    attention to attend.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() > 1 and bool((p == p.flatten()[0]).all()):
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
            if p.dim() > 1 and float(p.std()) < 0.2:
                p.mul_(0.2 / p.std())
    return model.eval()


def some(output: Tensor) -> Tensor:
    """A target for outputs without classes: a fifth of the numbers of each example."""
    return output.flatten(1)[:, ::5].sum(1)


#: (kind, variant) as the report says them.
ABSOLUTE, SINES = ("absolute", "learned"), ("absolute", "sinusoidal")
HALVES, NEIGHBOURS, COMPLEX = ("rotary", "half-split"), ("rotary", "interleaved"), ("rotary", "complex")
SCALE = ("scale", "temperature")
TABLE, NET, SLOPES = ("bias", "learned table"), ("bias", "network"), ("bias", "fixed")
ROWS, WAVES = ("disentangled", "learned table"), ("disentangled", "sinusoidal table")
NONE = (None, None)
