"""Arguments beside the tensors of a call are told apart by what they hold, not by what they say of themselves."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.ir.seen import told

pytestmark = pytest.mark.usefixtures("quiet")
IDS = torch.tensor([[3, 4, 6, 7]])


class Scaled(nn.Module):
    """Multiplied with what ``read`` makes of an argument."""

    def __init__(self, read: Callable[[Any], float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head, self.read = nn.Embedding(20, 8), nn.Linear(8, 3), read
        self.double().eval()

    def forward(self, input_ids: Tensor, given: Any = None) -> Tensor:
        return self.head(torch.tanh(self.words(input_ids) * self.read(given)).mean(1))  # type: ignore[no-any-return]


@dataclasses.dataclass
class Hidden:
    factor: float = dataclasses.field(repr=False)


class Silent:
    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __repr__(self) -> str:
        return "Silent()"


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Unregistered(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


class Weighing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


class Kind(enum.Enum):
    ONE, THREE = 1.0, 3.0


def local(number: float) -> type:
    class Local:
        def factor(self) -> float:
            return number

        shared = number

    return Local


def closing(held: list[float]) -> Callable[[], float]:
    return lambda: held[0]


def with_middle(number: float) -> Any:
    array = np.zeros(3000)
    array[1500] = number
    return array


def factor(given: Any) -> float:
    return float(given.factor)


#: How the model reads the argument, and two that differ.
PAIRS: dict[str, tuple[Callable[[Any], float], Any, Any]] = {
    "arrays": (lambda a: float(a.sum()) + 1, with_middle(1), with_middle(2)),
    "small digits": (lambda a: float(a[0] - 1) * 1e9, np.array([1 + 1e-9]), np.array([1 + 3e-9])),
    "fields that are not shown": (factor, Hidden(1.0), Hidden(3.0)),
    "its own repr": (factor, Silent(1.0), Silent(3.0)),
    "deep inside": (
        lambda a: float(a.factor["a"][0].factor),
        Silent({"a": [Slotted(1.0)]}),
        Silent({"a": [Slotted(3)]}),
    ),
    "classes of one name": (lambda a: float(a.shared), local(1.0), local(3.0)),
    "objects of classes of one name": (lambda a: float(a.factor()), local(1.0)(), local(3.0)()),
    "functions": (lambda a: float(a()), closing([1.0]), closing([3.0])),
    "members": (lambda a: float(a.value), Kind.ONE, Kind.THREE),
    "types of a number": (lambda a: 1.0 if type(a) is int else 3.0, 1, 1.0),
    "sets": (lambda a: float(sum(a)), {1, 2}, {1, 5}),
}
#: An argument, and how it is changed in place.
CHANGED: dict[str, tuple[Callable[[Any], float], Callable[[], Any], Callable[[Any], Any]]] = {
    "slots": (factor, lambda: Slotted(1.0), lambda a: setattr(a, "factor", 3.0)),
    "module": (factor, lambda: Unregistered(1.0), lambda a: setattr(a, "factor", 3.0)),
    "weight": (lambda a: float(a.weight), Weighing, lambda a: a.weight.data.fill_(3.0)),
    "closure": (lambda a: a[1](), lambda: (held := [1.0], closing(held)), lambda a: a[0].append(a[0].pop() * 3)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_arguments_that_differ(case: str) -> None:
    read, one, other = PAIRS[case]
    model = Scaled(read)
    explain = lrp_fx.convert(model, progress=False)
    before = explain(IDS, given=one).output
    for _ in range(2):
        found = explain(IDS, given=other).output
        torch.testing.assert_close(found, model(IDS, other), rtol=0, atol=1e-12)
    assert explain.statistics.captures == 2 and not torch.allclose(found, before)


@pytest.mark.parametrize("case", CHANGED)
def test_an_argument_that_was_changed(case: str) -> None:
    read, make, change = CHANGED[case]
    model, given = Scaled(read), make()
    explain = lrp_fx.convert(model, progress=False)
    before = explain(IDS, given=given).output
    change(given)
    found = explain(IDS, given=given).output
    torch.testing.assert_close(found, model(IDS, given), rtol=0, atol=1e-12)
    assert not torch.allclose(found, before)


def test_objects_that_come_and_go() -> None:
    """The next may lie where the last one lay; one that holds the same is the same."""
    model = Scaled(factor)
    explain = lrp_fx.convert(model, progress=False)
    for number in (1.0, 3.0, 1.0, 3.0):
        torch.testing.assert_close(explain(IDS, given=Silent(number)).output, model(IDS, Silent(number)))
    assert explain.statistics.captures == 2


def test_what_holds_the_same_says_the_same() -> None:
    for make in (
        lambda: Silent([with_middle(1)]),
        lambda: closing([1.0]),
        lambda: local(1.0)(),
        lambda: Unregistered(2),
    ):
        assert told(make()) == told(make())
    one, other = object(), object()
    assert told(one) == told(one) != told(other)
    round_about: list[Any] = [1]
    round_about.append(round_about)
    assert told(round_about) == told(round_about)
    assert told({"a": (1, 0.5, None, "x")}) == repr({"a": (1, 0.5, None, "x")})


def test_a_tensor_of_one_number_is_an_argument_like_any_other() -> None:
    """It has no axis, and other numbers need no other graph."""

    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
            self.double().eval()

        def forward(self, input_ids: Tensor, temperature: Tensor) -> Tensor:
            return self.head(torch.tanh(self.words(input_ids)).mean(1)) / temperature  # type: ignore[no-any-return]

    model = Tempered()
    explain = lrp_fx.convert(model, rules="gradient")
    for number in (2.0, 3.0):
        temperature = torch.tensor(number, dtype=torch.float64)
        found = explain(IDS, temperature, target=1)
        x = model.words(IDS).detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.head(torch.tanh(x).mean(1))[0, 1] / temperature, x)
        torch.testing.assert_close(found.content["input_ids"], (slope * x).sum(-1).detach(), rtol=1e-9, atol=1e-12)
    assert explain.statistics.captures == 1
