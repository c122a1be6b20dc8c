"""A table of pairs that is added to scores is a bias between tokens, however scores and softmax are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx

WIDTH, TOKENS = 6, 8
IDS = torch.randint(0, 20, (3, TOKENS), generator=torch.Generator().manual_seed(1))
Weights = Callable[[Tensor, Tensor], Tensor]


class Biased(nn.Module):
    """An attention; its weights are written by what is given."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.bias, self.weights = nn.Parameter(torch.randn(TOKENS, TOKENS)), weights

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        y = self.inner(x)
        return self.head((x + self.weights(y, self.bias) @ y).mean(1).tanh())  # type: ignore[no-any-return]


def reference(y: Tensor, bias: Tensor) -> Tensor:
    return (y @ y.mT / 3 + bias).softmax(-1)


def written_out(y: Tensor, bias: Tensor) -> Tensor:
    e = (y @ y.mT / 3 + bias).exp()
    return e / e.sum(-1, keepdim=True)


def written_with_the_largest_off(y: Tensor, bias: Tensor) -> Tensor:
    z = y @ y.mT / 3 + bias
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


SPELLINGS: dict[str, Weights] = {
    "written out": written_out,
    "the largest off": written_with_the_largest_off,
    "baddbmm": lambda y, b: torch.baddbmm(b.repeat(y.shape[0], 1, 1), y, y.mT, alpha=1 / 3).softmax(-1),
    "baddbmm, expanded": lambda y, b: torch.baddbmm(b.expand(y.shape[0], -1, -1), y, y.mT, alpha=1 / 3).softmax(-1),
    "baddbmm, twice half": lambda y, b: torch.baddbmm(b / 2, y, y.mT, beta=2, alpha=1 / 3).softmax(-1),
    "addmm": lambda y, b: torch.stack([torch.addmm(b, a, a.mT, alpha=1 / 3).softmax(-1) for a in y.unbind()]),
}


@pytest.mark.parametrize("rules", ["pa-lrp", "pa-lrp-centred"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_bias_is_one_in_any_spelling(name: str, rules: str) -> None:
    if name == "addmm" and rules != "pa-lrp":
        pytest.skip("a bias in a loop over examples is not centred: the books say so")
    models = (Biased(weights).double().eval() for weights in (SPELLINGS[name], reference))
    found, expected = (lrp_fx.convert(m, rules=rules, conserve="site")(IDS, target=1) for m in models)
    assert {site.kind for site in found.position} == {"bias"}
    assert isinstance(found.tokens, Tensor) and isinstance(expected.tokens, Tensor)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)


def test_a_term_that_is_not_looked_at_is_none() -> None:
    def without(y: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm((bias * torch.nan).expand(len(y), -1, -1), y, y.mT, beta=0, alpha=1 / 3).softmax(-1)

    models = (Biased(weights).double().eval() for weights in (without, lambda y, b: (y @ y.mT / 3).softmax(-1)))
    found, expected = (lrp_fx.convert(m, conserve="site")(IDS, target=1).content["ids"] for m in models)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def by_index(table: Tensor, tokens: int) -> Tensor:
    place = torch.arange(tokens)
    return table[place - place[:, None] + TOKENS - 1]


def by_slices(table: Tensor, tokens: int) -> Tensor:
    return torch.stack([table[TOKENS - 1 - i : TOKENS - 1 - i + tokens] for i in range(tokens)])


def by_skew(table: Tensor, tokens: int) -> Tensor:
    rows = F.pad(table.expand(tokens, -1), (0, 1)).reshape(-1)[: tokens * (2 * tokens - 1)]
    return rows.reshape(tokens, -1)[:, tokens - 1 :]


@pytest.mark.parametrize("cut", [by_index, by_slices, by_skew])
def test_a_table_of_distances_is_one_for_the_fused_kernel(cut: Callable[[Tensor, int], Tensor]) -> None:
    """However its rows are laid along the diagonals."""

    def fused(y: Tensor, bias: Tensor) -> Tensor:
        unit = torch.eye(TOKENS, dtype=y.dtype).expand(len(y), -1, -1)  # the weights themselves
        return F.scaled_dot_product_attention(y, y, unit, attn_mask=cut(bias, TOKENS), scale=1 / 3)

    def plain(y: Tensor, bias: Tensor) -> Tensor:
        return (y @ y.mT / 3 + by_index(bias, TOKENS)).softmax(-1)

    models = (Biased(weights) for weights in (fused, plain))
    table = torch.randn(2 * TOKENS - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explained = []
    for model in models:
        model.double().eval().bias = nn.Parameter(table)
        explained.append(lrp_fx.convert(model, conserve="site")(IDS, target=1))
    found, expected = explained
    assert [site.kind for site in found.position] == [site.kind for site in expected.position] == ["bias"]
    assert isinstance(found.tokens, Tensor) and isinstance(expected.tokens, Tensor)
    assert float(expected.ledger.leaves["position"].abs().min()) > 1e-4
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)


def test_a_bias_by_key_alone_belongs_to_the_keys() -> None:
    """A term of one row, which a kernel adds to scores: told by token, as in the plain spelling."""

    def kernel(y: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias[None, :1].repeat(len(y), 1, 1), y, y.mT, alpha=1 / 3).softmax(-1)

    def plain(y: Tensor, bias: Tensor) -> Tensor:
        return (y @ y.mT / 3 + bias[:1]).softmax(-1)

    models = (Biased(weights).double().eval() for weights in (kernel, plain))
    found, expected = (lrp_fx.convert(m, conserve="site")(IDS, target=1).per_token(content=False) for m in models)
    assert isinstance(found, Tensor) and isinstance(expected, Tensor) and bool(expected.abs().sum() > 0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
