"""Relevance that carries gradients: they are those of the numbers, steps need no new capture, and what cannot be is
refused.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError, UnsupportedOperatorError
from testing.architectures import BY_NAME
from testing.converted import best_attention, inputs_of

pytestmark = pytest.mark.usefixtures("quiet")
RULES = ("pa-lrp", "attnlrp", "pa-lrp-gamma", "pa-lrp-path", "gradient")
IDS = torch.tensor([[1, 5, 2, 6]])


class Tiny(nn.Module):
    """One block: positions, a layer norm, causal attention with a kernel, a gated map; then a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.norm = nn.Embedding(8, 4), nn.Embedding(6, 4), nn.LayerNorm(4)
        self.qkv, self.up, self.down, self.head = nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        x = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        x = x + self.places(torch.arange(x.shape[1]))
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + mixed.transpose(1, 2).flatten(2)
        gate, up = self.up(x).chunk(2, -1)
        return self.head((x + self.down(nn.functional.gelu(gate) * up)).mean(1))


def tiny() -> Tiny:
    return Tiny().double().eval()


# ------------------------------------------------------------------------------------------------ gradients
@pytest.mark.parametrize("rules", RULES)
def test_gradients_are_those_of_the_numbers(rules: str) -> None:
    """Of content, and of all else that a result holds, for a parameter of every part and for vectors."""
    model = tiny()
    explain = lrp_fx.convert(model, rules=rules, differentiable=True)
    vectors = model.words(IDS).detach().requires_grad_()
    parameters = [model.norm.weight, model.qkv.weight, model.up.bias, model.head.weight, model.places.weight]

    def content(x: Tensor, *_: Tensor) -> Tensor:
        return explain(inputs_embeds=x, target=1).content["inputs_embeds"]

    def others(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        found = explain(inputs_embeds=x, target=1)
        return (found.score, found.output, *(s.relevance for s in found.position), *found.ledger.sinks.values())

    assert torch.autograd.gradcheck(content, (vectors, *parameters), fast_mode=True)
    assert torch.autograd.gradcheck(others, (vectors, *parameters), fast_mode=True)
    assert explain.statistics.captures == explain.statistics.transposes == 1


def test_gradients_of_tokens_reach_what_made_the_vectors() -> None:
    model = tiny()
    explain = lrp_fx.convert(model, {"input_ids": IDS}, differentiable=True)
    by_ids = explain(input_ids=IDS, target=1).tokens
    assert isinstance(by_ids, Tensor)
    (direct,) = torch.autograd.grad((by_ids**2).sum(), model.words.weight)
    found = explain(inputs_embeds=model.words(IDS), target=1)
    by_vectors = found.content["inputs_embeds"].sum(-1) + sum(s.per_token("signed") for s in found.position)
    (made,) = torch.autograd.grad((by_vectors**2).sum(), model.words.weight)
    torch.testing.assert_close(made, direct, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.float64).min], ids=["infinity", "lowest"])
def test_hidden_scores_hand_on_no_nan(hidden: float) -> None:
    """Minus infinity times a coefficient of zero: chosen away in relevance, and it must not come back in a gradient."""

    class Padded(Tiny):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
            x = self.words(input_ids)
            q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
            mask = torch.zeros_like(attention_mask, dtype=x.dtype).masked_fill(attention_mask == 0, hidden)
            weights = torch.softmax(q @ k.transpose(-1, -2) + mask[:, None, None], -1)
            return self.head((x + (weights @ v).transpose(1, 2).flatten(2)).mean(1))

    model = Padded().double().eval()
    mask = torch.tensor([[1, 1, 1, 0]])
    explain = lrp_fx.convert(model, rules="gradient", differentiable=True)

    def books(*_: Tensor) -> tuple[Tensor, ...]:
        found = explain(input_ids=IDS, attention_mask=mask, target=1)
        return (found.content["input_ids"], *found.ledger.sinks.values())

    assert torch.autograd.gradcheck(books, (model.qkv.weight, model.words.weight), fast_mode=True)


def test_what_torch_has_no_second_derivative_of_is_written_out() -> None:
    """The derivative of a group norm, which the preset `gradient` asks for."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.norm, self.head = nn.Embedding(8, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.norm(self.words(input_ids).transpose(1, 2)).tanh().mean(2))

    model = Grouped().double().eval()
    explain = lrp_fx.convert(model, rules="gradient", differentiable=True)

    def tokens(*_: Tensor) -> Tensor:
        return explain(input_ids=IDS, target=1).tokens  # type: ignore[return-value]

    assert torch.autograd.gradcheck(tokens, (model.words.weight, model.norm.weight), fast_mode=True)
    assert "native_group_norm_backward" not in explain.relevance_graph.code


def test_a_pool_that_is_transposed_by_a_copy() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.pool, self.head = nn.Embedding(20, 8), nn.AdaptiveAvgPool1d(1), nn.Linear(8, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            classes: Tensor = self.head(self.pool(self.words(input_ids).tanh().transpose(1, 2)).flatten(1))
            return classes

    model = Pooled().double().eval()
    explain = lrp_fx.convert(model, rules="gradient", differentiable=True)

    def tokens(*_: Tensor) -> Tensor:
        return explain(input_ids=IDS, target=1).tokens  # type: ignore[return-value]

    assert torch.autograd.gradcheck(tokens, (model.words.weight, model.head.weight), fast_mode=True)


SWEEP = "bert gpt2 llama modernbert qwen3 gemma3 opt phi mixtral t5 vit swin bloom".split()


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["pa-lrp", "pa-lrp-path", "gradient"])
@pytest.mark.parametrize("name", SWEEP)
def test_gradients_of_architectures(name: str, rules: str) -> None:
    """Along a random direction of all parameters together, against finite differences."""
    architecture = BY_NAME[name]
    model = architecture.build(best_attention(architecture), torch.float64)
    inputs = inputs_of(architecture, torch.float64)
    explain = lrp_fx.convert(model, rules=rules, differentiable=True)
    parameters = list(model.parameters())

    def loss() -> Tensor:
        found = explain(**inputs, target=lambda output: output.flatten(1)[:, 1])
        named = found.tokens if not {i for i in found.inputs if "pixel" in i} else found.content
        return sum(((t**2).sum() for t in ([named] if isinstance(named, Tensor) else named.values())), torch.zeros(()))

    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    expected = slope(loss, parameters, directions)
    assert abs(found - expected) <= 1e-5 * max(abs(found), abs(expected)) + 1e-9
    assert explain.statistics.captures == explain.statistics.transposes == 1


def slope(loss: Callable[[], Tensor], parameters: list[nn.Parameter], directions: list[Tensor]) -> float:
    """Of a loss along directions of the parameters, which are left as they were."""
    step, found = 1e-6, []
    with torch.no_grad():
        kept = [p.clone() for p in parameters]
        for side in (step, -step):
            for p, at, d in zip(parameters, kept, directions, strict=True):
                p.copy_(at + side * d)
            found.append(float(loss()))
        for p, at in zip(parameters, kept, strict=True):
            p.copy_(at)
    return (found[0] - found[1]) / (2 * step)


# ------------------------------------------------------------------------------------------------ training
def test_steps_of_an_optimiser_need_no_new_capture() -> None:
    model = Tiny().eval()
    explain = lrp_fx.convert(model, differentiable=True)
    given = {"input_ids": IDS, "target": 1}
    steps, before = torch.optim.Adam(model.parameters(), lr=1e-2), None
    for _ in range(3):
        model.eval()
        tokens: Any = explain(**given).tokens
        before = tokens.detach() if before is None else before
        model.train()  # as loops do for the other part of their loss
        loss = (tokens**2).sum() + model(IDS).square().sum()
        steps.zero_grad()
        loss.backward()
        steps.step()
    model.eval()
    after = explain(**given)
    assert (explain.statistics.captures, explain.statistics.transposes) == (1, 1)
    assert not torch.allclose(after.tokens, before)  # type: ignore[arg-type]
    fresh = lrp_fx.convert(model, differentiable=True)(**given)
    assert torch.equal(after.tokens, fresh.tokens)  # type: ignore[arg-type]
    plain = lrp_fx.convert(model)(**given)
    torch.testing.assert_close(after.tokens, plain.tokens, rtol=1e-4, atol=1e-6)


def test_a_penalty_on_relevance_lowers_it() -> None:
    model = Tiny().eval()
    explain = lrp_fx.convert(model, differentiable=True)
    steps, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(10):
        loss = explain(input_ids=IDS, target=1).tokens[:, 2].square().sum()  # type: ignore[call-overload]
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


# ------------------------------------------------------------------------------------------------ results
def test_results_are_read_drawn_kept_and_copied() -> None:
    """Nothing that looks at numbers trips over autograd, or warns of it; the same numbers without are one call away."""
    explain = lrp_fx.convert(Tiny().eval(), differentiable=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Converting a tensor with requires_grad")
        found = explain(input_ids=IDS, target=1)
        assert found.tokens.requires_grad and found.score.requires_grad and found.output.requires_grad  # type: ignore[union-attr]
        assert all(total.requires_grad for total in found.ledger.sinks.values())
        assert not found.detach().tokens.requires_grad and found.detach().detach() is not found  # type: ignore[union-attr]
        assert f"{found!r}{found.ledger}{found.ledger!r}{found.target[0]}" and found.top(2) and found.to_json()
        assert "<" in found.to_html()
        found.ledger.check()
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(twin.tokens, found.tokens) and not twin.tokens.requires_grad  # type: ignore[arg-type]


def test_several_targets_carry_gradients() -> None:
    model = tiny()
    explain = lrp_fx.convert(model, {"input_ids": IDS}, differentiable=True)
    one, two = explain(input_ids=IDS, targets=[1, 2])
    together = torch.autograd.grad((one.tokens * two.tokens).sum(), model.qkv.weight)  # type: ignore[operator]
    alone = [explain(input_ids=IDS, target=t).tokens for t in (1, 2)]
    apart = torch.autograd.grad((alone[0] * alone[1]).sum(), model.qkv.weight)  # type: ignore[operator]
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_file_holds_a_plain_graph(tmp_path: Any) -> None:
    explain = lrp_fx.convert(Tiny().eval(), differentiable=True)
    found = explain(input_ids=IDS, target=1)
    explain.save(tmp_path / "graph.lrp")
    loaded = lrp_fx.load(tmp_path / "graph.lrp")(input_ids=IDS, target=1)
    assert not loaded.tokens.requires_grad  # type: ignore[union-attr]
    torch.testing.assert_close(loaded.tokens, found.detach().tokens, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize("other", ["compile", "checkpoint"])
def test_settings_that_do_not_go_together(other: str) -> None:
    with pytest.raises(InputError, match=f"differentiable=True and {other}=True do not go together"):
        lrp_fx.convert(Tiny().eval(), differentiable=True, **{other: True})  # type: ignore[arg-type]


def test_where_no_gradient_can_be_had() -> None:
    model = Tiny().eval()
    explain = lrp_fx.convert(model, {"input_ids": IDS}, differentiable=True)
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        explain(input_ids=IDS)
    with torch.no_grad():
        assert not explain(input_ids=IDS).tokens.requires_grad  # type: ignore[union-attr]
    model.train()
    with pytest.raises(InputError, match=r"call model.eval\(\) first .*gradients flow all the same"):
        explain(input_ids=IDS)


def test_an_operation_without_a_derivative_is_named() -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.centres = nn.Embedding(8, 4), nn.Parameter(torch.randn(3, 4))

        def forward(self, input_ids: Tensor) -> Tensor:
            return torch.cdist(self.words(input_ids).mean(1), self.centres)

    with pytest.raises(UnsupportedOperatorError) as caught:
        lrp_fx.convert(Distances().eval(), rules="gradient", differentiable=True)(input_ids=IDS)
    text = str(caught.value)
    assert "aten._cdist_backward" in text and "next:" in text and "test_differentiable.py" in text


def test_copies_of_parameters_are_refused() -> None:
    """A float64 model with float32 parameters computes with copies of these: gradients would end there."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.narrow, self.head = nn.Embedding(8, 9).double(), nn.Linear(9, 4), nn.Linear(4, 2).double()

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.narrow(self.words(input_ids).float()).double().mean(1))

    with pytest.raises(InputError, match="no gradient would reach narrow_weight"):
        lrp_fx.convert(Mixed().eval(), differentiable=True)(input_ids=IDS)


class Normalised(nn.Module):
    """A norm over channels, whose statistics torch returns without a derivative."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.words, self.map, self.norm, self.head = nn.Embedding(11, 4), nn.Linear(4, 4), norm, nn.Linear(4, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.norm(self.map(self.words(input_ids)).mT).mT
        return self.head(x.tanh()).mean(1)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True)], ids=lambda n: type(n).__name__
)
def test_statistics_of_norms_are_differentiated(norm: nn.Module) -> None:
    model = Normalised(norm).double().eval()
    explain = lrp_fx.convert(model, rules="gradient", differentiable=True, dynamic=False)

    def content(*_: Tensor) -> Tensor:
        return explain(input_ids=IDS, target=1).content["input_ids"]

    assert torch.autograd.gradcheck(content, (model.map.weight,), fast_mode=True)
