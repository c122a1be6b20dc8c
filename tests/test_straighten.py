"""Values read across their memory: written out once where many read them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx.program import op_name
from lrp_fx.snippet import trace
from lrp_fx.straighten import straighten

from .architectures import BY_NAME

TABLE, X = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(0)), torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def straightened(function: Callable[[Tensor, Tensor], list[Tensor]], wanted: int = 0) -> fx.GraphModule:
    mode = FakeTensorMode()
    module = trace(function, [mode.from_tensor(TABLE), mode.from_tensor(X)], mode)
    straighten(module.graph, mode, wanted)
    module.graph.lint()
    module.recompile()
    for value, other in zip(module(TABLE, X), function(TABLE, X), strict=True):
        assert torch.equal(value, other)
    return module


def copies(module: fx.GraphModule) -> list[int]:
    """How many read each copy."""
    return [len(n.users) for n in module.graph.nodes if op_name(n) == "aten.clone"]


def three(table: Tensor, x: Tensor) -> list[Tensor]:
    bias = table.permute(2, 0, 1).unsqueeze(0)
    return [x + bias, bias * x, x - bias]


def test_one_copy_for_many_reads() -> None:
    assert copies(straightened(three)) == [3]


def test_two_reads_are_not_worth_a_copy() -> None:
    assert copies(straightened(lambda table, x: three(table, x)[:2])) == []


def test_what_lies_along_memory_is_read_where_it_is() -> None:
    assert copies(straightened(lambda table, x: three(x[0].permute(1, 2, 0), x))) == []


def test_the_models_own_outputs_keep_the_order_that_they_have() -> None:
    """Kernels round by the order of memory: a result of the forward pass that lay across memory still does."""
    assert copies(straightened(three, wanted=3)) == [], "bias * x lies as the table does, and is no longer counted"
    values = straightened(three, wanted=1)(TABLE, X)
    assert values[0].stride() == (TABLE.permute(2, 0, 1).unsqueeze(0) + 0 * X).contiguous().stride()


def test_a_value_spread_over_the_others_axes_is_left() -> None:
    def function(table: Tensor, x: Tensor) -> list[Tensor]:
        column = table[:, :1, :1].permute(2, 0, 1)  # (1, 5, 1): as long as the other along one axis only
        return [x + column, x * column, x - column]

    assert copies(straightened(function)) == []


class Slopes(nn.Module):
    """Attention whose scores get a slope for each head besides the turned table: their sum lies in memory as the table does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.table, self.head = nn.Embedding(50, 32), nn.Embedding(64, 4), nn.Linear(32, 3)
        self.slope, self.maps = nn.Parameter(torch.rand(4, 1, 1)), nn.ModuleList(nn.Linear(32, 96) for _ in range(4))

    def forward(self, input_ids: Tensor) -> Tensor:
        x, steps = self.words(input_ids), torch.arange(input_ids.shape[1])
        bias = self.table((steps[:, None] - steps).clamp(-31, 31) + 32).permute(2, 0, 1)
        for qkv in self.maps:
            q, k, v = qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            weights = torch.sigmoid((self.slope * steps + bias) + q @ k.transpose(-1, -2) / 8)
            x = x + (weights / weights.sum(-2, keepdim=True) @ v).transpose(1, 2).flatten(2)
        return self.head(x).mean(1)  # type: ignore[no-any-return]


@pytest.mark.usefixtures("quiet")
def test_the_output_is_the_models_to_the_bit() -> None:
    model, ids = Slopes().eval(), torch.randint(0, 50, (2, 45), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(lrp_fx.convert(model, conserve="off")(input_ids=ids).output, model(ids))


@pytest.mark.usefixtures("quiet")
def test_biases_of_scores_are_turned_once_for_all_layers() -> None:
    architecture = BY_NAME["t5"]
    explainer = lrp_fx.convert(architecture.build())
    explainer(**architecture.inputs())
    assert max(copies(explainer.relevance_graph), default=0) >= 3
