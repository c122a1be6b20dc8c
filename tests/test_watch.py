"""A model that is changed between calls, wherever the change lies and whether or not the next call shows it, is
explained as a new explainer explains it; one that keeps count of its own runs is not captured again for that.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.ir.look import Look
from lrp_fx.runtime import captures

pytestmark = pytest.mark.usefixtures("quiet")
FULL, PADDED = torch.tensor([[3, 4, 6, 7]]), torch.tensor([[3, 4, 5, 5]])


class Gated(nn.Module):
    """A gate that may be detached, and tokens that are left out: the first call has none of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.gate, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.pad, self.detached, self.held = 0, False, None
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        kept = (input_ids != self.pad)[..., None].double()
        x = self.words(input_ids)
        gate = torch.sigmoid(self.gate(x))
        x = x * (gate.detach() if self.detached else gate) * kept
        return self.head(x.sum(1) / kept.sum(1))  # type: ignore[no-any-return]


class Counting(Gated):
    """What it writes itself whenever it is run, in whatever form."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last_length, self.lengths = 0, 0, [0]
        self.counts = {"calls": 0, "length": 0, "by": types.SimpleNamespace(tokens=0)}

    def forward(self, input_ids: Tensor) -> Tensor:
        self.calls += 1
        self.last_length = input_ids.shape[1]
        self.lengths.append(1)
        self.counts["calls"] += 1  # type: ignore[operator]
        self.counts["length"] = input_ids.shape[1]
        self.counts["by"].tokens += 4  # type: ignore[union-attr]
        found = super().forward(input_ids)
        self.last = found.detach()
        return found


def explained_anew(model: nn.Module, ids: Tensor, rules: str) -> lrp_fx.Relevance:
    captures.forget()
    return lrp_fx.convert(model, rules=rules, progress=False)(ids)


def test_a_number_that_was_set_is_as_it_was_set() -> None:
    """The model is run with what was there before, to learn whether it writes it itself."""
    model = Gated()
    explain = lrp_fx.convert(model, progress=False)
    explain(FULL)
    model.pad = seven = 7_000
    explain(FULL)
    assert model.pad is seven and explain.statistics.captures == 2


def test_another_class_is_seen() -> None:
    model = Gated()
    explain = lrp_fx.convert(model, progress=False)
    explain(FULL)
    model.__class__ = type("Tripled", (Gated,), {"forward": lambda self, input_ids: 3 * Gated.forward(self, input_ids)})
    assert torch.allclose(explain(FULL).output, model(FULL))


@pytest.mark.parametrize("kind", [Gated, Counting])
def test_a_change_that_the_next_call_does_not_show(kind: type[Gated]) -> None:
    model = kind()
    explain = lrp_fx.convert(model, progress=False)
    explain(FULL)
    model.pad = 5
    explain(FULL)
    torch.testing.assert_close(explain(PADDED).output, model(PADDED), rtol=0, atol=1e-12)


def detach(model: Gated) -> None:
    model.detached = True


def hook(model: Gated) -> None:
    model.gate.register_forward_hook(lambda module, given, out: out.detach())


def patch(model: Gated) -> None:
    plain = model.gate.forward
    model.gate.forward = lambda x: plain(x).detach()  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [detach, hook, patch])
def test_a_gradient_that_changes_where_no_value_does(change: Callable[[Gated], None]) -> None:
    model = Gated()
    explain = lrp_fx.convert(model, rules="gradient", progress=False)
    before = explain(FULL)
    change(model)
    found = explain(FULL)
    assert not torch.allclose(found.tokens, before.tokens) and torch.allclose(found.output, before.output)
    torch.testing.assert_close(found.tokens, explained_anew(model, FULL, "gradient").tokens, rtol=0, atol=1e-12)


def test_a_change_that_no_output_shows_is_in_the_file(tmp_path: Path) -> None:
    model = Gated()
    explain = lrp_fx.convert(model, progress=False)
    explain(FULL, target=1)
    model.pad = 5
    explain.save(tmp_path / "model.lrp")
    assert torch.allclose(lrp_fx.load(tmp_path / "model.lrp")(input_ids=PADDED, target=1).output, model(PADDED))


def test_a_model_that_keeps_count_is_not_captured_again() -> None:
    model = Counting()
    explain = lrp_fx.convert(model, dynamic=True, progress=False)
    for ids in (FULL, PADDED, FULL[:, :3], PADDED, FULL.repeat(1, 2)):
        model(ids)
        torch.testing.assert_close(explain(ids).output, model(ids), rtol=0, atol=1e-12)
    assert explain.statistics.captures == 1


def test_what_the_model_writes_and_computes_with_is_compared() -> None:
    class Starting(Gated):
        """Its first run sets what somebody may set otherwise later."""

        factor = 0.0

        def forward(self, input_ids: Tensor) -> Tensor:
            if not self.factor:
                self.factor = 1.0
            return super().forward(input_ids) * self.factor

    model = Starting()
    explain = lrp_fx.convert(model, progress=False)
    explain(FULL)
    model.factor = 3.0
    assert torch.allclose(explain(FULL).output, model(FULL))


# ------------------------------------------------------------------------------------------------ where it lies
class Slotted:
    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 1.0


class Settings:
    shared = 1.0

    def __init__(self) -> None:
        self.factor = 1.0

    def hook(self, module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return out * self.factor


@dataclasses.dataclass
class Fields:
    held: dict[str, dict[str, float]]


class Unregistered(nn.Module):
    factor = 1.0


def function(x: float, factor: float = 1.0) -> float:
    return x * factor * vars(function).get("more", 1.0)  # type: ignore[no-any-return]


def tripled(x: float, factor: float = 1.0) -> float:
    return 3 * x


Space = types.SimpleNamespace
#: What an attribute of the model holds, how the model reads it, how it is changed.
HELD: dict[str, tuple[Any, Any, Any]] = {
    "dict in a dict": (lambda: {"a": {"f": 1.0}}, lambda h: h["a"]["f"], lambda h: h["a"].update(f=3.0)),
    "dict in a list": (lambda: [{"f": 1.0}], lambda h: h[0]["f"], lambda h: h[0].update(f=3.0)),
    "list in a tuple": (lambda: ([1.0],), lambda h: h[0][0], lambda h: h[0].append(h[0].pop() * 3)),
    "deque": (lambda: collections.deque([1.0]), lambda h: h[-1], lambda h: h.append(3.0)),
    "set": (lambda: {1}, sum, lambda h: h.add(2)),
    "bytes": (lambda: bytearray([1]), lambda h: h[0], lambda h: h.__setitem__(0, 3)),
    "array": (lambda: np.ones(2), lambda h: h[1], lambda h: h.__setitem__(1, 3)),
    "array in a dict": (lambda: {"a": np.ones(2)}, lambda h: h["a"][1], lambda h: h["a"].__setitem__(1, 3)),
    "tensor": (lambda: {"a": [torch.ones(())]}, lambda h: h["a"][0], lambda h: h["a"][0].fill_(3.0)),
    "tensor replaced": (
        lambda: [[torch.ones(())]],
        lambda h: h[0][0],
        lambda h: h[0].__setitem__(0, torch.tensor(3.0)),
    ),
    "slots": (Slotted, lambda h: h.factor, lambda h: setattr(h, "factor", 3.0)),
    "object": (lambda: [{"a": Settings()}], lambda h: h[0]["a"].factor, lambda h: setattr(h[0]["a"], "factor", 3.0)),
    "dataclass": (lambda: Fields({"a": {"f": 1.0}}), lambda h: h.held["a"]["f"], lambda h: h.held["a"].update(f=3.0)),
    "spaces": (lambda: Space(a=Space(b=Space(f=1.0))), lambda h: h.a.b.f, lambda h: setattr(h.a.b, "f", 3.0)),
    "module in a list": (lambda: [Unregistered()], lambda h: h[0].factor, lambda h: setattr(h[0], "factor", 3.0)),
    "defaults": (lambda: own(function), lambda h: h(1.0), lambda h: setattr(h, "__defaults__", (3.0,))),
    "code": (lambda: own(function), lambda h: h(1.0), lambda h: setattr(h, "__code__", tripled.__code__)),
    "partial": (lambda: functools.partial(max, [1.0]), lambda h: h(), lambda h: h.args[0].__setitem__(0, 3.0)),
    "type of a number": (lambda: {"a": 1}, lambda h: 3 if type(h["a"]) is float else 1, lambda h: h.update(a=1.0)),
}


def own(function: Any) -> types.FunctionType:
    return types.FunctionType(function.__code__, function.__globals__, "own", function.__defaults__)


@pytest.mark.parametrize("case", HELD)
def test_a_change_deep_inside_an_attribute(case: str) -> None:
    make, read, change = HELD[case]
    model, held = Gated(), make()
    model.held = held
    model.gate.register_forward_hook(lambda module, given, out: out * float(read(model.held)))
    explain = lrp_fx.convert(model, progress=False)
    before = explain(FULL).output
    assert model.held is held, "no copy is left in its place"
    change(held)
    explain(FULL)
    found = explain(PADDED)
    torch.testing.assert_close(found.output, model(PADDED), rtol=0, atol=1e-12)
    assert explain.statistics.captures == 2 and not torch.allclose(before, model(FULL))


def closure(model: Gated) -> Callable[[], None]:
    held = [1.0]
    model.gate.register_forward_hook(lambda module, given, out: out * held[0])
    return lambda: held.__setitem__(0, 3.0)


def keywords(model: Gated) -> Callable[[], None]:
    held = {"f": 1.0}
    model.gate.register_forward_hook(functools.partial(lambda *given, held: given[2] * held["f"], held=held))
    return lambda: held.update(f=3.0)


def bound(model: Gated) -> Callable[[], None]:
    settings = Settings()
    model.gate.register_forward_hook(settings.hook)
    return lambda: setattr(settings, "factor", 3.0)


def patched(model: Gated) -> Callable[[], None]:
    held, plain = [1.0], model.gate.forward
    model.gate.forward = lambda x: plain(x) * held[0]  # type: ignore[method-assign]
    return lambda: held.__setitem__(0, 3.0)


def of_class(model: Gated) -> Callable[[], None]:
    kind = type("Local", (), {"factor": 1.0})
    model.held = kind()
    model.gate.register_forward_hook(lambda module, given, out: out * model.held.factor)  # type: ignore[attr-defined]
    return lambda: setattr(kind, "factor", 3.0)


@pytest.mark.parametrize("prepare", [closure, keywords, bound, patched, of_class])
def test_a_change_of_what_a_hook_reads(prepare: Callable[[Gated], Callable[[], None]]) -> None:
    model = Gated()
    change = prepare(model)
    explain = lrp_fx.convert(model, progress=False)
    explain(FULL)
    change()
    assert torch.allclose(explain(FULL).output, model(FULL)) and explain.statistics.captures == 2


def test_another_explainer_sees_it_too() -> None:
    model = Gated()
    model.held = {"a": [Settings()]}  # type: ignore[assignment]
    model.gate.register_forward_hook(lambda m, given, out: out.detach() if model.held["a"][0].factor > 1 else out)  # type: ignore[index]
    lrp_fx.convert(model, rules="gradient", progress=False)(FULL)
    model.held["a"][0].factor = 3.0  # type: ignore[index]
    found = lrp_fx.convert(model, rules="gradient", progress=False)(FULL).tokens
    torch.testing.assert_close(found, explained_anew(model, FULL, "gradient").tokens, rtol=0, atol=1e-12)


def test_of_much_data_little_is_looked_at() -> None:
    model = Gated()
    model.held = [{"text": [i, i + 1]} for i in range(20_000)]  # type: ignore[assignment]
    look = Look(model)
    assert len(look._flat) < 20_000 and not look.changed()
    model.held[5]["text"].append(7)  # type: ignore[index]
    assert look.places() == [("the model", ".held", "[5]", "['text']")]


class Activated(nn.Module):
    """Modules of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.act, self.head = nn.Embedding(20, 8), nn.GELU(), nn.Linear(8, 3)
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.act(self.words(input_ids)).mean(1))  # type: ignore[no-any-return]


def _hook_for_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    from torch.nn.modules.module import register_module_forward_hook

    return register_module_forward_hook(lambda m, _, y: y * 2 if isinstance(m, nn.GELU) else None).remove


def _forward_of_a_class(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(nn.GELU, "forward", lambda _, x: torch.relu(x))
    return monkeypatch.undo


@pytest.mark.parametrize("change", [_hook_for_all, _forward_of_a_class])
def test_what_is_changed_for_all_modules_is_seen(
    change: Callable[[pytest.MonkeyPatch], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set after a first call, and taken away again."""
    model = Activated()
    explain = lrp_fx.convert(model)
    before = explain(FULL, target=1).score
    undo = change(monkeypatch)
    try:
        found, expected = explain(FULL, target=1).score, model(FULL)[:, 1].detach()
    finally:
        undo()
    assert torch.equal(found, expected) and not torch.equal(found, before)
    assert torch.equal(explain(FULL, target=1).score, before)


factor, table = 2.0, {"shift": 1.0}


def moved(x: Tensor) -> Tensor:
    return torch.tanh(x) + table["shift"]


class OfGlobals(nn.Module):
    """What it computes is told by its Python module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.inner(self.words(input_ids))

    def inner(self, x: Tensor) -> Tensor:
        return self.head(moved(x).mean(1)) * factor  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "value"), [("factor", 3.0), ("table", {"shift": 2.0}), ("moved", lambda x: x * x), ("unread", 1)]
)
def test_globals_that_a_forward_reaches_are_seen(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OfGlobals()
    explain = lrp_fx.convert(model)
    explain(FULL, target=1)
    monkeypatch.setitem(OfGlobals.forward.__globals__, name, value)
    found = explain(FULL, target=1)
    assert torch.equal(found.score, model(FULL)[:, 1].detach())
    assert explain.statistics.captures == (1 if name == "unread" else 2)
    monkeypatch.undo()
    assert torch.equal(explain(FULL, target=1).score, model(FULL)[:, 1].detach())


def test_a_container_that_a_forward_reaches_may_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OfGlobals()
    explain = lrp_fx.convert(model)
    explain(FULL, target=1)
    monkeypatch.setitem(table, "shift", 5.0)
    assert torch.equal(explain(FULL, target=1).score, model(FULL)[:, 1].detach())
