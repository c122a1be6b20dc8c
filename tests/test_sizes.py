"""Sizes: a graph is used for those alone that it was traced for, whatever the model's forward decides by them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.guards.sizes import Sizes
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
EXACT = 1e-12


class Deciding(nn.Module):
    """One of two heads, by a size."""

    def __init__(self, first: Callable[[torch.Size], bool]) -> None:
        super().__init__()
        self.first, self.embed, self.a, self.b = first, nn.Embedding(V, F), nn.Linear(F, 3), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = torch.tanh(self.embed(input_ids)).mean(1)
        return self.a(x) if self.first(input_ids.shape) else self.b(x)  # type: ignore[no-any-return]


DECISIONS: dict[str, Callable[[torch.Size], bool]] = {
    "long": lambda shape: shape[1] > 8,
    "even": lambda shape: shape[1] % 2 == 0,
    "one example": lambda shape: shape[0] == 1,
    "one token": lambda shape: shape[1] == 1,
    "more tokens than examples": lambda shape: shape[1] > 2 * shape[0],
    "many tokens in all": lambda shape: shape[0] * shape[1] >= 24,
    "in blocks": lambda shape: (shape[1] + 3) // 4 == 3,
}
SHAPES = [(2, 12), (2, 5), (1, 12), (3, 1), (1, 1), (4, 6), (2, 9), (1, 5), (2, 12)]


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_branch_on_a_size_is_taken_as_the_model_takes_it(decision: str) -> None:
    model = ready(Deciding(DECISIONS[decision]))
    explain = lrp_fx.convert(model, conserve="site")
    for batch, length in SHAPES:
        relevance = explain(input_ids=ids(batch, length), target=1)
        assert torch.allclose(relevance.output, model(ids(batch, length)), rtol=0, atol=EXACT), (batch, length)
        alone = lrp_fx.convert(model, dynamic=False)(input_ids=ids(batch, length), target=1)
        assert torch.allclose(relevance.content["input_ids"], alone.content["input_ids"], rtol=0, atol=EXACT), (
            batch,
            length,
        )


def test_what_decides_nothing_is_captured_once() -> None:
    explain = lrp_fx.convert(ready(Deciding(lambda shape: True)))
    for batch, length in SHAPES:
        explain(input_ids=ids(batch, length))
    assert explain.statistics.captures == 1


class Led(nn.Module):
    """A row before all others, and positions given for all of them or once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.row, self.head = nn.Embedding(V, F), nn.Parameter(torch.ones(1, 1, F)), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor, places: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(torch.tanh(torch.cat([self.row.expand(x.shape[0], 1, F), x], 1) + places).mean(1))  # type: ignore[no-any-return]


def test_sizes_that_are_sums_of_others() -> None:
    model = ready(Led())
    explain = lrp_fx.convert(model)
    places = torch.randn(2, 8, F, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explain(input_ids=ids(2, 7), places=places)
    explain(input_ids=ids(2, 4), places=places[:, :5])
    assert explain.statistics.captures == 1
    once = explain(input_ids=ids(2, 7), places=places[:, :1])
    fresh = lrp_fx.convert(model)(input_ids=ids(2, 7), places=places[:, :1])
    assert once.content["places"].shape == places[:, :1].shape
    assert torch.allclose(once.content["places"], fresh.content["places"], rtol=0, atol=EXACT)


def test_a_file_refuses_the_sizes_that_it_does_not_hold_for(tmp_path: Path) -> None:
    for decision, given, message in (
        ("long", (2, 5), r"made for sizes with input_ids.shape\[1\] > 8"),
        ("one example", (1, 12), r"where input_ids.shape\[0\] is 1"),
        ("one token", (2, 1), r"where input_ids.shape\[1\] is 1"),
    ):
        model = ready(Deciding(DECISIONS[decision]))
        explain = lrp_fx.convert(model)
        explain(input_ids=ids(2, 12), target=1)
        explain.save(tmp_path / "graph.lrp")
        loaded = lrp_fx.load(tmp_path / "graph.lrp")
        assert torch.allclose(loaded(input_ids=ids(3, 10), target=1).output, model(ids(3, 10)), rtol=0, atol=EXACT)
        with pytest.raises(lrp_fx.InputError, match=message):
            loaded(input_ids=ids(*given), target=1)


def test_a_file_holds_for_one_example_where_the_model_makes_no_difference(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Deciding(lambda shape: True)))
    explain(input_ids=ids(2, 12), target=1)
    explain.save(tmp_path / "graph.lrp")
    assert torch.equal(
        lrp_fx.load(tmp_path / "graph.lrp")(input_ids=ids(1, 5), target=1).score,
        explain(input_ids=ids(1, 5), target=1).score,
    )


def test_messages_name_axes() -> None:
    sizes = Sizes({"a": ("s0", "s1"), "b": ("s0", "s1 + 1", "4")}, ("s1 % 2 == 0 and s1 > 2", "s0 // (s1 - 4) != 7"))
    assert sizes.refusal({"a": (2, 6), "b": (2, 7, 4)}) is None
    assert sizes.refusal({"a": (2, 6), "b": (3, 7, 4)}) == "axis 0 of b must be as long as axis 0 of a: got 3 and 2"
    assert sizes.refusal({"a": (2, 6), "b": (2, 6, 4)}) == "axis 1 of b must be a.shape[1] + 1: got 6"
    assert sizes.refusal({"a": (2, 5), "b": (2, 6, 4)}) == "made for sizes with a.shape[1] % 2 == 0 and a.shape[1] > 2"
    assert sizes.refusal({"a": (2, 4), "b": (2, 5, 4)}) == "made for sizes with a.shape[0] // (a.shape[1] - 4) != 7", (
        "no number at all"
    )
    assert sizes.ones({"a": (1, 6), "b": (1, 7, 4)}) == {"s0"}


def test_shapes_of_outputs() -> None:
    sizes = Sizes({"a": ("s0", "s1")}, (), ("s0", "(1 + s1) // 2", "max(3, s1)", "7"))
    assert sizes.output_shape({"a": (2, 9)}) == (2, 5, 9, 7)
    with pytest.raises(lrp_fx.InputError, match=re.escape("the output has no a.shape[0] // (a.shape[1] - 9) rows")):
        Sizes({"a": ("s0", "s1")}, (), ("s0 // (s1 - 9)",)).output_shape({"a": (2, 9)})


class Resized(nn.Module):
    """Classes of tokens that are not those of the input, but more or fewer."""

    def __init__(self, resize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head, self.resize = nn.Embedding(V, F), nn.Linear(F, 3), resize

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.resize(self.embed(input_ids))))


RESIZED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "one more": (lambda x: nn.functional.pad(x, (0, 0, 1, 0), value=1.0), 1),
    "every second": (lambda x: x[:, ::2], 1),
    "windows": (lambda x: nn.functional.avg_pool1d(x.mT, 3, 2).mT, 1),
    "eight at least": (lambda x: nn.functional.pad(x, (0, 0, 0, max(8 - x.shape[1], 0))), 1),
    "by a factor that is no whole number": (lambda x: nn.functional.interpolate(x.mT, scale_factor=1.5).mT, 3),
}


@pytest.mark.parametrize("name", RESIZED)
def test_the_outputs_shape_is_known_before_it_is_computed(name: str, tmp_path: Path) -> None:
    resize, captures = RESIZED[name]
    model = ready(Resized(resize))
    explain = lrp_fx.convert(model)
    for length in (9, 12, 7):
        rows = model(ids(2, length)).shape[1]
        found = explain(input_ids=ids(2, length), target=lrp_fx.targets.Class(1, position=rows - 1))
        assert torch.allclose(found.score, model(ids(2, length))[:, -1, 1], rtol=0, atol=EXACT)
        with pytest.raises(lrp_fx.TargetError, match=f"no such position: {rows}"):
            explain(input_ids=ids(2, length), target=lrp_fx.targets.Class(1, position=rows))
        explain.save(tmp_path / "graph.lrp")
        saved = lrp_fx.load(tmp_path / "graph.lrp")(
            input_ids=ids(2, length), target=lrp_fx.targets.Class(1, position=-1)
        )
        assert torch.equal(saved.score, found.score)
        assert torch.equal(saved.content["input_ids"], found.content["input_ids"])
    assert explain.statistics.captures == captures


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "s0.bit_length()",
        "s0 ** 9",
        "[s0]",
        "'a' * s0",
        "1.5 * s0",
        "max()",
        "lambda: 1",
        "s0 if s0 else 1",
        "(",
        "s0 < s0 < s0",
    ],
)
def test_nothing_but_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises(ValueError, match="no expression of sizes"):
        Sizes({"a": ("s0",)}, (text,)).check()
    with pytest.raises(ValueError, match="no expression of sizes"):
        Sizes({"a": ("s0",)}, (), (text,)).check()
