"""Reasons: what cannot be explained says why in a sentence, and what to do instead."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.tensor([[1, 2, 3, 4]])


class Base(nn.Module):
    """``change`` is asked of the mean of the tokens."""

    def __init__(self, change: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.change = nn.Embedding(10, 4), nn.Linear(4, 3), change
        self.eval()

    def forward(self, input_ids: Tensor) -> Any:
        return self.head(self.change(self.embed(input_ids)).mean(1))


class Counts(Base):
    calls = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * super().forward(input_ids)  # type: ignore[no-any-return]


def noisy(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def batched(x: Tensor) -> Tensor:
    _, _, _ = x.shape
    return x


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Base(nn.functional.dropout), r"random numbers.*bernoulli.*\n.*next: turn that off"),
        (Base(noisy), r"random numbers.*randn_like at test_reasons.py:\d+: return x \+ torch"),
        (Counts(), "keeps something from one call to the next"),
    ],
    ids=["dropout", "noise", "counter"],
)
def test_other_outputs_for_the_same_inputs(model: nn.Module, says: str) -> None:
    with pytest.raises(lrp_fx.CaptureError, match=says):
        lrp_fx.convert(model)(IDS)
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("model", "given", "says"),
    [
        (Base(), "a text", "no tokenizer is known\n    next: convert.model, tokenizer="),
        (Base(batched), IDS[0], r"the batch; for one example give input_ids\[None\]"),
        (torch.export.export(Base(), (IDS,)).module(), IDS, "explain the model that it was exported from"),
        (Base().to("meta"), IDS, "no weights yet: .*meta device\n    next: explainer.bind"),
    ],
    ids=["text", "one-dimensional", "exported", "meta"],
)
def test_inputs_and_models_that_are_something_else(model: nn.Module, given: Any, says: str) -> None:
    with pytest.raises(lrp_fx.InputError, match=says):
        lrp_fx.convert(model)(given)


@pytest.mark.filterwarnings("ignore:torch")
def test_packed_weights() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(Base(), {nn.Linear}, dtype=torch.qint8).eval()
    with pytest.raises(lrp_fx.CaptureError, match="packed into TorchScript objects.*\n.*before it is quantised"):
        lrp_fx.convert(quantised)(IDS)


def test_a_list_that_was_cut_is_no_training() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))).eval()
    held = nn.Module()
    held.layers = nn.ModuleList([model])[:1]  # type: ignore[assignment]
    held.forward = lambda input_ids: held.layers[0](input_ids).mean(1)  # type: ignore[assignment, index, operator]
    held.training = False
    assert held.layers.training
    assert lrp_fx.convert(held)(input_ids=IDS).score.shape == (1,)


def test_the_loss_is_not_what_is_explained() -> None:
    class Loses(Base):
        def forward(self, input_ids: Tensor) -> Any:
            logits = super().forward(input_ids)
            return logits.logsumexp(-1).sum(), logits

    model = Loses().eval()
    assert torch.allclose(lrp_fx.convert(model)(IDS, target=2).score, model(IDS)[1][:, 2])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"])
def test_copies_and_pickles_explain_alike(copied: Any) -> None:
    explain = lrp_fx.convert(Base(), rules="attnlrp", roles={"input_ids": "content"})
    expected = explain(IDS, target=1)
    other = copied(explain)
    assert other.model is not explain.model and other.statistics.captures == 0
    assert torch.equal(other(IDS, target=1).content["input_ids"], expected.content["input_ids"])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda x, ids: x[ids > 2].unsqueeze(0), r"values of the inputs \(test_reasons.py:\d+"),
        (lambda x, ids: x * 2 if ids.sum() > 5 else x, r"decides by numbers that it reads out of tensors"),
    ],
    ids=["inputs", "python"],
)
def test_why_every_call_is_traced(how: Any, says: str) -> None:
    class Decides(Base):
        def forward(self, input_ids: Tensor) -> Any:
            return self.head(how(self.embed(input_ids), input_ids).mean(1))

    with pytest.warns(UserWarning, match=says):
        lrp_fx.convert(Decides()).trace(IDS)
