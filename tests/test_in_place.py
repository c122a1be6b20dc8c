"""Results in the place of operands: only where nobody looks at them again, and with the same numbers to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import operation_name
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.reuse_buffers import IN_PLACE, reuse_buffers
from lrp_fx.optimize.simplify import simplify
from lrp_fx.runtime.run import Running
from testing.architectures import BY_NAME

X, Y = (torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(s)) + 0.5 for s in (0, 1))
ROW = torch.arange(1.0, 5.0)
WRITERS = {str(target) for target in IN_PLACE.values()}


def written(graph: fx.Graph) -> list[str]:
    """The operations of its code that write in place."""
    targets = [target for target, _ in reuse_buffers(graph).values()]
    return [operation_name(target) for target in targets if str(target) in WRITERS]


def rewritten(function: Callable[..., Any], *inputs: Tensor, tidily: bool = False) -> fx.Graph:
    """The function's graph for running, which must give what the function gives, twice, and leave its inputs alone."""
    mode = FakeTensorMode()
    pure = trace(lambda *values: list(function(*values)), [mode.from_tensor(x) for x in inputs], mode)
    if tidily:  # its example values lie in memory as they did before
        simplify(pure.graph)
        pure.recompile()
        function = pure
    before = str(pure.graph)
    running = Running(pure)
    running(*(x.clone() for x in inputs))
    assert str(pure.graph) == before
    expected, copies = function(*(x.clone() for x in inputs)), [x.clone() for x in inputs]
    for _ in range(2):
        for value, other in zip(running(*copies), expected, strict=True):
            assert torch.equal(value, other) and value.stride() == other.stride()
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))
    return pure.graph


def test_a_chain_of_elementwise_operations_needs_memory_once() -> None:
    assert written(rewritten(lambda x, y: [(x * y).clamp_min(0.1).log() * y - x], X, Y)) == [
        "aten.clamp_min_",
        "aten.log_",
        "aten.mul_",
        "aten.sub_",
    ]


def chosen(gate: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(x, gate, 0.0)  # type: ignore[no-any-return]


def test_a_choice_makes_room_where_both_operands_lie_alike() -> None:
    def count(function: Callable[..., Any], *inputs: Tensor) -> int:
        return sum("grad_input" in more for _, more in reuse_buffers(rewritten(function, *inputs)).values())

    def product(c: Tensor, x: Tensor) -> list[Tensor]:
        s = torch.bmm(c, x)
        return [chosen(s.abs(), s * x), s]

    assert count(product, X, Y) == 1
    turned = Y.transpose(1, 2)
    assert count(lambda c, x: [chosen((s := torch.bmm(c, x)).abs(), x * s), s], X, turned) == 0, (
        "the product lies as x does"
    )
    assert (
        count(
            lambda c, x: [chosen((s := torch.bmm(c, x).sum(-1, keepdim=True).expand(3, 4, 4)).abs(), s * x)], X, turned
        )
        == 0
    ), "elements that are repeated have no order"


def test_only_the_first_operand_makes_room() -> None:
    assert written(rewritten(lambda x, y: [(x + y) * x], X, Y)) == ["aten.mul_"]
    assert written(rewritten(lambda x, y: [x * (x + y), x - (x + y)], X, Y)) == []


def test_numbers_of_a_wider_type_are_rounded_where_they_stand() -> None:
    scale, narrow = torch.tensor(0.3337), X.bfloat16()
    assert written(rewritten(lambda s, x: [s * (x + x)], scale, narrow)) == []
    assert written(rewritten(lambda s, x: [(x + x) * s], scale, narrow)) == ["aten.mul_"]


def test_a_matrix_product_is_overwritten_behind_its_reshape() -> None:
    assert written(rewritten(lambda x, y: [torch.bmm(x, y).reshape(3, 2, 8) * y.reshape(3, 2, 8)], X, Y)) == [
        "aten.mul_"
    ]


def test_squares() -> None:
    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        total = x + y
        return [total * total]

    assert written(rewritten(function, X, Y)) == ["aten.mul_"]


def look_read_later(s: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    turned = s.transpose(1, 2)
    return [s.abs(), turned.sum()]


def read_later_than_its_look(s: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    turned = s.transpose(1, 2)
    return [turned.abs(), s.sum()]


def part_read_later(s: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    first, _ = torch.split(s, 2, 1)
    return [s.neg(), first.exp()]


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x, y: [s.sum(), x * y],
        lambda s, x, y: [s.abs(), s],
        lambda s, x, y: [s.abs(), s.sum()],
        lambda s, x, y: [s * s.transpose(1, 2)],
        lambda s, x, y: [s.transpose(1, 2) * s],
        look_read_later,
        read_later_than_its_look,
        part_read_later,
        lambda s, x, y: [s.sum(-1, keepdim=True) * y],
        lambda s, x, y: [s[:, :2].neg()],
        lambda s, x, y: [s.sum(), x.transpose(0, 1).neg()],
    ],
    ids=[
        "inputs",
        "an output",
        "read later",
        "with its transpose",
        "its transpose with it",
        "a look read later",
        "read later than its look",
    ]
    + ["a part of it", "broadcast", "a look of unknown kind", "an input behind a look"],
)
def test_what_is_looked_at_again_stays(function: Callable[..., Any]) -> None:
    assert written(rewritten(lambda x, y: function(x + y, x, y), X, Y)) == []


def test_looks_that_have_been_read_are_over() -> None:
    assert written(
        rewritten(lambda x, y: [(s := x + y).transpose(1, 2).sum(), s.transpose(0, 1).exp().sum(), s.neg()], X, Y)
    ) == ["aten.neg_"]


def test_another_type_needs_memory_of_its_own() -> None:
    assert written(rewritten(lambda x, y: [(x + x) * y.double()], X, Y)) == []


def test_results_lie_in_memory_as_the_first_operand_does() -> None:
    assert written(rewritten(lambda x, y: [(y.transpose(1, 2) + y.transpose(1, 2)) / (x + x)], X, Y)) == ["aten.div_"]
    assert written(rewritten(lambda x, y: [(x + x) / y.transpose(1, 2)], X, Y)) == ["aten.div_"]

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        product = y * ((x + y).transpose(1, 2).clone(memory_format=torch.contiguous_format) * 2.0)
        return [product, product.sum(1), product.sum((0, 2))]

    rewritten(
        function, *(torch.randn(7, 33, 33, generator=torch.Generator().manual_seed(s)) for s in (0, 1)), tidily=True
    )


def test_broadcast_operands_are_read_not_written() -> None:
    assert written(rewritten(lambda x, row: [(x + x) * (row + row)], X, ROW)) == ["aten.mul_"]
    assert written(rewritten(lambda x, row: [(row + row) * (x + x)], X, ROW)) == []


class Placed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.up, self.head = (
            nn.Embedding(20, 16),
            nn.Embedding(20, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.up(self.places(position_ids)) + self.words(input_ids))).mean(1)  # type: ignore[no-any-return]


@pytest.mark.usefixtures("quiet")
def test_what_is_broadcast_is_another_graph() -> None:
    """Positions of one row for two texts, after a graph that was captured with two rows: the sum would not fit in their
    place.
    """
    model = Placed().eval()
    ids, places = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0)), torch.arange(7)[None]
    explainer = lrp_fx.convert(model)
    explainer(input_ids=ids, position_ids=places.expand(2, 7))
    again = explainer(input_ids=ids, position_ids=places)
    fresh = lrp_fx.convert(model)(input_ids=ids, position_ids=places)
    assert explainer.statistics.captures == 2
    torch.testing.assert_close(again.tokens, fresh.tokens)


def test_the_code_follows_its_graph() -> None:
    mode = FakeTensorMode()
    pure = trace(lambda x, y: [(x + y).abs() * 2], [mode.from_tensor(X), mode.from_tensor(Y)], mode)
    running = Running(pure)
    for _ in range(3):
        assert torch.equal(running(X, Y)[0], (X + Y) * 2)
    (doubled,) = [n for n in pure.graph.nodes if op_name(n) == "aten.mul"]
    with pure.graph.inserting_before(doubled):
        doubled.args = (
            pure.graph.call_function(torch.ops.aten.neg.default, (doubled.args[0],)),
            2,
        )  # without an example value
    pure.recompile()
    assert torch.equal(running(X, Y)[0], (X + Y) * -2)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("name", "conserve"),
    [
        ("t5", "total"),
        ("gpt2", "site"),
        pytest.param("llama", "total", marks=pytest.mark.slow),
        pytest.param("bert", "site", marks=pytest.mark.slow),
    ],
)
def test_whole_explanations_are_the_same_to_the_bit(name: str, conserve: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = BY_NAME[name]
    inputs = architecture.inputs()
    explainer = lrp_fx.convert(architecture.build(), conserve=conserve)
    explainer(**inputs)
    drawn = explainer._compiler.built
    assert drawn is not None
    graph = drawn.graph.module.graph
    assert not any(str(n.target) in WRITERS for n in graph.nodes) and len(written(graph)) > 20
    seen: list[Any] = []
    running = Running.__call__

    def watched(self: Running, *given: Tensor) -> Any:
        seen.append((given, flat := running(self, *given)))
        return flat

    monkeypatch.setattr(Running, "__call__", watched)
    explainer(**inputs)
    ((given, flat),) = seen
    with torch.no_grad():
        for value, other in zip(flat, drawn.graph.module(*given), strict=True):
            assert not isinstance(value, Tensor) or torch.equal(value, other)
