"""Functions as targets: what they read beside the output, and what cannot be traced."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_fx
from testing.handmade import Small, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
QUERY = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
chosen = 0


class Chooser:
    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, output: Tensor) -> Tensor:
        return output[:, self.number]


def by_global(output: Tensor) -> Tensor:
    return output[:, chosen]


def test_what_a_target_reads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute, a global, a variable around it: the same object is another target then."""
    model, given = ready(Small()), ids()
    explain = lrp_fx.convert(model)
    target, around, table = Chooser(0), [0], {"number": 0}
    functions: list[Callable[[Tensor], Tensor]] = [
        target,
        target.__call__,
        by_global,
        lambda output: output[:, around[0]],
        lambda output: output[:, table["number"]],
        functools.partial(lambda output, which: output[:, which.number], which=target),
    ]
    for number in (0, 2, 1, 0):
        target.number = around[0] = table["number"] = number
        monkeypatch.setitem(globals(), "chosen", number)
        for function in functions:
            assert torch.equal(explain(given, target=function).score, model(given)[:, number])
    assert explain.statistics.captures == 1


def test_what_has_not_changed_is_compiled_once() -> None:
    explain, target = lrp_fx.convert(ready(Small())), Chooser(1)
    for _ in range(3):
        explain(ids(), target=target)
    assert explain.statistics.transposes == 1


PROBE = nn.Linear(3, 1).double().eval()
LABELS = torch.tensor([1, 2])
CLOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "a vector": lambda output: (output * QUERY).sum(-1),
    "a matrix product": lambda output: output @ QUERY,
    "a module": lambda output: PROBE(output)[:, 0],
    "labels": lambda output: output[torch.arange(2), LABELS],
    "a loss": lambda output: functional.cross_entropy(output, LABELS, reduction="none"),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_target_may_close_over_tensors(name: str) -> None:
    """Which its score follows when they are written to."""
    model, given, function = ready(Small()), ids(), CLOSED[name]
    values = model.embed(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(model.head(torch.tanh(values).mean(1))).sum(), values)
    explain = lrp_fx.convert(model, rules="gradient")
    found = explain(given, target=function)
    assert torch.allclose(found.score, function(model(given)))
    assert torch.allclose(found.content["input_ids"], (gradient * values).sum(-1).detach(), rtol=1e-9)


def test_a_tensor_that_is_written_to_is_seen() -> None:
    model, given, query = ready(Small()), ids(), QUERY.clone()
    explain = lrp_fx.convert(model)

    def function(output: Tensor) -> Tensor:
        return output @ query

    before = explain(given, target=function).score
    query.mul_(2)
    assert torch.allclose(explain(given, target=function).score, 2 * before)


class Scaled(nn.Linear):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def test_a_module_that_is_set_otherwise_is_seen() -> None:
    model, given, probe = ready(Small()), ids(), Scaled(3, 1).double().eval()
    explain = lrp_fx.convert(model)

    def function(output: Tensor) -> Tensor:
        return probe(output)[:, 0]  # type: ignore[no-any-return]

    before = explain(given, target=function).score
    probe.scale = 2.0
    assert torch.allclose(explain(given, target=function).score, 2 * before)


def test_a_target_for_these_sizes_only_costs_the_others_nothing() -> None:
    """Two labels fit two examples: the program with symbolic sizes stays, for targets that take any."""
    explain = lrp_fx.convert(ready(Small()), dynamic=True)

    def function(output: Tensor) -> Tensor:
        return output.reshape(2, 3)[:, 1] if output.shape[0] == 2 else output.new_tensor([0.0])

    explain(ids(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(ids(2), target=function)
        assert explain(ids(4)).score.shape == (4,)
    assert explain._compiler.current.program.method == "dynamic"  # type: ignore[union-attr]
    captures = explain.statistics.captures
    explain(ids(2), target=function)
    explain(ids(5))
    assert explain.statistics.captures == captures


def test_a_target_that_decides_by_values_is_refused() -> None:
    explain = lrp_fx.convert(ready(Small()))
    explain(ids())
    with pytest.raises(lrp_fx.TargetError, match="could not be transposed"):
        explain(ids(), target=lambda output: output[:, int(output[0].argmax())])
    assert explain(ids()).score.shape == (2,), "nothing is degraded"
    with pytest.raises(lrp_fx.TargetError, match="has a derivative"):
        explain(ids(), target=lambda output: output.softmax(-1).detach()[:, 0])


def test_numbers_of_numpy() -> None:
    model, given = ready(Small()), ids()
    explain = lrp_fx.convert(model)
    assert torch.equal(explain(given, target=np.int64(2)).score, model(given)[:, 2])
    assert torch.equal(explain(given, target=np.array([1, 0])).score, model(given)[torch.arange(2), [1, 0]])
