"""The laws of rules (`testing/laws.py`), over everything registered: a rule is tested by being registered.

Every test of a rule has the rule's name in its id: ``pytest tests/test_laws.py -k my_rule`` runs them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lrp_fx.rules  # noqa: F401  (registers every rule family)
from lrp_fx.rule import Call, Rule, missing_freeze, registry
from testing.laws import (
    F32,
    F64,
    apply,
    cast,
    check_balance,
    check_linearity,
    check_reference,
    check_sinks,
    check_value,
    floating,
    with_value,
)

BIBLIOGRAPHY = Path(__file__).parent.parent / "docs" / "bibliography.bib"
RULES = list(registry.rules.values())


def calls_of(rule: Rule) -> list[Call]:
    return [*rule.samples(), *rule.calls()]


def cases(
    calls: Callable[[Rule], list[Call]] = calls_of, *, exempt: Callable[[Rule], str | None] = lambda rule: None
) -> Iterator[Any]:
    """The calls of every rule of an operation; leaf rules, which read relevance where it ends, have their own laws."""
    for rule in RULES:
        for k, call in enumerate(calls(rule) if rule.kind != "leaf" else ()):
            reason = exempt(rule)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(rule, call, id=f"{rule.name}-{k}-{call.name}", marks=marks)


def each_rule(choose: Callable[[Rule], bool] = lambda rule: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rule", [r for r in RULES if choose(r)], ids=lambda r: r.name)


def _unbalanced(rule: Rule) -> str | None:
    if rule.frozen:
        return "it carries nothing"
    without = rule.remainder is not None and rule.audit is None
    return "its remainder is this difference by definition, and there is no audit" if without else None


def _no_published_formula(rule: Rule) -> str | None:
    if rule.frozen:
        return "it carries nothing"
    return "the plain gradient: nothing to compare with" if rule.kind == "tangent" else None


def tolerance(call: Call, wide: float) -> float:
    """``wide``, or what float32 can hold where the operation itself returns it."""
    return 1e-6 if any(v.dtype == F32 for v in floating(call.run())) else wide


@each_rule()
def test_a_rule_can_be_tested(rule: Rule) -> None:
    """Samples and a reference are not optional (frozen rules carry nothing; the tangent has no formula)."""
    assert rule.samples(), f"{rule.name} has no samples"
    assert rule.reference is not None or rule.frozen or rule.kind == "tangent", f"{rule.name} has no reference"
    assert rule.remainder is None or rule.remainder in rule.sinks


@each_rule(lambda rule: rule.kind != "leaf" and rule.ops != ("*",))
def test_every_operation_is_sampled(rule: Rule) -> None:
    """Of each operation that a rule lists it has a call, or says why there is none."""
    sampled = {call.name for call in calls_of(rule)}
    missing = set(rule.ops) - sampled - set(rule.unsampled)
    assert not missing, f"{rule.name} lists {sorted(missing)} without a call in `samples`"
    assert not set(rule.unsampled) & sampled, f"{rule.name} has calls of what it says is not sampled"
    assert sampled <= set(rule.ops), (
        f"{rule.name} has calls of {sorted(sampled - set(rule.ops))}, which it does not list"
    )


@pytest.mark.parametrize("given_value", [False, True], ids=["", "given"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize(("rule", "call"), list(cases()))
def test_value(rule: Rule, call: Call, dtype: torch.dtype, given_value: bool) -> None:
    call = cast(call, dtype)
    check_value(rule, with_value(call) if given_value else call)


@pytest.mark.parametrize(("rule", "call"), list(cases(exempt=_unbalanced)))
def test_balance(rule: Rule, call: Call) -> None:
    check_balance(rule, with_value(call), tolerance(call, 1e-11))


@pytest.mark.parametrize(("rule", "call"), list(cases()))
def test_linearity(rule: Rule, call: Call) -> None:
    check_linearity(rule, call, tolerance(call, 1e-10))


@pytest.mark.parametrize(("rule", "call"), list(cases()))
def test_no_freeze_is_missing(rule: Rule, call: Call) -> None:
    """By the question that is asked when a rule is first transposed, which knows sizes and types only."""
    assert missing_freeze(rule, call) is None


@pytest.mark.parametrize(("rule", "call"), list(cases(lambda rule: rule.samples(), exempt=_no_published_formula)))
def test_reference(rule: Rule, call: Call) -> None:
    check_reference(rule, with_value(call), tolerance(call, 1e-9))


@pytest.mark.parametrize(("rule", "call"), list(cases()))
def test_only_named_sinks(rule: Rule, call: Call) -> None:
    check_sinks(rule, with_value(call))


@each_rule(lambda rule: rule.frozen)
def test_frozen_rules_carry_nothing(rule: Rule) -> None:
    for call in rule.samples():
        applied = apply(rule, call)
        assert not any(y.requires_grad for y in applied.results)
        assert torch.equal(applied.results[0], call.run())


@each_rule()
def test_citations_exist(rule: Rule) -> None:
    known = set(re.findall(r"^@\w+\{([^,\s]+),", BIBLIOGRAPHY.read_text(), flags=re.MULTILINE))
    assert set(rule.cites) <= known, f"not in {BIBLIOGRAPHY.name}: {sorted(set(rule.cites) - known)}"


@each_rule(lambda rule: rule.kind != "leaf")
def test_operations_exist(rule: Rule) -> None:
    """Every operation of PyTorch's that a rule lists is one."""
    listed = [op.removeprefix("aten.") for op in rule.ops if op.startswith("aten.")]
    assert not [op for op in listed if not hasattr(torch.ops.aten, op)]
