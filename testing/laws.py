"""The laws of rules, as checks: `tests/test_laws.py` runs them over everything registered.

value      the surrogate equals the operation, sinks included
linearity  with the frozen parts fixed the surrogate is linear in its carriers, or, for kinds that may, it is the
           operation's own tangent with one weight for each carrier
balance    what the result has is what the carriers and sinks get
reference  the carriers get what the published formula, written in relevances, says
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import KINDS, LINEAR, Call, Rule, Tape, freeze_is_missing, recording

F64, F32 = torch.float64, torch.float32
#: Relative tolerance of one evaluation: a handful of roundings.
TIGHT = {torch.float64: 1e-13, torch.float32: 2e-6}


# ------------------------------------------------------------------------------------------------ applying a rule
def relevance_of(x: Tensor, c: Tensor) -> Tensor:
    """``x * c``, for complex values the two real parts together; a coefficient of 0 takes nothing from an infinite
    value.
    """
    if x.is_complex():
        return (torch.view_as_real(x.resolve_conj()) * torch.view_as_real(c.resolve_conj())).sum(-1)
    return torch.where(c == 0, torch.zeros_like(x), x * c)


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
    """The floating or complex tensors of a result (indices of top-k and empty statistics carry nothing)."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v for v in values if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()) and v.numel()]


def cast(call: Call, dtype: torch.dtype) -> Call:
    def edit(_: int, a: Any) -> Any:
        return a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a

    return replace(call.map(edit), bases={i: edit(i, base) for i, base in call.bases.items()})


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
    return [
        torch.randn(y.shape, generator=g, dtype=F64).to(y.dtype)
        if not y.is_complex()
        else torch.randn(y.shape, generator=g, dtype=y.dtype)
        for y in results
    ]


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
        assert torch.equal(
            torch.where(finite, torch.zeros_like(y), y), torch.where(finite, torch.zeros_like(y), got.detach())
        ), "infinite values must agree"
        scale = y.abs() + sum(
            (s.detach().abs() for _, s in applied.tape.sinks if s.shape == y.shape), torch.zeros_like(y.abs())
        )
        if rule.kind not in ("elementwise", "move", "route"):  # sums round relative to their largest terms
            scale = scale + (y[finite].abs().max() if finite.any() else 0.0)
        own_rounding = (y.to(exact.dtype) - exact).abs().nan_to_num()  # the operation's own, where its formula cancels
        error = (got.detach() - y).abs()
        information = torch.finfo(got.real.dtype if got.is_complex() else got.dtype)
        smallest = (
            information.tiny
            * information.eps
            * (1 + max(float(x.detach().abs().nan_to_num(posinf=0.0).max()) for x in applied.carriers))
        )
        assert bool((error <= tol * scale + 2 * own_rounding + smallest)[finite].all()), (
            f"{rule.name}: value off by {float((error / scale.clamp_min(1e-300))[finite].max()):.2e}"
        )


def check_balance(rule: Rule, call: Call, tolerance: float = 1e-11) -> None:
    applied = apply(rule, call)
    seeds = [
        c.masked_fill(~y.isfinite(), 0.0) for y, c in zip(applied.results, seeds_for(applied.results), strict=True)
    ]
    c_x, c_sinks = applied.coefficients(seeds)
    with torch.no_grad():
        out = [relevance_of(y, c) for y, c in zip(floating(call.run()), seeds, strict=True)]
        into = [relevance_of(x, c) for x, c in zip(applied.carriers, c_x, strict=True)]
        into += [relevance_of(s, c) for (_, s), c in zip(applied.tape.sinks, c_sinks, strict=True)]
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
    """Linear as written; else, for kinds that may, linear in one carrier at a time; else the tangent with one weight
    each.

    Returns which of the three it is. Linear in the carriers means: values of the surrogate with its frozen parts
    replayed are affine, and its coefficients do not depend on where they are taken (for ``carry``, whose value is
    frozen).
    """
    carriers = sorted(call.carriers)
    if _is_affine(rule, call, carriers, tolerance):
        return "linear"
    assert KINDS[rule.kind].surrogate != LINEAR, freeze_is_missing(rule, call)
    if len(carriers) > 1 and all(_is_affine(rule, call, [i], tolerance) for i in carriers):
        return "linear in each"
    weights = _tangent_weights(rule, call)
    assert weights is not None, f"{freeze_is_missing(rule, call)}: neither linear nor the operation's weighted tangent"
    return "tangent"


def _is_affine(rule: Rule, call: Call, positions: list[int], tolerance: float) -> bool:
    here = apply(rule, call)
    g = torch.Generator().manual_seed(11)
    noise = {i: torch.randn(call.operand(i).shape, generator=g, dtype=F64) for i in positions}
    there, middle = (
        apply(
            rule,
            call.map(lambda i, a, t=t: a + t * noise[i].masked_fill(~a.isfinite(), 0.0) if i in positions else a),
            list(here.tape.frozen),
        )
        for t in (1.0, 0.3)
    )
    seeds = seeds_for(here.results)
    for a, b, m in zip(here.results, there.results, middle.results, strict=True):
        expected = 0.7 * a + 0.3 * b
        if not torch.allclose(
            m,
            torch.where(expected.isfinite(), expected, m),
            rtol=tolerance,
            atol=tolerance * float(a.detach()[a.isfinite()].abs().max()),
        ):
            return False
    c_here, c_there = here.coefficients(seeds)[0], there.coefficients(seeds)[0]
    return all(
        torch.allclose(c, d, rtol=tolerance, atol=tolerance * float(c.abs().max()))
        for i, c, d in zip(sorted(call.carriers), c_here, c_there, strict=True)
        if i in positions
    )


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
        R_y = relevance_of(floating(call.run())[0], seeds[0])
        expected = rule.reference(call, R_y)
        assert len(expected) == len(c_x)
        for x, c, R in zip(applied.carriers, c_x, expected, strict=True):
            got = relevance_of(x, c)
            assert got.shape == R.shape
            assert torch.allclose(got, R, rtol=tolerance, atol=tolerance * float(R.abs().max())), (
                f"{rule.name}: off by {float((got - R).abs().max()):.2e} of {float(R.abs().max()):.2e}"
            )
