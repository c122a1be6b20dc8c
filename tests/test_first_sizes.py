"""The first call is captured for its own sizes, others for any; a long first text by its first tokens."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.capture.example import LONGEST_TRACED, SHORTENED, shortened
from testing.architectures import ARCHITECTURES
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
EXACT = 1e-10


class Mixing(nn.Module):
    """Attention with a learned position, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(V, F), nn.Embedding(200, F), nn.Linear(F, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        scores = x @ x.mT
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None] == 0, float("-inf"))
        return self.head((x + scores.softmax(-1) @ x).mean(1))  # type: ignore[no-any-return]


class ByLength(Mixing):
    """Long texts are another function than short ones."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y = super().forward(input_ids, attention_mask)
        return -y if input_ids.shape[1] > LONGEST_TRACED else y


class TwoTexts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(V, F), nn.Linear(F, 4)

    def forward(self, input_ids: Tensor, other_ids: Tensor) -> Tensor:
        a, b = self.words(input_ids), self.words(other_ids)
        return self.head(a.mean(1) + (a @ b.mT).softmax(-1).matmul(b).mean(1))  # type: ignore[no-any-return]


def method(explain: lrp_fx.Explainer) -> str:
    return explain._compiler.current.program.method  # type: ignore[union-attr]


def traced(explain: lrp_fx.Explainer) -> list[tuple[int, ...]]:
    return [i.shape for i in explain._compiler.current.program.inputs]  # type: ignore[union-attr]


def test_the_second_size_is_captured_for_any() -> None:
    model = ready(Mixing())
    explain, any_size = lrp_fx.convert(model), lrp_fx.convert(model, dynamic=True)
    found = []
    for rows, length in ((1, 6), (1, 6), (1, 9), (3, 4), (1, 11)):
        given = ids(rows, length, seed=length)
        got, expected = explain(input_ids=given), any_size(input_ids=given)
        assert torch.allclose(got.tokens, expected.tokens, rtol=EXACT)
        assert got.position[0].relevance.shape == expected.position[0].relevance.shape
        found.append((method(explain), explain.statistics.captures))
    assert found == [("static", 1), ("static", 1), ("dynamic", 2), ("dynamic", 2), ("dynamic", 2)]


def test_one_token_has_a_position() -> None:
    """No size shows the axis of a single token: its program is for any size, and a row of it is a row of a batch."""
    model = ready(Mixing())
    explain = lrp_fx.convert(model)
    alone = explain(input_ids=ids(1, 1))
    assert method(explain) == "dynamic"
    both = lrp_fx.convert(model)(input_ids=ids(1, 1).expand(2, 1))
    assert torch.allclose(alone.tokens[0], both.tokens[0], rtol=EXACT)


@pytest.mark.parametrize(
    "name", ["gpt_neox", *(pytest.param(n, marks=pytest.mark.slow) for n in ("t5", "bert", "whisper"))]
)
def test_relevance_has_the_same_shapes_for_one_example(name: str) -> None:
    """The batch is an axis of position's relevance, though its size does not show it."""
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    model, given = architecture.build("eager").double(), architecture.inputs()
    one = {n: v[:1].double() if v.is_floating_point() else v[:1] for n, v in given.items()}
    found = [lrp_fx.convert(model, dynamic=dynamic)(**one) for dynamic in (True, False)]
    for a, b in zip(found[0].position, found[1].position, strict=True):
        assert a.relevance.shape == b.relevance.shape
        assert torch.allclose(a.relevance, b.relevance, atol=1e-9)
    for content in found[0].content:
        assert torch.allclose(found[0].content[content], found[1].content[content], rtol=1e-7, atol=1e-9)


def test_two_texts_of_one_length_are_told_apart() -> None:
    """By symbols: numbers could not say whose tokens an axis counts."""
    model = ready(TwoTexts())
    explain = lrp_fx.convert(model)
    explain(input_ids=ids(1, 5), other_ids=ids(1, 5, seed=2))
    assert method(explain) == "dynamic"
    other = lrp_fx.convert(model)
    other(input_ids=ids(1, 5), other_ids=ids(1, 7, seed=2))
    assert method(other) == "static"


def test_a_file_holds_for_any_size(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Mixing()))
    explain(input_ids=ids(1, 6), target=2)
    assert method(explain) == "static"
    explain.save(tmp_path / "model.lrp")
    loaded = lrp_fx.load(tmp_path / "model.lrp")
    for rows, length in ((1, 6), (2, 9)):
        given = ids(rows, length, seed=length)
        expected = explain(input_ids=given, target=2)
        assert torch.allclose(loaded(input_ids=given, target=2).tokens, expected.tokens, rtol=EXACT)
    assert explain.statistics.captures == 2


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_traced_by_a_part_of_it(side: str) -> None:
    model = ready(Mixing())
    text, mask = ids(4, 120, seed=3), torch.ones(4, 120, dtype=torch.long)
    mask[0, -110:] = 0
    if side == "left":
        mask = mask.flip(1)
    explain = lrp_fx.convert(model)
    found = explain(input_ids=text, attention_mask=mask)
    assert set(traced(explain)) == {(2, SHORTENED)}
    alone = lrp_fx.convert(model, dynamic=False)(input_ids=text, attention_mask=mask)
    assert torch.allclose(found.tokens, alone.tokens, rtol=EXACT)
    assert torch.equal(found.output, alone.output)


def test_a_model_that_decides_by_length_is_traced_by_all_of_it() -> None:
    model = ready(ByLength())
    explain = lrp_fx.convert(model)
    long = ids(1, LONGEST_TRACED + 9)
    assert torch.allclose(explain(input_ids=long).output, model(long))
    assert method(explain) == "dynamic" and traced(explain) == [(2, LONGEST_TRACED + 9)]
    assert torch.allclose(explain(input_ids=long[:, :9]).output, model(long[:, :9]))


def test_what_is_left_out_of_a_long_input() -> None:
    roles = {"input_ids": "content", "pixels": "content", "mask": "mask", "places": "position"}
    given = {
        "input_ids": torch.zeros(3, 100, dtype=torch.long),
        "pixels": torch.zeros(3, 100, 100, 8),
        "mask": torch.zeros(3, 1, 100, 100),
        "places": torch.arange(100),
        "flag": True,
    }
    short = shortened(given, roles)
    assert short is not None
    sizes = {n: tuple(v.shape) for n, v in short.items() if isinstance(v, Tensor)}
    assert sizes == {
        "input_ids": (2, SHORTENED),
        "pixels": (2, SHORTENED, 100, 8),
        "mask": (2, 1, SHORTENED, SHORTENED),
        "places": (SHORTENED,),
    }
    assert shortened({"input_ids": torch.zeros(2, 30, dtype=torch.long)}, roles) is None, "short as it is"
    square = {"input_ids": torch.zeros(100, 100, dtype=torch.long)}
    assert shortened(square, roles) is None, "which axis is which?"


def test_the_word_for_it() -> None:
    with pytest.raises(lrp_fx.InputError, match="dynamic='sometimes'"):
        lrp_fx.convert(ready(Mixing()), dynamic="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        lrp_fx.convert(ready(Mixing()))(input_ids=ids(1, 5))
        assert gc.isenabled() == enabled
        with pytest.raises(lrp_fx.LrpError):
            lrp_fx.convert(ready(Mixing()))(input_ids=ids(1, 5), target=99)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
