"""Wrappers that pass on what they are given: names are those of the model inside, captures hold for all sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embed(input_ids).tanh()).mean(1)


class Wrapper(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inside(*args, **kwargs)


@pytest.mark.parametrize("wrap", [Wrapper, lambda m: Wrapper(Wrapper(m)), nn.DataParallel])
def test_a_wrapper_is_explained_as_what_it_wraps(wrap: Any) -> None:
    model = Model().double().eval()
    expected = lrp_fx.convert(model)(input_ids=IDS)
    explainer = lrp_fx.convert(wrap(model).eval())
    torch.testing.assert_close(explainer(IDS).tokens, expected.tokens, rtol=0, atol=1e-12)
    explainer(input_ids=IDS.repeat(1, 2))
    assert explainer.rewritten.program.method == "dynamic"
    assert explainer.statistics.captures == 1
    with pytest.raises(lrp_fx.InputError, match="no argument ids; it takes input_ids"):
        explainer(ids=IDS)
