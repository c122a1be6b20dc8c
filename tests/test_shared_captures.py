"""Explainers of one model share what was captured, as long as the model is what it was."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.runtime import captures
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


def bend(x: Tensor) -> Tensor:
    return torch.tanh(x)


class Settings:
    def __init__(self) -> None:
        self.slope = 2.0


class Adjustable(nn.Module):
    """All that may change in a model without a new object: an attribute, a configuration, a tensor, a function."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 4)
        self.factor, self.settings, self.loose = 1.5, Settings(), torch.ones(F, dtype=torch.float64)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        x = x + bend(self.inner(x)) * self.factor * self.loose
        return self.head(x.mean(1)) * self.settings.slope  # type: ignore[no-any-return]


class Slotted:
    __slots__ = ("low",)


class Filling(nn.Module):
    """What masked scores are filled with, in places that no attribute of a module shows; ones do not tell it."""

    low = -1e9

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head, self.slotted, self.array = (
            nn.Embedding(V, F),
            nn.Linear(F, 4),
            Slotted(),
            np.array([-1e9]),
        )
        self.slotted.low = -1e9

    def filling(self) -> float:
        return max(self.low, self.slotted.low, float(self.array[0]))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        scores = (x @ x.mT).masked_fill(attention_mask[:, None] == 0, self.filling())
        return self.head((scores.softmax(-1) @ x).mean(1))  # type: ignore[no-any-return]


def program(explain: lrp_fx.Explainer) -> object:
    return explain._compiler.current.base.program.module  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [(1, 6), (2, 6)], ids=["fixed sizes", "any sizes"])
@pytest.mark.parametrize(
    "options",
    [{"rules": "attnlrp"}, {"conserve": "site"}, {"keep_output": False}, {"strict": True}, {"without": ("simplify",)}],
    ids=lambda options: next(iter(options)),
)
def test_presets_and_options_share_a_capture(options: dict[str, object], size: tuple[int, int]) -> None:
    model, given = ready(Adjustable()), ids(*size)
    alone = lrp_fx.convert(model, **options)(input_ids=given)  # type: ignore[arg-type]
    captures.forget()
    first = lrp_fx.convert(model)
    first(input_ids=given)
    other = lrp_fx.convert(model, **options)  # type: ignore[arg-type]
    assert torch.equal(other(input_ids=given).tokens, alone.tokens)
    assert program(other) is program(first)


@pytest.mark.parametrize("options", [{"without": ("drop_masks",)}, {"dynamic": True}], ids=lambda o: next(iter(o)))
def test_what_was_captured_otherwise_is_not_shared(options: dict[str, object]) -> None:
    model, given = ready(Adjustable()), ids(1, 6)
    first, other = lrp_fx.convert(model), lrp_fx.convert(model, **options)  # type: ignore[arg-type]
    first(input_ids=given)
    other(input_ids=given)
    assert program(other) is not program(first)


def set_attribute(model: Adjustable) -> None:
    model.factor = 3.0


def set_configuration(model: Adjustable) -> None:
    model.settings.slope = -1.0


def write_weight(model: Adjustable) -> None:
    with torch.no_grad():
        model.inner.weight.mul_(2)


def replace_weight(model: Adjustable) -> None:
    model.inner.weight = nn.Parameter(model.inner.weight.detach() * 2)


def replace_loose(model: Adjustable) -> None:
    model.loose = torch.full((F,), 2.0, dtype=torch.float64)


def add_hook(model: Adjustable) -> None:
    model.inner.register_forward_hook(lambda module, args, result: result * 2)


def wrap_method(model: Adjustable) -> None:
    plain = model.inner.forward
    model.inner.forward = lambda x: plain(x) * 2  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "change",
    [set_attribute, set_configuration, write_weight, replace_weight, replace_loose, add_hook, wrap_method],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("same", [True, False], ids=["the same explainer", "another explainer"])
def test_a_changed_model_is_explained_as_it_is(change: Callable[[Adjustable], None], same: bool) -> None:
    model, given = ready(Adjustable()), ids(1, 6)
    explain = lrp_fx.convert(model)
    before = explain(input_ids=given, target=1)
    change(model)  # type: ignore[arg-type]
    found = (explain if same else lrp_fx.convert(model))(input_ids=given, target=1)
    assert torch.allclose(found.output, model(given)) and not torch.allclose(found.output, before.output)
    captures.forget()
    fresh = lrp_fx.convert(model)(input_ids=given, target=1)
    assert torch.equal(found.tokens, fresh.tokens)


@pytest.mark.parametrize("where", ["class", "slots", "array", "method"])
def test_what_the_first_call_does_not_tell(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = ready(Filling()), ids(1, 6)
    ones, padded = torch.ones(1, 6, dtype=torch.long), torch.tensor([[1, 1, 1, 1, 0, 0]])
    lrp_fx.convert(model)(input_ids=given, attention_mask=ones)
    if where == "class":
        monkeypatch.setattr(Filling, "low", 0.0)
    elif where == "method":
        monkeypatch.setattr(Filling, "filling", lambda self: 0.0)
    elif where == "slots":
        model.slotted.low = 0.0  # type: ignore[union-attr]
    else:
        model.array[0] = 0.0  # type: ignore[index]
    other = lrp_fx.convert(model)
    other(input_ids=given, attention_mask=ones)
    assert torch.allclose(other(input_ids=given, attention_mask=padded).output, model(given, padded))


def test_a_hook_that_comes_and_goes() -> None:
    model, given = ready(Adjustable()), ids(2, 6)
    explain = lrp_fx.convert(model)
    plain = explain(input_ids=given).output
    handle = model.inner.register_forward_hook(lambda module, args, result: result * 2)
    assert torch.allclose(explain(input_ids=given).output, model(given))
    handle.remove()
    assert torch.equal(explain(input_ids=given).output, plain)


class Counting(Adjustable):
    """What running it sets changes nothing that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, torch.zeros(())

    def forward(self, input_ids: Tensor) -> Tensor:
        self.calls += 1
        result = super().forward(input_ids)
        self.last = result.detach()
        return result


def test_a_model_that_keeps_count_is_captured_once() -> None:
    model = ready(Counting())
    explain = lrp_fx.convert(model)
    for rows, length in ((1, 6), (2, 7), (1, 6), (3, 9), (2, 5)):
        explain(input_ids=ids(rows, length))
        model(ids(2, 5))
    assert explain.statistics.captures == 2, "for the first sizes, and for any"


def test_a_change_is_noticed_at_whatever_size_comes_next() -> None:
    """A program that the next call does not use is compared when it is used again."""
    model = ready(Adjustable())
    explain = lrp_fx.convert(model)
    explain(input_ids=ids(1, 6))
    explain(input_ids=ids(2, 7))
    model.factor = 3.0  # type: ignore[assignment]
    for rows, length in ((2, 9), (1, 6), (2, 7)):
        given = ids(rows, length)
        assert torch.allclose(explain(input_ids=given).output, model(given))


def test_a_changed_model_is_not_saved_as_it_was(tmp_path: Path) -> None:
    model, given = ready(Adjustable()), ids(2, 6)
    explain = lrp_fx.convert(model)
    explain(input_ids=given, target=1)
    model.factor = 3.0  # type: ignore[assignment]
    with pytest.raises(lrp_fx.InputError, match=r"has been changed.*\n.*once more"):
        explain.save(tmp_path / "model.lrp")
    assert not (tmp_path / "model.lrp").exists()
    explain(input_ids=given, target=1)
    explain.save(tmp_path / "model.lrp")
    assert torch.allclose(lrp_fx.load(tmp_path / "model.lrp")(input_ids=given, target=1).output, model(given))


def test_a_function_that_was_replaced_shows_in_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(Adjustable())
    first = lrp_fx.convert(model)
    first(input_ids=ids(1, 6))
    monkeypatch.setitem(globals(), "bend", torch.sin)
    other = lrp_fx.convert(model)
    found = other(input_ids=ids(1, 6))
    assert program(other) is not program(first)
    assert torch.allclose(found.output, model(ids(1, 6)))


def test_a_model_is_let_go() -> None:
    model = ready(Adjustable())
    lrp_fx.convert(model)(input_ids=ids(1, 6))
    lrp_fx.convert(model)(input_ids=ids(2, 7))
    assert len(captures._SHARED[model]) == 2
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_few_are_kept() -> None:
    model = ready(Adjustable())
    for length in range(4, 7 + captures.KEPT):
        lrp_fx.convert(model, dynamic=False)(input_ids=ids(1, length))
    assert len(captures._SHARED[model]) == captures.KEPT
