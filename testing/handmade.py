"""What the tests of hand-written models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Words, features, tokens, examples.
V, F, T, B = 20, 8, 6, 2


def ready(model: nn.Module) -> nn.Module:
    """Float64, evaluation mode, every parameter random (zero biases hide mistakes)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return model.double().eval()


def ids(batch: int = B, length: int = T, seed: int = 1) -> Tensor:
    return torch.randint(1, V, (batch, length), generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """A classifier of the mean of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(input_ids)).mean(1))  # type: ignore[no-any-return]
