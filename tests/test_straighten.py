"""Values read across their memory: written out once where many read them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from lrp_fx.ir.graph import op_name
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.contiguous import make_contiguous
from testing.converted import converted

TABLE, X = (
    torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(0)),
    torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1)),
)


def straightened(function: Callable[[Tensor, Tensor], list[Tensor]], own_outputs: int = 0) -> fx.GraphModule:
    mode = FakeTensorMode()
    module = trace(function, [mode.from_tensor(TABLE), mode.from_tensor(X)], mode)
    make_contiguous(module.graph, mode, own_outputs)
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
    assert copies(straightened(three, own_outputs=3)) == [], "bias * x lies as the table does, and is no longer counted"
    values = straightened(three, own_outputs=1)(TABLE, X)
    assert values[0].stride() == (TABLE.permute(2, 0, 1).unsqueeze(0) + 0 * X).contiguous().stride()


def test_a_value_spread_over_the_others_axes_is_left() -> None:
    def function(table: Tensor, x: Tensor) -> list[Tensor]:
        column = table[:, :1, :1].permute(2, 0, 1)  # (1, 5, 1): as long as the other along one axis only
        return [x + column, x * column, x - column]

    assert copies(straightened(function)) == []


def test_other_axes_keep_their_order_too() -> None:
    """With a slope for each head a sum runs along keys, but its queries and heads lie as those of the table do."""

    def function(table: Tensor, x: Tensor) -> list[Tensor]:
        bias = table.permute(2, 0, 1)
        sums = [x[0, :, :1] * scale + bias for scale in (1.0, 2.0, 3.0)]
        return [*sums, *(value.sum(1) for value in sums)]

    assert copies(straightened(function, own_outputs=6)) == []


@pytest.mark.usefixtures("quiet")
def test_biases_of_scores_are_turned_once_for_all_layers() -> None:
    assert max(copies(converted("t5", "eager").graph), default=0) >= 3
