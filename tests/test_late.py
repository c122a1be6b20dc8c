"""Values are computed as late as costs no memory: nothing lives longer for it, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.sizes import hint
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.schedule import schedule_late
from testing.converted import converted
from testing.handmade import F, V, ids, ready

X, Y = (torch.rand(3, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))


def lives(graph: fx.Graph) -> dict[str, tuple[int, int]]:
    """First and last place of each value, as numbers of computed nodes."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    return {
        node.name: (order[node], max((order[user] for user in node.users), default=order[node])) for node in graph.nodes
    }


def late(function: Callable[..., Any], *inputs: Tensor) -> list[str]:
    """The operations in their new order; values stay what they are."""
    mode = FakeTensorMode()
    module = trace(lambda *values: list(function(*values)), [mode.from_tensor(x) for x in inputs], mode)
    before = module(*inputs)
    schedule_late(module.graph)
    module.graph.lint()
    module.recompile()
    assert all(torch.equal(a, b) for a, b in zip(module(*inputs), before, strict=True))
    order = str(module.graph)
    schedule_late(module.graph)
    assert str(module.graph) == order, "once is enough"
    return [op_name(n) for n in module.graph.nodes if n.op == "call_function"]


def test_a_value_does_not_wait_for_its_reader() -> None:
    def early(x: Tensor, y: Tensor) -> list[Tensor]:
        waits = x.sin()
        return [(x * y).exp().sum() + waits.sum()]

    assert late(early, X, Y) == ["aten.mul", "aten.exp", "aten.sum", "aten.sin", "aten.sum", "aten.add"]


def test_no_operand_is_kept_for_it() -> None:
    def last_reader(x: Tensor, y: Tensor) -> list[Tensor]:
        z = x * y
        waits = z.sin()
        return [y.exp().sum() + waits.sum()]

    assert late(last_reader, X, Y)[:2] == ["aten.mul", "aten.sin"], "later, its operand would have to wait in its place"


def test_what_may_be_written_over_is_read_first() -> None:
    def shared(x: Tensor, y: Tensor) -> list[Tensor]:
        z = x * y
        waits = z.sin()
        w = x.exp().sum()
        return [(z.cos() * w).sum(), waits]

    assert late(shared, X, Y) == ["aten.exp", "aten.sum", "aten.mul", "aten.sin", "aten.cos", "aten.mul", "aten.sum"]


@pytest.mark.parametrize(
    ("name", "attention", "options"),
    [
        ("t5", "eager", {}),
        pytest.param("t5", "eager", {"conserve": "site"}, marks=pytest.mark.slow),
        ("llama", "sdpa", {"keep_output": False}),
        ("llama", "sdpa", {"checkpoint": True}),
    ],
    ids=str,
)
def test_relevance_graphs_need_less_memory(name: str, attention: str, options: dict[str, Any]) -> None:
    found = converted(name, attention, **options)
    explain = lrp_fx.convert(found.model, without=("schedule_late",), **options)
    late, early = found.graph, explain.trace(**found.inputs).relevance_graph
    assert [n.name for n in late.graph.nodes] != [n.name for n in early.graph.nodes]
    assert peak(late.graph) <= peak(early.graph)


class Biased(nn.Module):
    """Attention written out, with a bias for each pair: what softmax took is read from the weights and their
    coefficient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head, self.bias = (
            nn.Embedding(V, F),
            nn.Linear(F, 3 * F),
            nn.Linear(F, 3),
            nn.Embedding(32, 1),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(input_ids)).chunk(3, -1)
        place = torch.arange(input_ids.shape[1])
        weights = (q @ k.mT + self.bias((place[:, None] - place).abs()).squeeze(-1)).softmax(-1)
        return self.head((weights @ v).mean(1))


def test_one_temporary_less_of_queries_by_keys() -> None:
    """The derivative of softmax waits until the sinks are summed up, but not until its operand's place is taken."""
    explain = lrp_fx.convert(ready(Biased()))
    explain(input_ids=ids(2, 9), target=1)
    (derivative,) = (n for n in explain.relevance_graph.graph.nodes if op_name(n) == "aten._softmax_backward_data")
    coefficient = derivative.args[0]
    assert isinstance(coefficient, fx.Node)
    readers = sorted(coefficient.users)
    assert len(readers) > 2 and readers.index(derivative) == len(readers) - 2


def peak(graph: fx.Graph) -> int:
    """Most numbers that are there at once (what is computed, not what is given)."""
    change: dict[int, int] = {}
    for node, (start, end) in zip(graph.nodes, lives(graph).values(), strict=True):
        value = value_of(node)
        if node.op == "call_function" and isinstance(value, Tensor):
            size = 1
            for s in value.shape:
                size *= hint(s)
            change[start] = change.get(start, 0) + size
            change[end + 1] = change.get(end + 1, 0) - size
    there = found = 0
    for place in sorted(change):
        there += change[place]
        found = max(found, there)
    return found
