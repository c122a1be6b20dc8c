"""Rows divided by their length: the same, however the length is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

D = 8
IDS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(1))
NORM: Callable[[Tensor], Tensor] = lambda x: x.norm(dim=-1, keepdim=True)  # noqa: E731
SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linalg.norm": lambda x: torch.linalg.norm(x, dim=-1, keepdim=True),
    "linalg.norm of order 2": lambda x: torch.linalg.norm(x, ord=2, dim=(-1,), keepdim=True),
    "fro": lambda x: torch.linalg.norm(x[..., None], ord="fro", dim=(-2, -1), keepdim=True)[..., 0],
    "matrix_norm": lambda x: torch.linalg.matrix_norm(x[..., None], keepdim=True)[..., 0],
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
}


class Unit(nn.Module):
    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.embed, self.head = norm, nn.Embedding(20, D), nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head((x / (self.norm(x) + 1e-6)).mean(1))


def explained(norm: Callable[[Tensor], Tensor]) -> tuple[lrp_fx.Explainer, Tensor]:
    explainer = lrp_fx.convert(Unit(norm).double().eval(), dynamic=False)
    tokens = explainer(input_ids=IDS, target=1).tokens
    assert isinstance(tokens, Tensor)
    return explainer, tokens


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_length_of_a_row_is_a_statistic(spelling: str) -> None:
    explainer, tokens = explained(SPELLINGS[spelling])
    assert explainer.coverage["unexplained"] == {}, explainer.coverage["unexplained"]
    torch.testing.assert_close(tokens, explained(NORM)[1], rtol=0, atol=1e-12)
