"""Adapters beside weights, and soft prompts: unmerged is merged, and what is changed after conversion is noticed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import lrp_fx

IDS = torch.randint(3, 20, (1, 6), generator=torch.Generator().manual_seed(1))
D = 8


def draw(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Adapted(nn.Module):
    """A map with low-rank maps beside it, by name; ``magnitude``: of each row of their sum, as DoRA has it."""

    def __init__(self, seed: int, *, magnitude: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(D, D, seed=seed))
        self.down = nn.ParameterDict({n: draw(2, D, seed=seed + i + 1) for i, n in enumerate("ab")})
        self.up = nn.ParameterDict({n: draw(D, 2, seed=seed + i + 3) for i, n in enumerate("ab")})
        self.magnitude = nn.Parameter(draw(D, seed=seed + 5).abs()) if magnitude else None
        self.scale, self.active, self.merged = 0.5, "a", False

    def delta(self) -> Tensor:
        return self.up[self.active] @ self.down[self.active] * self.scale

    def merge(self) -> None:
        self.weight.data = self.whole()
        self.merged = True

    def whole(self) -> Tensor:
        whole = self.weight.detach() + self.delta().detach()
        return whole if self.magnitude is None else whole * (self.magnitude / whole.norm(dim=1))[:, None].detach()

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        if self.merged or not self.active:
            return y
        y = y + (x @ self.down[self.active].T) @ self.up[self.active].T * self.scale
        if self.magnitude is None:
            return y
        return y * (self.magnitude / (self.weight + self.delta()).norm(dim=1).detach())


class Net(nn.Module):
    def __init__(self, *, magnitude: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(20, D)
        self.words.weight = nn.Parameter(draw(20, D, seed=90))
        self.maps = nn.ModuleList(Adapted(10 * i, magnitude=magnitude) for i in range(4))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        q, k, v, gate = self.maps
        x = x + (q(x) @ k(x).mT / 3).softmax(-1) @ v(x)
        return (torch.sigmoid(gate(x)) * x).mean(1)


def tokens(model: nn.Module) -> Tensor:
    return lrp_fx.convert(model, conserve="site", strict=True)(input_ids=IDS, target=1).tokens


@pytest.mark.parametrize("magnitude", [False, True], ids=["low rank", "low rank with magnitudes"])
def test_an_adapter_explains_unmerged_as_merged(magnitude: bool) -> None:
    model, merged = Net(magnitude=magnitude).eval(), Net(magnitude=magnitude).eval()
    for one in merged.maps:
        one.merge()  # type: ignore[operator]
    torch.testing.assert_close(model(IDS), merged(IDS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tokens(model), tokens(merged), rtol=0, atol=1e-12)


def change(model: Net, how: str) -> None:
    for one in model.maps:
        assert isinstance(one, Adapted)
        if how == "merged":
            one.merge()
        else:
            setattr(one, *{"disabled": ("active", ""), "scaled": ("scale", 2.0), "switched": ("active", "b")}[how])


@pytest.mark.parametrize("how", ["merged", "disabled", "scaled", "switched"])
def test_a_change_of_an_adapter_after_conversion_is_noticed(how: str) -> None:
    model = Net().eval()
    explainer = lrp_fx.convert(model)
    before = explainer(input_ids=IDS, target=1)
    change(model, how)
    found = explainer(input_ids=IDS, target=1)
    assert torch.allclose(before.output, model(IDS)) == (how == "merged")
    torch.testing.assert_close(found.output, model(IDS), rtol=1e-12, atol=1e-12)
    fresh = Net().eval()
    change(fresh, how)
    torch.testing.assert_close(found.tokens, tokens(fresh), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------ PEFT's own
def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1)
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config).eval()  # type: ignore[no-any-return]


def test_lora_of_peft_explains_unmerged_as_merged_and_its_switch_is_noticed() -> None:
    peft: Any = pytest.importorskip("peft", reason="PEFT is not installed (pip install peft)")
    options = dict(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(llama(), peft.LoraConfig(**options)).double().eval()
    explainer = lrp_fx.convert(model)
    adapted = explainer(input_ids=IDS, target=1)
    with model.disable_adapter():
        plain = explainer(input_ids=IDS, target=1)
        torch.testing.assert_close(plain.output.logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-6)
    assert (plain.tokens - adapted.tokens).abs().max() > 1e-4
    merged = lrp_fx.convert(model.merge_and_unload())(input_ids=IDS, target=1)
    torch.testing.assert_close(adapted.tokens, merged.tokens, rtol=0, atol=1e-12)


def test_a_soft_prompt_of_peft_is_learned() -> None:
    peft: Any = pytest.importorskip("peft", reason="PEFT is not installed (pip install peft)")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(llama(), config).eval()
    found = lrp_fx.convert(model)(input_ids=IDS, attention_mask=torch.ones_like(IDS), target=1)
    assert {"content", "learned", "position"} == found.ledger.leaves.keys()
    assert found.tokens.shape == IDS.shape


class Scaled(nn.Module):
    """A matrix made of another and a number, for `torch.nn.utils.parametrize`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def test_weights_that_torch_keeps_meanwhile_are_no_constants() -> None:
    net = Net()
    scaled = Scaled()
    for each in net.maps:
        parametrize.register_parametrization(each, "weight", scaled)
    explain = lrp_fx.convert(net.eval(), differentiable=True)
    with parametrize.cached():
        explain(input_ids=IDS, target=1).tokens.sum().backward()  # type: ignore[union-attr]
    assert scaled.scale.grad is not None
    with torch.no_grad():
        scaled.scale.mul_(2)
    expected = lrp_fx.convert(copy.deepcopy(net))(input_ids=IDS, target=1).tokens
    assert torch.allclose(explain(input_ids=IDS, target=1).tokens, expected, rtol=1e-9)
