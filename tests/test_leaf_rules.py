"""Rules of leaves: biases between tokens, read so that a constant added to a row changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lrp_fx.rules  # noqa: F401  (registers every rule family)
from lrp_fx.rule import Call, Rule, registry
from testing.laws import F64

rule_of = registry.rules
LEAF_CASES = [
    pytest.param(rule, call, id=rule.name)
    for rule in registry.rules.values()
    if rule.kind == "leaf"
    for call in rule.samples()
]


def _score_coefficients(p: Tensor) -> Tensor:
    """Coefficients of scores as a softmax hands them on: ``c = p (g - sum p g)``, whose rows sum to zero."""
    g = torch.randn(p.shape, generator=torch.Generator().manual_seed(31), dtype=F64)
    return p * (g - (p * g).sum(-1, keepdim=True))


@pytest.mark.parametrize(("rule", "call"), LEAF_CASES)
def test_leaf_rule_keeps_the_total_of_every_row(rule: Rule, call: Call) -> None:
    b, p = call.args
    c = _score_coefficients(p)
    assert torch.allclose((rule.surrogate(call) * c).sum(-1), (b * c).sum(-1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("rule", "call"), LEAF_CASES)
def test_leaf_rule_ignores_a_constant_in_a_row(rule: Rule, call: Call) -> None:
    """The plain reading does not: that is what these rules are for."""
    b, p = call.args
    c, shift = _score_coefficients(p), torch.linspace(-3, 5, b.shape[-2], dtype=F64).unsqueeze(-1)
    moved = rule.surrogate(call.put({0: b + shift}))
    assert torch.allclose(moved * c, rule.surrogate(call) * c, rtol=1e-12, atol=1e-14)
    assert ((b + shift) * c - b * c).abs().max() > 1e-2


@pytest.mark.parametrize(("rule", "call"), LEAF_CASES)
def test_leaf_rule_is_its_published_formula(rule: Rule, call: Call) -> None:
    b, p = call.args
    c = _score_coefficients(p)
    assert rule.reference is not None
    (expected,) = rule.reference(call, b * c)
    assert torch.allclose(rule.surrogate(call) * c, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("rule", "call"), LEAF_CASES)
def test_leaf_rule_leaves_masked_pairs_out(rule: Rule, call: Call) -> None:
    b, p = call.args
    hidden = torch.zeros_like(b, dtype=torch.bool)
    hidden[..., -2:] = True
    q = p.masked_fill(hidden, 0.0)
    q = q / q.sum(-1, keepdim=True)
    short = rule.surrogate(call.put({0: b[..., :-2], 1: q[..., :-2]}))
    for low in (float("-inf"), torch.finfo(F64).min):
        assert torch.allclose(
            rule.surrogate(call.put({0: b.masked_fill(hidden, low), 1: q}))[..., :-2], short, rtol=1e-12
        )


def test_covariance_form() -> None:
    """Against the attention-weighted mean, relevance is the covariance of bias and coefficient, key by key."""
    rule = rule_of["bias.attention_mean"]
    for call in rule.samples():
        b, p = call.args
        g = torch.randn(p.shape, generator=torch.Generator().manual_seed(33), dtype=F64)
        b_mean, g_mean = (p * b).sum(-1, keepdim=True), (p * g).sum(-1, keepdim=True)
        assert torch.allclose(
            rule.surrogate(call) * (p * (g - g_mean)), p * (b - b_mean) * (g - g_mean), rtol=1e-12, atol=1e-15
        )
