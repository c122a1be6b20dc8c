"""Masks of numbers, in every type and layout, on exponentials and on weights of a softmax: as masks of truth values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx

D, T = 4, 6
IDS = torch.randint(0, 20, (T, T), generator=torch.Generator().manual_seed(1))  # as many texts as tokens
MASK = torch.ones(T, T, dtype=torch.long).tril().flip(0)
TYPES: dict[str, Callable[[Tensor], Tensor]] = {
    "truth": lambda m: m > 0,
    "whole": lambda m: m,
    "double": lambda m: m.double(),
    "cast": lambda m: m.bool().double(),
}
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


def over(w: Tensor, dim: int) -> Tensor:
    return w / w.sum(dim, keepdim=True)


#: Scores, values and a mask of keys; the first of each pair hides the scores before.
MIXES: dict[str, tuple[Mix, Mix]] = {
    "by row": (
        lambda z, v, m: z.masked_fill(m[:, None] == 0, -torch.inf).softmax(-1) @ v,
        lambda z, v, m: over(z.exp() * m[:, None], -1) @ v,
    ),
    "divided late": (
        lambda z, v, m: z.masked_fill(m[:, None] == 0, -torch.inf).softmax(-1) @ v,
        lambda z, v, m: ((z.exp() * m[:, None]) @ v) / (z.exp() * m[:, None]).sum(-1, keepdim=True),
    ),
    "weights": (
        lambda z, v, m: z.masked_fill(m[:, None] == 0, -torch.inf).softmax(-1) @ v,
        lambda z, v, m: over(z.softmax(-1) * m[:, None], -1) @ v,
    ),
    "keys in rows": (
        lambda z, v, m: z.masked_fill(m[:, :, None] == 0, -torch.inf).softmax(1).mT @ v,
        lambda z, v, m: over(z.exp() * m[:, :, None], 1).mT @ v,
    ),
    "pooled": (
        lambda z, v, m: v + (z[..., :1].masked_fill(m[..., None] == 0, -torch.inf).softmax(1) * v).sum(1, True),
        lambda z, v, m: v + (over(z[..., :1].exp() * m[..., None], 1) * v).sum(1, True),
    ),
    "normalised": (
        lambda z, v, m: z.masked_fill(m[:, None] == 0, -torch.inf).softmax(-1) @ v,
        lambda z, v, m: F.normalize(z.exp() * m[:, None], p=1.0, dim=-1) @ v,
    ),
}


class Mixed(nn.Module):
    def __init__(self, mix: Mix, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, D), nn.Linear(D, D), nn.Linear(D, 3)
        self.mix, self.kind = mix, kind
        self.double().eval()

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, mask = self.words(ids), TYPES[self.kind](attention_mask)
        return self.head((x + self.mix(self.inner(x) @ x.mT / 2, x, mask)).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("examples", [1, T])
def test_a_mask_of_numbers(name: str, kind: str, examples: int) -> None:
    plain, masked = MIXES[name]
    model = Mixed(masked, kind)
    given = {"ids": IDS[:examples], "attention_mask": MASK[:examples]}
    for rules in ("pa-lrp", "cp-lrp"):
        found, expected = (
            lrp_fx.convert(m, rules=rules, conserve="site")(**given, target=1) for m in (model, Mixed(plain, "whole"))
        )
        torch.testing.assert_close(found.output, model(**given).detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.content["ids"], expected.content["ids"], rtol=1e-9, atol=1e-12)


class Biased(nn.Module):
    """An attention with a learned bias that is masked itself (``filled``, ``added``), or its scores are (``apart``)."""

    def __init__(self, masked: str, low: float, *, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, D), nn.Linear(D, D), nn.Linear(D, 3)
        self.bias, self.masked, self.low, self.fused = nn.Parameter(torch.randn(T, T)), masked, low, fused
        self.register_buffer("hidden", torch.zeros(T, T).masked_fill(~torch.ones(T, T).tril().bool(), low))
        self.double().eval()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        q, unseen = self.inner(x), ~torch.ones(T, T).tril().bool()
        bias = {"filled": self.bias.masked_fill(unseen, self.low), "added": self.bias + self.hidden}
        if self.fused:
            y = F.scaled_dot_product_attention(q, x, x, attn_mask=bias[self.masked], scale=0.5)
        else:
            scores = q @ x.mT / 2 + bias.get(self.masked, self.bias)
            scores = scores.masked_fill(unseen, self.low) if self.masked == "apart" else scores
            y = scores.softmax(-1) @ x
        return self.head((x + y).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("rules", ["pa-lrp", "attnlrp", "gradient", "pa-lrp-path"])
@pytest.mark.parametrize("low", [-torch.inf, -1e9])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("masked", ["filled", "added"])
def test_a_mask_inside_of_a_bias(masked: str, fused: bool, low: float, rules: str) -> None:
    """As models keep both in one buffer: as the same mask on the scores."""
    models = (Biased(masked, low, fused=fused), Biased("apart", low))
    found, expected = (lrp_fx.convert(m, rules=rules)(IDS[:2], target=1) for m in models)
    torch.testing.assert_close(found.content["ids"], expected.content["ids"], rtol=1e-9, atol=1e-12)
    assert set(found.ledger.leaves) == set(expected.ledger.leaves)
