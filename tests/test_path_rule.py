"""The path rule on whole models: books close without a sink, and what leaves a softmax as it is leaves relevance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import lrp_fx
from lrp_fx.kernels import attention_path as kernel
from testing.compiled import Compiled, words
from testing.handmade import F, V, ids, ready

MODELS = Path(__file__).parents[1] / "examples" / "models"
HEADS = 2
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attends(nn.Module):
    """One block of attention, (B, H, T, F / H) heads, with learned positions; read at the last token."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.words, self.places = nn.Embedding(V, F), nn.Embedding(16, F)
        self.q, self.k, self.v = (nn.Linear(F, F) for _ in range(3))
        self.head = nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        q, k, v = (m(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = self.attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + mixed)[:, -1])  # type: ignore[no-any-return]


def written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, scale=1.0)


def constant_in_each_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) + torch.arange(q.shape[-2])[:, None] * 3.0).softmax(-1) @ v


def query_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q * 8, k / 8, v, scale=1.0)


def heads_apart(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([fused(q[:, h], k[:, h], v[:, h]) for h in range(HEADS)], 1)


def kernel_on_constant_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, torch.zeros(q.shape[-2], k.shape[-2], dtype=q.dtype), scale=1.0)


def tokens_of(attention: Attention, rules: str = "pa-lrp-path") -> lrp_fx.Relevance:
    relevance = lrp_fx.convert(ready(Attends(attention)), rules=rules, conserve="site")(ids(), target=0)
    assert relevance.ledger.error.max() <= 1e-12
    return relevance


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return tokens_of(written).tokens


@pytest.mark.parametrize(
    "attention",
    [fused, constant_in_each_row, query_scaled, heads_apart, kernel_on_constant_mask],
    ids=lambda f: f.__name__,
)
def test_one_function_one_relevance(attention: Attention, expected: Tensor) -> None:
    assert torch.allclose(tokens_of(attention).tokens, expected, rtol=1e-9, atol=1e-9)


def test_tokens_permuted_with_their_positions(expected: Tensor) -> None:
    """All but the last token, which is read: attention does not ask for their order, positions do."""
    model, order = ready(Attends(fused)), torch.tensor([3, 1, 4, 0, 2, 5])
    with torch.no_grad():
        model.places.weight[: len(order)] = model.places.weight[order].clone()
    relevance = lrp_fx.convert(model, rules="pa-lrp-path")(ids()[:, order], target=0)
    assert torch.allclose(relevance.tokens, expected[:, order], rtol=1e-9, atol=1e-9)


def test_nothing_is_left_for_a_sink(expected: Tensor) -> None:
    tangent, path = tokens_of(fused, "pa-lrp").ledger.shares(), tokens_of(fused).ledger.shares()
    assert tangent["softmax"].abs().max() > 0.1
    assert "softmax" not in path or path["softmax"].abs().max() <= 1e-12


@pytest.mark.parametrize("is_fused", [False, True], ids=["written out", "fused"])
def test_position_decides_what_a_compiled_program_copies(is_fused: bool) -> None:
    """``reverse`` copies the mirrored token, through attention so saturated that its tangent is nothing."""
    model = Compiled(MODELS / "compiled_reverse", is_fused)
    tokens = words(model, 4)
    with torch.no_grad():
        answers = model(tokens)[:, 2].argmax(-1)
    found = {
        rules: lrp_fx.convert(model, rules=rules)(tokens, target=lrp_fx.targets.Class(answers, position=2)).ledger
        for rules in ("pa-lrp", "pa-lrp-path")
    }
    assert [model.classes[i] for i in answers] == [_letter(model, int(t)) for t in tokens[:, 4]]
    assert found["pa-lrp"].shares()["position"].abs().max() <= 1e-3
    shares = found["pa-lrp-path"].shares()
    assert shares["position"].min() >= 0.4
    assert all(shares[n].abs().max() <= 0.01 for n in shares if n not in ("content", "position"))


def _letter(model: Compiled, token: int) -> str:
    return next(t for t, number in model.vocabulary.items() if number == token)


@pytest.mark.parametrize("block", [1, 40, 10**6], ids=["a query at a time", "some", "all at once"])
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_blocks_change_nothing(block: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    c, q, k, v = (torch.randn(2, 4, 9, 3, generator=g, dtype=torch.float64) for _ in range(4))
    bias = torch.randn(4, 9, 9, generator=g, dtype=torch.float64)
    given = (c, q, k[:, :2].contiguous(), v[:, :2].contiguous(), bias, None, causal, None, 0.5)
    whole = kernel.attention_path(*given)
    monkeypatch.setattr(kernel, "_BLOCK", {"cpu": block})
    monkeypatch.setattr(kernel, "_QUERIES", 2)
    for a, b in zip(kernel.attention_path(*given), whole, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    c, q, k, v = (torch.randn(1, 2, 9, 8, generator=g).to(dtype) for _ in range(4))
    scores = 30.0  # saturated
    half = kernel.attention_path(c, q * scores, k, v, None, None, False, None, 0.5)
    wide = kernel.attention_path(*(t.double() for t in (c, q * scores, k, v)), None, None, False, None, 0.5)
    for a, b in zip(half[:3], wide[:3], strict=True):
        assert a.dtype == dtype
        assert torch.allclose(a.double(), b, rtol=2 * torch.finfo(dtype).eps, atol=1e-3 * float(b.abs().max()))


def test_rows_that_see_nothing_get_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    c, q, k, v = (torch.randn(1, 1, 3, 4, generator=g, dtype=torch.float64) for _ in range(4))
    shown = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    for start in (shown, torch.zeros(3, 3, dtype=q.dtype).masked_fill(~shown, float("-inf"))):
        of_q, of_k, of_v, _ = kernel.attention_path(c, q, k, v, None, start, False, None, 0.5)
        assert all(t.isfinite().all() for t in (of_q, of_k, of_v))
        assert not of_q[0, 0, 1].any()
    only = kernel.attention_path(c[:, :, :1], q[:, :, :1], k, v, None, shown[:1], False, None, 0.5)
    assert not only[1][0, 0, 1].any()
    assert not only[2][0, 0, 1].any()
