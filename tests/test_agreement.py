"""Agreement: what was captured is compared with the model as it is, when asked for or in every call."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import PassError
from lrp_fx.runtime import explainer

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
#: A module of Python whose functions a model calls: what is set there is none of the model's attributes.
helpers = types.ModuleType("helpers")


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.scale = nn.Embedding(10, 4), nn.Linear(4, 3), 1.0
        self.eval()

    def forward(self, input_ids: Tensor) -> Any:
        return {"logits": self.scale * self.head(helpers.act(self.embed(input_ids)).mean(1))}


@pytest.fixture(autouse=True)
def _plain_helpers() -> None:
    helpers.act = torch.tanh  # type: ignore[attr-defined]


def replace_act() -> None:
    helpers.act = torch.sin  # type: ignore[attr-defined]


def test_every_call_is_compared_where_that_is_asked_for() -> None:
    model = Calls()
    explain = lrp_fx.convert(model, check="every")
    explain(IDS, target=1)
    replace_act()
    assert torch.allclose(explain(IDS, target=1).output["logits"], model(IDS)["logits"])
    assert explain.statistics.captures == 2
    explain(IDS, target=1)
    assert explain.statistics.captures == 2
    with pytest.raises(lrp_fx.InputError, match="changes, every"):
        lrp_fx.convert(model, check="never")


class Tanh(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)
        self.eval()

    def forward(self, input_ids: Tensor) -> Any:
        return self.head(torch.tanh(self.embed(input_ids)).mean(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_nobody_sees_in_every_type(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units in the last place are large in half precision: a thousand of them would allow any output."""
    model = Tanh().to(dtype)
    explain, asked = lrp_fx.convert(model, check="every"), lrp_fx.convert(model)
    explain(IDS, target=1), asked(IDS, target=1)
    sine = torch.sin
    monkeypatch.setattr(torch, "tanh", lambda x: 3.0 * sine(x))
    assert torch.allclose(explain(IDS, target=1).output, model(IDS))
    assert explain.statistics.captures == 2
    found = asked.verify()
    assert not found.ok and found.differences["output"] > found.allowed["output"]


def test_what_passes_made_of_the_program_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    run = explainer.explain
    for share, dtype in ((2**-12, torch.float32), (2**-3, torch.bfloat16)):
        model = Tanh().to(dtype)
        explain = lrp_fx.convert(model, check="every")
        before = explain(IDS, target=1).output

        def off(*given: Any, share: float = share) -> Any:
            return [replace(r, output=r.output * (1 + share)) for r in run(*given)]

        with monkeypatch.context() as patch:
            patch.setattr(explainer, "explain", off)
            with pytest.raises(PassError, match="the relevance graph differs from the model by"):
                explain(IDS, target=1)
        assert torch.equal(explain(IDS, target=1).output, before)


def test_verify_says_what_differs() -> None:
    model = Calls()
    explain = lrp_fx.convert(model)
    with pytest.raises(lrp_fx.InputError, match="nothing explained yet"):
        explain.verify()
    explain(IDS, target=1)
    assert explain.verify().ok and explain.verify(IDS).differences.keys() == {"logits"}
    replace_act()
    found = explain.verify()
    assert not found.ok and found.differences["logits"] > 1024 and "differs  logits" in str(found)
    assert torch.allclose(explain(IDS, target=1).output["logits"], model(IDS)["logits"])
    model.scale = 2.0
    found = explain.verify(IDS)
    assert not found.ok and found.changed == ("the model: scale",)


def test_verify_captures_nothing() -> None:
    explain = lrp_fx.convert(Calls())
    found = explain.verify(IDS)
    assert found.ok and not found.differences and "no graph serves" in str(found)
    assert explain.statistics.captures == 0


def test_what_was_changed_is_compared_before_it_is_saved(tmp_path: Path) -> None:
    model, file = Calls(), tmp_path / "calls.lrp"
    explain = lrp_fx.convert(model)
    before = explain(IDS, target=1, at="head")  # a file is for explanations that ask for no place, too
    model.note = "saved elsewhere"
    explain.save(file)
    assert torch.equal(lrp_fx.load(file)(input_ids=IDS, target=1).content["input_ids"], before.content["input_ids"])
    model.scale = 2.0
    with pytest.raises(lrp_fx.InputError, match="changed since it was explained last"):
        explain.save(file)
