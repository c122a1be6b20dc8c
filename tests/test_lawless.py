"""Rules that break a law are caught by it, and by no law that they keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import lrp_fx
from lrp_fx.rule import Call, Rule, covers, freeze, missing_freeze, registered, registry, sample, sink
from testing.laws import (
    F64,
    check_balance,
    check_linearity,
    check_reference,
    check_sinks,
    check_value,
)

aten = torch.ops.aten
rule_of = registry.rules


def _lawless(surrogate: Callable[[Call], Any], **changes: Any) -> Rule:
    fields: dict[str, Any] = {
        "kind": "elementwise",
        "law": "none",
        "cites": ("bach2015",),
        "ops": covers("aten", "silu"),
        "reference": lambda call, R_y: [R_y],
        **changes,
    }
    return Rule(name="lawless", surrogate=surrogate, **fields)


def _silu(scale: Callable[[Tensor], Tensor]) -> Callable[[Call], Any]:
    return lambda call: scale(call.args[0] * freeze(torch.sigmoid(call.args[0])))


SILU = sample(aten.silu.default, torch.tensor([[0.3, -2.0, 4.0]], dtype=F64))


def test_a_lawful_rule_passes() -> None:
    rule = _lawless(_silu(lambda y: y))
    for check in (check_value, check_balance, check_linearity, check_reference, check_sinks):
        check(rule, SILU)


def test_a_rule_of_wrong_value_is_caught() -> None:
    with pytest.raises(AssertionError, match="value off"):
        check_value(_lawless(_silu(lambda y: 1.000001 * y)), SILU)


def test_a_rule_that_loses_relevance_is_caught() -> None:
    """Right in value, half of it constant, and the constant declared nowhere."""
    rule = _lawless(_silu(lambda y: 0.5 * y + 0.5 * y.detach()))
    check_value(rule, SILU)
    with pytest.raises(AssertionError, match="out .* in "):
        check_balance(rule, SILU)


def test_a_rule_that_doubles_relevance_is_caught() -> None:
    rule = _lawless(_silu(lambda y: 2.0 * y - y.detach()))
    check_value(rule, SILU)
    with pytest.raises(AssertionError, match="out .* in "):
        check_balance(rule, SILU)


def test_a_rule_that_does_not_freeze_is_caught() -> None:
    rule = _lawless(lambda call: call.args[0] * torch.sigmoid(call.args[0]))
    check_value(rule, SILU)
    with pytest.raises(AssertionError, match="a `freeze` is missing in the surrogate of lawless for aten.silu"):
        check_linearity(rule, SILU)
    with pytest.raises(AssertionError, match="out .* in "):
        check_balance(rule, SILU)


def test_a_missing_freeze_is_seen_in_sizes_alone() -> None:
    """The question that is asked when a rule is first transposed; only surrogates that must be linear are accused."""
    open_, frozen = _lawless(lambda call: call.args[0] * torch.sigmoid(call.args[0])), _lawless(_silu(lambda y: y))
    with FakeTensorMode():
        abstract = sample(aten.silu.default, torch.empty(2, 3))
    assert "a `freeze` is missing" in (missing_freeze(open_, abstract) or "")
    assert missing_freeze(frozen, abstract) is None
    assert missing_freeze(replace(open_, kind="homogeneous"), abstract) is None


def test_a_derivative_that_reads_its_operand_and_is_linear_all_the_same_is_not_accused() -> None:
    """Sampling a grid is linear in the image, but its derivative has the image among its arguments."""
    image, grid = torch.randn(1, 2, 4, 4, dtype=F64), torch.rand(1, 3, 3, 2, dtype=F64)
    call = sample(aten.grid_sampler_2d.default, image, grid, 0, 0, False)
    assert missing_freeze(_lawless(lambda call: call.run(), kind="linear"), call) is None


CHOICES = {
    "max_pool1d": lambda y: torch.nn.functional.max_pool1d(y.mT, 3, 1, 1).mT,
    "max_pool2d": lambda y: torch.nn.functional.max_pool2d(y, 2),
    "adaptive": lambda y: torch.nn.functional.adaptive_max_pool1d(y.mT, 2).mT,
    "topk": lambda y: y.topk(2, -1).values,
    "median": lambda y: y.median(1, keepdim=True).values,
    "kthvalue": lambda y: y.kthvalue(2, 1, True).values,
    "cummax": lambda y: y.cummax(1).values,
    "sort": lambda y: y.sort(-1).values,
    "maximum": lambda y: torch.maximum(y, y.roll(1, 1)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_needs_no_freeze(name: str) -> None:
    """Its coefficients depend on which value wins, and hold that fixed."""

    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.LazyLinear(2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(CHOICES[name](self.embed(ids)).flatten(1))
            return found

    torch.manual_seed(0)
    model, ids = Choosing().double().eval(), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    model(ids)
    relevance = lrp_fx.convert(model, conserve="site")(ids, target=0)
    assert relevance.ledger.error.max() < 1e-10 and "unexplained" not in relevance.ledger.sinks


def test_a_choice_that_is_none_is_accused() -> None:
    call = sample(aten.amax.default, torch.randn(3, 4, dtype=F64), [1], True)
    assert missing_freeze(_lawless(lambda call: call.run(), kind="route"), call) is None
    assert missing_freeze(_lawless(lambda call: call.run() * call.args[0], kind="route"), call) is not None


def test_a_user_is_told_where_a_freeze_is_missing() -> None:
    rule = _lawless(lambda call: call.args[0] * torch.sigmoid(call.args[0]))
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.SiLU(), nn.Linear(12, 2)).double().eval()
    with registered(rule), pytest.raises(lrp_fx.LrpError) as caught:
        lrp_fx.convert(model)(torch.tensor([[1, 2, 3]]), target=0)
    for part in ("a `freeze` is missing", "lawless", "%silu", "next: "):
        assert part in str(caught.value)


def test_a_shared_product_with_weights_that_depend_on_the_values_is_caught() -> None:
    call = sample(
        aten.mul.Tensor, torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, -1.0], dtype=F64), carriers=(0, 1)
    )

    def surrogate(call: Call) -> Any:
        a, b = call.args
        weight = torch.sigmoid(a.detach())
        return a * b.detach() * weight + a.detach() * b * (1 - weight)

    rule = _lawless(surrogate, kind="product", ops=covers("aten", "mul"))
    check_value(rule, call)
    check_balance(rule, call)
    with pytest.raises(AssertionError, match="neither linear"):
        check_linearity(rule, call)


def test_a_rule_that_moves_relevance_to_the_wrong_place_is_caught() -> None:
    """Right value, linear, its books close: only the published formula tells."""
    call = sample(
        aten.mul.Tensor, torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, -1.0], dtype=F64), carriers=(0, 1)
    )
    rule = _lawless(
        lambda c: c.args[0] * freeze(c.args[1]) + 0 * c.args[1],
        kind="product",
        reference=rule_of["product.uniform"].reference,
    )
    for check in (check_value, check_balance, check_linearity):
        check(rule, call)
    with pytest.raises(AssertionError, match="off by"):
        check_reference(rule, call)


def test_an_undeclared_sink_is_caught() -> None:
    rule = _lawless(lambda call: sink("elsewhere", call.run(), call.run()))
    check_value(rule, SILU)
    check_balance(rule, SILU)
    with pytest.raises(AssertionError, match="declares"):
        check_sinks(rule, SILU)


def test_a_wrong_audit_is_caught() -> None:
    rule = _lawless(
        lambda call: call.run(),
        kind="tangent",
        sinks=("tangent",),
        remainder="tangent",
        audit=lambda call, c: {"tangent": torch.zeros_like(c)},
    )
    with pytest.raises(AssertionError, match="out .* in "):
        check_balance(rule, SILU)
