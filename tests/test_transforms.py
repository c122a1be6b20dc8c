"""Forwards that attend by functions of scores, map functions, or take gradients: explained as what they come to."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
Function = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)
        self.slopes = nn.Parameter(torch.rand(4))

    def by_values(self, x: Tensor) -> Tensor:
        return self.head((x + self.function(self, x)).mean(1))  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.by_values(self.words(input_ids))

    def heads(self, x: Tensor, of: int = 4) -> Tensor:
        return x.unflatten(-1, (-1, F // 4)).transpose(1, 2)[:, :of]


def flexible(m: Model, x: Tensor, *, causal: bool = False) -> Tensor:
    def scored(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - m.slopes[h] * (i - j).abs()

    n = x.shape[1]
    block = flex.create_block_mask(lambda b, h, i, j: i >= j, None, None, n, n, device="cpu") if causal else None
    found = flex.flex_attention(m.heads(m.inner(x)), m.heads(x, 2), m.heads(x, 2), scored, block, enable_gqa=True)
    return found.transpose(1, 2).flatten(2)  # type: ignore[union-attr]


def written(m: Model, x: Tensor, *, causal: bool = False) -> Tensor:
    k = m.heads(x, 2).repeat_interleave(2, 1)
    places = torch.arange(x.shape[1])
    distance = places[:, None] - places
    scores = m.heads(m.inner(x)) @ k.mT * (F // 4) ** -0.5 - m.slopes[:, None, None] * distance.abs()
    scores = scores.masked_fill(distance < 0, -torch.inf) if causal else scores
    return (scores.softmax(-1) @ k).transpose(1, 2).flatten(2)


def energy(m: Model, t: Tensor) -> Tensor:
    return m.inner(t).square().sum()


#: A function as `torch.func` or flex attention writes it, and the same by plain operations.
SAME: dict[str, tuple[Function, Function]] = {
    "flex, in groups and scored": (flexible, written),
    "flex, masked": (functools.partial(flexible, causal=True), functools.partial(written, causal=True)),
    "mapped": (
        lambda m, x: torch.func.vmap(lambda t: (m.inner(t) @ t.mT).softmax(-1) @ t)(x),
        lambda m, x: (m.inner(x) @ x.mT).softmax(-1) @ x,
    ),
    "a gradient": (
        lambda m, x: torch.func.vmap(torch.func.grad(lambda t: energy(m, t)))(x),
        lambda m, x: 2 * m.inner(x) @ m.inner.weight,
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if "masked" in n else []) for n in SAME])
def test_it_is_explained_as_what_it_comes_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # which takes seconds
    model, plain = (ready(Model(function)) for function in SAME[name])
    plain.load_state_dict(model.state_dict())
    found, expected = (lrp_fx.convert(m)(input_ids=ids(2), target=1) for m in (model, plain))
    assert torch.allclose(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)
    values = plain.words(ids(2)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(plain.by_values(values)[:, 1].sum(), values)
    slopes = lrp_fx.convert(model, rules="gradient")(input_ids=ids(2), target=1).content["input_ids"]
    assert torch.allclose(slopes, (gradient * values).sum(-1).detach(), rtol=1e-9, atol=1e-12)


class Layers(nn.Module):
    """Layers whose kernels a trace below autograd writes, behind a mask that is mapped or a constant."""

    def __init__(self, mapped: bool) -> None:
        super().__init__()
        self.mapped, self.words, self.head = mapped, nn.Embedding(V, F), nn.Linear(F, 3)
        self.rows, self.groups, self.channels = nn.LayerNorm(F), nn.GroupNorm(2, F), nn.InstanceNorm1d(F)
        self.batch, self.recurrent = nn.BatchNorm1d(F), nn.LSTM(F, F, batch_first=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        x, places = self.rows(self.words(input_ids)), torch.arange(input_ids.shape[1])
        causal = places[:, None] >= places
        if self.mapped:
            causal = torch.func.vmap(lambda i: torch.func.vmap(lambda j: i >= j)(places))(places)
        x = x + nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=causal)
        x = x + self.batch(self.groups(x.mT) + self.channels(x.mT)).mT
        return self.head(self.recurrent(x)[0].mean(1))  # type: ignore[no-any-return]


def test_layers_beside_a_mapped_function_keep_their_rules() -> None:
    model, plain = (ready(Layers(mapped)).float() for mapped in (True, False))  # whose kernels are others in float32
    plain.load_state_dict(model.state_dict())
    explainers = [lrp_fx.convert(m, dynamic=False, strict=True) for m in (model, plain)]
    found, expected = (explain(input_ids=ids(2), target=1) for explain in explainers)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-4, atol=1e-6)
    for name, total in expected.ledger.sinks.items():
        torch.testing.assert_close(found.ledger.sinks[name], total, rtol=1e-4, atol=1e-6)


def test_a_failing_capture_leaves_no_transform_running() -> None:
    """A mapped function that decides by values: nothing that follows is mapped, too."""

    def by_values(row: Tensor) -> Tensor:
        return torch.cov(row, correction=0)[0, :1]  # which asks whether its weights sum to zero

    model = ready(Model(lambda m, x: x * torch.vmap(by_values)(x)[:, None]))
    with pytest.raises(lrp_fx.CaptureError):
        lrp_fx.convert(model)(ids())
    assert torch._C._functorch.maybe_current_level() is None
    assert torch.isfinite(lrp_fx.convert(ready(Model(lambda m, x: m.inner(x))))(ids()).score).all()
