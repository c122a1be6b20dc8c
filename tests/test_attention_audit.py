"""The audit of fused attention computes the softmax's sink another way, whatever is broadcast, masked or hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lrp_fx.rule import Call, registry, sample
from testing.laws import check_balance, with_value

GENERATOR = torch.Generator().manual_seed(3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


Q, K, V, ONE_HEAD = draw(2, 2, 4, 3), draw(2, 2, 5, 3), draw(2, 2, 5, 3), draw(2, 1, 4, 3)
SEES = torch.ones(2, 1, 4, 5, dtype=torch.bool)
SEES[..., 2] = False
BLIND = SEES.clone()
BLIND[0, 0, 1] = False  # a query that sees nothing


def attention(
    *args: object, masks: frozenset[int] = frozenset(), carriers: tuple[int, ...] = (0, 1, 2), **kwargs: object
) -> Call:
    return replace(
        sample(torch.ops.aten.scaled_dot_product_attention.default, *args, carriers=carriers, **kwargs), masks=masks
    )


def hidden(sees: Tensor) -> Tensor:
    return torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, float("-inf"))


CALLS = {
    "a mask": attention(Q, K, V, SEES),
    "a query sees nothing": attention(Q, K, V, BLIND),
    "minus infinity": attention(Q, K, V, hidden(BLIND), masks=frozenset({3})),
    "a bias": attention(Q, K, V, draw(1, 2, 4, 5), carriers=(0, 1, 2, 3)),
    "shared heads": attention(Q, K[:, :1], V[:, :1], SEES, enable_gqa=True),
    "one head for all": attention(Q, ONE_HEAD, ONE_HEAD * 2, None, 0.0, True),
    "no batch": attention(Q[0, 0], K[0, 0], V[0, 0], SEES[0, 0]),
    "a scale": attention(Q, K, V, scale=2.0),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("known", [False, True], ids=["computed", "given"])
def test_audit(name: str, known: bool) -> None:
    rule = registry.rules["attention.taylor"]
    check_balance(rule, with_value(CALLS[name]) if known else CALLS[name])
