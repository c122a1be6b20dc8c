"""The laws of rules, over everything registered: a rule is tested by being registered.

value      the surrogate equals the operation, sinks included
linearity  with the frozen parts fixed the surrogate is linear in its carriers, or it is the operation's own tangent with
           one weight for each carrier
balance    what the result has is what the carriers and sinks get
reference  the carriers get what the published formula, written in relevances, says
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import lrp_fx.rules  # noqa: F401  (registers every rule family)
from lrp_fx.rule import Call, Rule, Tape, covers, freeze, recording, registry, sample, sink
from lrp_fx.snippet import relevance_of

aten = torch.ops.aten
F64, F32 = torch.float64, torch.float32
#: Relative tolerance of one evaluation: a handful of roundings.
TIGHT = {torch.float64: 1e-13, torch.float32: 2e-6}

#: Kinds whose surrogate may be the operation itself, nonlinear in its carriers, with weighted coefficients: its linear map
#: is the tangent at the current activations. All others must be linear as written.
TANGENT_KINDS = frozenset({"product", "gate", "attention", "homogeneous", "route", "tangent"})


# ------------------------------------------------------------------------------------------------ applying a rule
@dataclass
class Applied:
    """A surrogate run on a call: results, fresh leaves for the carriers, declared sinks and frozen parts."""

    call: Call
    results: list[Tensor]
    carriers: list[Tensor]
    tape: Tape

    def coefficients(self, seeds: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Coefficients of carriers and sinks for the coefficients ``seeds`` of the results."""
        leaves = [*self.carriers, *(s for _, s in self.tape.sinks)]
        active = [(y, c) for y, c in zip(self.results, seeds, strict=True) if y.requires_grad]
        if not active:
            return [torch.zeros_like(x) for x in self.carriers], [torch.zeros_like(s) for _, s in self.tape.sinks]
        grads = torch.autograd.grad([y for y, _ in active], leaves, [c for _, c in active], allow_unused=True)
        filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
        return filled[: len(self.carriers)], filled[len(self.carriers) :]


def floating(value: Any) -> list[Tensor]:
    """The floating or complex tensors of a result (indices of top-k and the like carry nothing)."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v for v in values if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())]


def cast(call: Call, dtype: torch.dtype) -> Call:
    return call.map(lambda i, a: a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a)


def apply(rule: Rule, call: Call, replay: list[Tensor] | None = None) -> Applied:
    """Run a surrogate as the machine does; ``replay`` feeds it frozen parts recorded elsewhere."""
    leaves = {i: call.operand(i).detach().clone().requires_grad_() for i in sorted(call.carriers)}
    fresh = call.map(lambda i, a: leaves.get(i, a))
    with torch.enable_grad(), recording(Tape(replay=iter(replay) if replay is not None else None)) as tape:
        results = floating(rule.surrogate(fresh))
    return Applied(fresh, results, list(leaves.values()), tape)


def with_value(call: Call) -> Call:
    """The call as the machine makes it: the operation's own result is at hand (for operations with one result)."""
    with torch.no_grad():
        value = call.run()
    return replace(call, value=value if isinstance(value, Tensor) else None)


def seeds_for(results: list[Tensor], seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(y.shape, generator=g, dtype=F64).to(y.dtype) if not y.is_complex() else torch.randn(y.shape, generator=g, dtype=y.dtype) for y in results]


# ------------------------------------------------------------------------------------------------ the laws
def check_value(rule: Rule, call: Call, tolerance: float | None = None) -> None:
    applied = apply(rule, call)
    with torch.no_grad():
        expected, precise = floating(call.run()), floating(cast(call, F64).run())
    assert len(applied.results) == len(expected)
    for got, y, exact in zip(applied.results, expected, precise, strict=True):
        assert got.shape == y.shape and got.dtype == y.dtype
        tol = tolerance if tolerance is not None else TIGHT[y.real.dtype if y.is_complex() else y.dtype]
        finite = y.isfinite()
        assert torch.equal(torch.where(finite, torch.zeros_like(y), y), torch.where(finite, torch.zeros_like(y), got.detach())), "infinite values must agree"
        scale = y.abs() + sum((s.detach().abs().expand(y.shape) for _, s in applied.tape.sinks), torch.zeros_like(y.abs()))
        if rule.kind not in ("elementwise", "move", "route"):  # sums round relative to their largest terms
            scale = scale + (y[finite].abs().max() if finite.any() else 0.0)
        own_rounding = (y.to(exact.dtype) - exact).abs().nan_to_num()  # the operation's own, where its formula cancels
        error = (got.detach() - y).abs()
        assert bool((error <= tol * scale + 2 * own_rounding)[finite].all()), f"{rule.name}: value off by {float((error / scale.clamp_min(1e-300))[finite].max()):.2e}"


def check_balance(rule: Rule, call: Call, tolerance: float = 1e-11) -> None:
    applied = apply(rule, call)
    seeds = seeds_for(applied.results)
    c_x, c_sinks = applied.coefficients(seeds)
    with torch.no_grad():
        out = [relevance_of(y, c, safe=True) for y, c in zip(floating(call.run()), seeds, strict=True)]
        into = [relevance_of(x, c, safe=True) for x, c in zip(applied.carriers, c_x, strict=True)]
        into += [relevance_of(s, c, safe=True) for (_, s), c in zip(applied.tape.sinks, c_sinks, strict=True)]
        if rule.remainder is not None:
            assert rule.audit is not None
            into.append(rule.audit(call, seeds[0])[rule.remainder])
    total_out, total_in = sum(float(t.sum()) for t in out), sum(float(t.sum()) for t in into)
    scale = sum(float(t.abs().sum()) for t in [*out, *into])
    assert abs(total_out - total_in) <= tolerance * scale, f"{rule.name}: out {total_out:.12g}, in {total_in:.12g}"


def check_sinks(rule: Rule, call: Call) -> None:
    declared = {name for name, _ in apply(rule, call).tape.sinks}
    assert declared <= set(rule.sinks), f"{rule.name} declares {sorted(declared)}, allows {rule.sinks}"


def check_linearity(rule: Rule, call: Call, tolerance: float = 1e-10) -> str:
    """Linear as written; else, for kinds that may, linear in one carrier at a time; else the tangent with one weight each.

    Returns which of the three it is. Linear in the carriers means: values of the surrogate with its frozen parts replayed
    are affine, and its coefficients do not depend on where they are taken (for ``carry``, whose value is frozen).
    """
    carriers = sorted(call.carriers)
    if _is_affine(rule, call, carriers, tolerance):
        return "linear"
    assert rule.kind in TANGENT_KINDS, f"{rule.name}: not linear in its carriers with its frozen parts fixed"
    if len(carriers) > 1 and all(_is_affine(rule, call, [i], tolerance) for i in carriers):
        return "linear in each"
    weights = _tangent_weights(rule, call)
    assert weights is not None, f"{rule.name}: neither linear nor the weighted tangent of its operation"
    return "tangent"


def _is_affine(rule: Rule, call: Call, positions: list[int], tolerance: float) -> bool:
    here = apply(rule, call)
    g = torch.Generator().manual_seed(11)
    noise = {i: torch.randn(call.operand(i).shape, generator=g, dtype=F64) for i in positions}
    there, middle = (
        apply(rule, call.map(lambda i, a, t=t: a + t * noise[i].masked_fill(~a.isfinite(), 0.0) if i in positions else a), list(here.tape.frozen)) for t in (1.0, 0.3)
    )
    seeds = seeds_for(here.results)
    for a, b, m in zip(here.results, there.results, middle.results, strict=True):
        expected = 0.7 * a + 0.3 * b
        if not torch.allclose(m, torch.where(expected.isfinite(), expected, m), rtol=tolerance, atol=tolerance * float(a[a.isfinite()].abs().max())):
            return False
    c_here, c_there = here.coefficients(seeds)[0], there.coefficients(seeds)[0]
    return all(torch.allclose(c, d, rtol=tolerance, atol=tolerance * float(c.abs().max())) for i, c, d in zip(sorted(call.carriers), c_here, c_there, strict=True) if i in positions)


def _tangent_weights(rule: Rule, call: Call) -> list[float] | None:
    """The weights w_i with c(x_i) = w_i J_i^T c(y), J the operation's Jacobian; None when there are none."""
    applied = apply(rule, call)
    seeds = seeds_for(applied.results)
    tangent = apply(replace(rule, surrogate=lambda c: c.run()), call).coefficients(seeds)[0]
    weights = []
    for c, t in zip(applied.coefficients(seeds)[0], tangent, strict=True):
        w = float((c * t).sum() / (t * t).sum()) if t.abs().max() > 0 else 0.0
        if not torch.allclose(c, w * t, rtol=1e-9, atol=1e-9 * float(c.abs().max())):
            return None
        weights.append(w)
    return weights


def check_reference(rule: Rule, call: Call, tolerance: float = 1e-9) -> None:
    assert rule.reference is not None
    applied = apply(rule, call)
    seeds = seeds_for(applied.results)
    c_x, _ = applied.coefficients(seeds)
    with torch.no_grad():
        R_y = relevance_of(floating(call.run())[0], seeds[0], safe=True)
        expected = rule.reference(call, R_y)
        assert len(expected) == len(c_x)
        for x, c, R in zip(applied.carriers, c_x, expected, strict=True):
            got = relevance_of(x, c, safe=True)
            assert got.shape == R.shape
            assert torch.allclose(got, R, rtol=tolerance, atol=tolerance * float(R.abs().max())), f"{rule.name}: off by {float((got - R).abs().max()):.2e} of {float(R.abs().max()):.2e}"


# ------------------------------------------------------------------------------------------------ over the registry
def cases(*, exempt: Callable[[Rule], str | None] = lambda rule: None) -> Iterator[Any]:
    for rule in registry.rules.values():
        for k, call in enumerate(rule.samples()):
            reason = exempt(rule)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(rule, call, id=f"{rule.name}-{k}-{getattr(call.op, '__name__', call.op)}", marks=marks)


def _unaudited(rule: Rule) -> str | None:
    return "its remainder is this difference by definition, and there is no audit" if rule.remainder is not None and rule.audit is None else None


def _no_published_formula(rule: Rule) -> str | None:
    return "the plain gradient: nothing to compare with" if rule.kind == "tangent" else None


@pytest.mark.parametrize("rule", registry.rules.values(), ids=lambda r: r.name)
def test_a_rule_can_be_tested(rule: Rule) -> None:
    """Samples, a reference and citations are not optional (frozen rules carry nothing, inexact ones are refused by strict mode)."""
    assert rule.samples() or rule.frozen or not rule.exact
    assert rule.reference is not None or rule.frozen or rule.kind == "tangent"
    assert rule.remainder is None or rule.remainder in rule.sinks


@pytest.mark.parametrize("given_value", [False, True], ids=["", "given"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize(("rule", "call"), cases())
def test_value(rule: Rule, call: Call, dtype: torch.dtype, given_value: bool) -> None:
    call = cast(call, dtype)
    check_value(rule, with_value(call) if given_value else call)


@pytest.mark.parametrize(("rule", "call"), cases(exempt=_unaudited))
def test_balance(rule: Rule, call: Call) -> None:
    check_balance(rule, with_value(call))


@pytest.mark.parametrize(("rule", "call"), cases())
def test_linearity(rule: Rule, call: Call) -> None:
    check_linearity(rule, call)


@pytest.mark.parametrize(("rule", "call"), cases(exempt=_no_published_formula))
def test_reference(rule: Rule, call: Call) -> None:
    check_reference(rule, with_value(call))


@pytest.mark.parametrize(("rule", "call"), cases())
def test_only_named_sinks(rule: Rule, call: Call) -> None:
    check_sinks(rule, with_value(call))


@pytest.mark.parametrize("rule", [r for r in registry.rules.values() if r.frozen], ids=lambda r: r.name)
def test_frozen_rules_carry_nothing(rule: Rule) -> None:
    call = sample(aten.softmax.int, torch.tensor([[1.0, -2.0, 0.5]], dtype=F64), -1)
    applied = apply(rule, call)
    assert not any(y.requires_grad for y in applied.results)
    assert torch.equal(applied.results[0], call.run())


def test_citations_exist() -> None:
    bibliography = Path(__file__).parent.parent / "docs" / "bibliography.bib"
    known = set(re.findall(r"^@\w+\{([^,\s]+),", bibliography.read_text(), flags=re.MULTILINE))
    used = {key for rule in registry.rules.values() for key in rule.cites}
    assert used <= known, f"not in {bibliography.name}: {sorted(used - known)}"


def test_operations_exist() -> None:
    """Every operation that a rule lists is one of PyTorch's (or Python's getitem)."""
    listed = {op for rule in registry.rules.values() for op in rule.ops} - {"*", "getitem"}
    assert not [op for op in sorted(listed) if not hasattr(aten, op.removeprefix("aten."))]
