"""Which rule serves an operation: said by rulesets, never by the order in which rules are registered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import lrp_fx
from lrp_fx.errors import RuleError
from lrp_fx.rule import DEFAULT, KINDS, OTHERS, Registry, Rule, Ruleset, covers, registered, registry

CARRIERS = frozenset({"content"})


def rule(name: str, op: str = "hypot", kind: str = "route") -> Rule:
    return Rule(name, kind, "y = y", ("bach2015",), covers("aten", op), lambda call: call.run())


def taken(ruleset: Ruleset, kind: str, op: str, place: str = "") -> str:
    return registry.choice(ruleset).candidates(kind, f"aten.{op}", place)[0].name


PRESET = registry.rulesets[DEFAULT]


def test_the_order_of_registration_decides_nothing() -> None:
    """The same rules, backwards: every preset takes the same rule for every operation of every kind."""
    backwards = Registry()
    with backwards.together():
        backwards.add(*reversed([*registry.rules.values(), *registry.rulesets.values()]))
    operations = sorted({op for r in registry.rules.values() for op in r.ops})
    for preset in registry.rulesets.values():
        one, other = registry.choice(preset), backwards.choice(preset)
        for op in operations:
            assert one.kinds_of(op) == other.kinds_of(op)
            for kind in KINDS:
                assert one.candidates(kind, op)[:1] == other.candidates(kind, op)[:1], (preset.name, kind, op)


def test_a_rule_that_no_ruleset_names_serves_what_no_other_lists() -> None:
    with registered(rule("a.new"), rule("a.linear", "linear", "linear")):
        assert taken(PRESET, "route", "hypot") == "a.new"
        assert registry.choice(PRESET).kinds_of("aten.hypot") == ["route"]
        assert taken(PRESET, "linear", "linear") == "linear.zero", "the default preset names that one"


def test_two_rules_without_an_order_are_refused() -> None:
    known = set(registry.rules)
    with pytest.raises(RuleError) as caught:
        lrp_fx.register(rule("b.one"), rule("a.two"))
    for part in ("b.one", "a.two", "aten.hypot", "the kind route", "next: ", "Ruleset(", "rules/presets.py"):
        assert part in str(caught.value)
    assert set(registry.rules) == known, "neither is left behind"
    with registered(rule("b.one")), pytest.raises(RuleError):
        lrp_fx.register(rule("a.two"))


def test_a_ruleset_gives_an_order() -> None:
    mine = Ruleset("mine", CARRIERS, kinds={"route": "a.two"})
    with registered(rule("b.one"), rule("a.two"), mine):
        assert taken(PRESET, "route", "hypot") == "b.one", "the other serves only where it is named"
        assert taken(mine, "route", "hypot") == "a.two"
        assert taken(mine, "route", "where") == "route.assemble", "the rest is the default preset's"
        assert taken(mine, "softmax", "softmax") == "softmax.taylor"


def test_several_names_are_asked_in_turn_and_sites_first() -> None:
    mine = Ruleset(
        "mine",
        CARRIERS,
        kinds={"linear": ("linear.epsilon", "linear.affine")},
        sites={"model.0.*": {"linear": "linear.gamma"}},
    )
    assert taken(mine, "linear", "linear") == "linear.epsilon"
    assert taken(mine, "linear", "mul") == "linear.affine", "before the default's linear.coefficient"
    assert taken(mine, "linear", "linear", "model.0.up") == "linear.gamma"
    assert taken(mine, "linear", "mul", "model.0.up") == "linear.affine"


def test_a_logarithm_of_a_sum_of_exponentials_is_never_frozen() -> None:
    """Frozen, it would carry nothing where nothing stands beside it (pooling): it is no weight of another value."""
    for preset in ("pa-lrp", "attnlrp", "cp-lrp", "pa-cp-lrp", "attnlrp-gamma"):
        for op in ("logsumexp", "logcumsumexp", "logaddexp"):
            assert taken(registry.rulesets[preset], "softmax", op) == "softmax.log_sum"


def test_presets_name_rules_for_every_kind() -> None:
    for preset in registry.rulesets.values():
        assert set(preset.kinds) == set(KINDS) - {"leaf"}, preset.name
        assert set(preset.named()) <= set(registry.rules)
    assert all(OTHERS in PRESET.kinds[kind] for kind in PRESET.kinds)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RuleError, match="unknown kinds 'sofmax'; kinds are move"):
        Ruleset("mine", CARRIERS, kinds={"sofmax": "softmax.frozen"})
    with pytest.raises(RuleError, match="names rules that are not registered: softmax.forzen"):
        lrp_fx.register(Ruleset("mine", CARRIERS, kinds={"softmax": "softmax.forzen"}))
    assert "mine" not in registry.rulesets
    with pytest.raises(RuleError, match="registered twice"):
        lrp_fx.register(registry.rules["linear.zero"])


def test_a_ruleset_of_a_few_kinds_explains_as_the_default_does_elsewhere() -> None:
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    )
    ids = torch.tensor([[1, 5, 3]])
    plain = lrp_fx.convert(model)(ids, target=0)
    same = lrp_fx.convert(model, rules=replace(PRESET, name="mine", kinds={"softmax": "softmax.frozen"}))(ids, target=0)
    assert torch.equal(plain.tokens, same.tokens)
