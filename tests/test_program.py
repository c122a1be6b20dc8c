"""Programs as modules: compiled when they are first run, and again when their graph has changed."""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_fx.ir.code import function_of, run_once
from lrp_fx.ir.program import FlatModule


def doubled() -> FlatModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (x, 2)),))
    return FlatModule(nn.Module(), graph)


def test_code_is_written_when_it_is_run() -> None:
    module = doubled()
    assert "forward" not in vars(type(module))
    assert module(torch.ones(1)) == (2,)
    assert "forward" in vars(type(module))
    assert module(torch.ones(1)) == (2,), "and not again"


def test_a_graph_that_changed_is_compiled_again() -> None:
    module = doubled()
    module(torch.ones(1))
    (product,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    product.update_arg(1, 3)
    module.recompile()
    assert module(torch.ones(1)) == (3,)


def test_two_programs_do_not_share_their_code() -> None:
    one, two = doubled(), doubled()
    one(torch.ones(1))
    two.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)[0].update_arg(1, 5)
    two.recompile()
    assert (one(torch.ones(1)), two(torch.ones(1))) == ((2,), (5,))


def test_copies_and_text() -> None:
    module = doubled()
    assert copy.deepcopy(module)(torch.ones(1)) == (2,)
    assert "aten.mul.Tensor" in module.print_readable(print_output=False)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])


def test_arguments_of_every_kind_are_written() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    scale = graph.create_node("placeholder", "scale", (2.5,))
    weight = graph.get_attr("blocks.0.weight")
    mapped = graph.call_function(torch.ops.aten.linear.default, (x, weight))
    padded = graph.call_function(torch.ops.aten.constant_pad_nd.default, (mapped, [1, 0], -math.inf))
    wide = graph.call_function(torch.ops.aten._to_copy.default, (padded,), {"dtype": torch.float64})
    first = graph.call_function(lambda parts, **more: (parts["a"][..., 1:] * more["by"], "it's"), ({"a": wide},))
    first.kwargs = {"by": scale}
    graph.output({"y": graph.call_function(getitem, (first, 0)), "whole": (wide, [scale, None, slice(0, x)])})
    module = Nested()
    given = torch.ones(1, 2)
    found, once = function_of(graph)(module, given), run_once(graph, module, [given])
    expected = fx.GraphModule(module, graph)(given)
    assert torch.equal(once["y"], expected["y"]) and once["whole"][1][2].stop is given
    assert torch.equal(found["y"], expected["y"]) and found["y"].dtype == torch.float64
    assert torch.equal(found["whole"][0], expected["whole"][0]) and found["whole"][1][:2] == [2.5, None]
    assert found["whole"][1][2].stop is given


def getitem(value: Any, index: int) -> Any:
    return value[index]


def test_values_go_behind_the_last_call_that_reads_them() -> None:
    seen: list[weakref.ref[Tensor]] = []

    def made(x: Tensor) -> Tensor:
        seen.append(weakref.ref(result := x + 1))
        return result

    def alive(x: Tensor) -> list[bool]:
        return [ref() is not None for ref in seen]

    graph = fx.Graph()
    x = graph.placeholder("x")
    read, unread = graph.call_function(made, (x,)), graph.call_function(made, (x,))
    assert not unread.users
    before = graph.call_function(alive, (x,))
    total = graph.call_function(torch.sum, (read,))
    graph.output((before, graph.call_function(alive, (x,)), total))
    assert function_of(graph)(nn.Module(), torch.ones(2))[:2] == ([True, False], [False, False])
    seen.clear()
    assert run_once(graph, nn.Module(), [torch.ones(2)])[:2] == ([True, False], [False, False])


def test_a_graph_that_is_not_flat_is_refused_and_run_as_torch_writes_it() -> None:
    graph = fx.Graph()
    graph.output((graph.call_method("double", (graph.placeholder("x"),)),))
    with pytest.raises(NotImplementedError, match="call_method"):
        function_of(graph)
    assert FlatModule(nn.Module(), graph)(torch.ones(1))[0].dtype == torch.float64
