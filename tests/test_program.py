"""Programs as modules: compiled when they are first run, and again when their graph has changed."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

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
