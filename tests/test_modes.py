"""The mode that the caller is in changes nothing: inference mode, no_grad, anomaly detection."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
}


class Probed(nn.Module):
    """With an operation whose law is found by probing it: what was found is kept for the whole process."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)

    def by_values(self, x: Tensor) -> Tensor:
        x = x + (x @ x.mT).softmax(-1) @ self.mix(x)
        return self.head(torch.sinc(x).cumsum(1).roll(1, 1).amax(1))  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.by_values(self.words(input_ids))


class FromVectors(Probed):
    def forward(self, inputs_embeds: Tensor) -> Tensor:  # type: ignore[override]
        return self.by_values(inputs_embeds)


CALLS: dict[str, Callable[[lrp_fx.Explainer], lrp_fx.Relevance]] = {
    "the first": lambda explain: explain(ids(1, 5)),
    "another size": lambda explain: explain(ids(3, 7)),
    "another target": lambda explain: explain(ids(1, 5), target=1),
    "a function": lambda explain: explain(ids(1, 5), target=lambda output: output.square().sum(-1)),
    "several": lambda explain: explain(ids(1, 5), targets=[0, 2])[1],
}


@pytest.mark.parametrize("mode", MODES)
def test_the_same_inside(mode: str) -> None:
    model = ready(Probed())
    expected = {name: call(lrp_fx.convert(model)).tokens for name, call in CALLS.items()}
    explain = lrp_fx.convert(model)
    with MODES[mode]():
        inside = {name: call(explain).tokens for name, call in CALLS.items()}
    outside = {name: call(explain).tokens for name, call in CALLS.items()}
    for name, tokens in expected.items():
        assert torch.allclose(inside[name], tokens, rtol=1e-9), name
        assert torch.equal(outside[name], inside[name]), name
    assert torch.is_inference_mode_enabled() is False and torch.is_anomaly_enabled() is False


def test_inputs_and_weights_made_in_inference_mode() -> None:
    model = ready(FromVectors())
    with torch.inference_mode():
        made = model.words(ids(2, 5))
        other = ready(FromVectors())
    plain = made.clone()
    expected = lrp_fx.convert(model)(inputs_embeds=plain).content["inputs_embeds"]
    for each in (model, copy.deepcopy(other)):
        found = lrp_fx.convert(each)(inputs_embeds=made).content["inputs_embeds"]
        assert torch.allclose(found, expected, rtol=1e-9)
    with pytest.raises(lrp_fx.InputError, match=r"inside torch.inference_mode.*\n.*deepcopy"):
        lrp_fx.convert(other)(inputs_embeds=made)
