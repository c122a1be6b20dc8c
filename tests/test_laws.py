"""The laws of rules, over everything registered: a rule is tested by being registered.

value      the surrogate equals the operation, sinks included
linearity  with the frozen parts fixed the surrogate is linear in its carriers, or it is the operation's own tangent
with
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

aten = torch.ops.aten
F64, F32 = torch.float64, torch.float32
#: Relative tolerance of one evaluation: a handful of roundings.
rule_of = registry.rules
TIGHT = {torch.float64: 1e-13, torch.float32: 2e-6}

#: Kinds whose surrogate may be the operation itself, nonlinear in its carriers, with weighted coefficients: its linear
#: map is the tangent at the current activations. All others must be linear as written.
TANGENT_KINDS = frozenset({"product", "gate", "scan", "attention", "homogeneous", "route", "tangent"})


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
            atol=tolerance * float(a[a.isfinite()].abs().max()),
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


# ------------------------------------------------------------------------------------------------ over the registry
def operation_rules() -> list[Rule]:
    """Rules of operations; leaf rules, which read relevance where it ends, have laws of their own below."""
    return [r for r in registry.rules.values() if r.kind != "leaf"]


def cases(*, exempt: Callable[[Rule], str | None] = lambda rule: None) -> Iterator[Any]:
    for rule in operation_rules():
        for k, call in enumerate(rule.samples()):
            reason = exempt(rule)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(rule, call, id=f"{rule.name}-{k}-{getattr(call.op, '__name__', call.op)}", marks=marks)


def _unaudited(rule: Rule) -> str | None:
    return (
        "its remainder is this difference by definition, and there is no audit"
        if rule.remainder is not None and rule.audit is None
        else None
    )


def _no_published_formula(rule: Rule) -> str | None:
    return "the plain gradient: nothing to compare with" if rule.kind == "tangent" else None


@pytest.mark.parametrize("rule", registry.rules.values(), ids=lambda r: r.name)
def test_a_rule_can_be_tested(rule: Rule) -> None:
    """Samples, a reference and citations are not optional (frozen rules carry nothing, inexact ones are refused by
    strict mode).
    """
    assert rule.samples() or rule.frozen or not rule.exact
    assert rule.reference is not None or rule.frozen or rule.kind == "tangent"
    assert rule.remainder is None or rule.remainder in rule.sinks


@pytest.mark.parametrize("given_value", [False, True], ids=["", "given"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize(("rule", "call"), list(cases()))
def test_value(rule: Rule, call: Call, dtype: torch.dtype, given_value: bool) -> None:
    call = cast(call, dtype)
    check_value(rule, with_value(call) if given_value else call)


@pytest.mark.parametrize(("rule", "call"), list(cases(exempt=_unaudited)))
def test_balance(rule: Rule, call: Call) -> None:
    check_balance(rule, with_value(call))


@pytest.mark.parametrize(("rule", "call"), list(cases()))
def test_linearity(rule: Rule, call: Call) -> None:
    check_linearity(rule, call)


@pytest.mark.parametrize(("rule", "call"), list(cases(exempt=_no_published_formula)))
def test_reference(rule: Rule, call: Call) -> None:
    check_reference(rule, with_value(call))


@pytest.mark.parametrize(("rule", "call"), list(cases()))
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
    listed = {op for rule in operation_rules() for op in rule.ops} - {"*", "getitem"}
    assert not [op for op in sorted(listed) if not hasattr(aten, op.removeprefix("aten."))]


# ------------------------------------------------------------------------------------------------ leaf rules
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


# ------------------------------------------------------------------------------------------------ every listed
# operation
def _x(*shape: int, seed: int = 20) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _listed() -> dict[str, list[Call]]:
    """A call of every operation that the rules name, beyond the rules' own samples."""
    x, z, image, line = _x(3, 4), _x(3, 4, seed=21), _x(2, 4, 6, 6, seed=22), _x(2, 3, 8, seed=23)
    inside, positive, square, volume = x.clamp(-0.9, 0.9), x.abs() + 0.1, _x(3, 3), _x(1, 2, 4, 4, 4)
    mask, columns = torch.tensor([True, False, True, False]), torch.tensor([2, 0])
    row, column = torch.tensor([[2, 0, 1, 1]]), torch.tensor([[3], [0], [2]])
    w, e = _x(4, seed=24), _x(5, 3, seed=25)
    a = aten
    calls: dict[str, list[Call]] = {name: [sample(getattr(a, name).default, x)] for name in
        "silu relu relu6 leaky_relu hardswish mish tanh elu selu celu softplus sigmoid log_sigmoid erf erfc sin cos "
        "sinh cosh asinh "
        "atan hardtanh hardsigmoid softshrink hardshrink expm1 exp exp2 abs sign sgn round floor ceil trunc "
        "nan_to_num sinc square reciprocal neg "
        "sum mean t tril triu ravel real _conj view_as_real max min median sort mode".split()}  # fmt: skip
    del calls["view_as_real"], calls["mode"]
    calls["flatten"] = [sample(a.flatten.using_ints, x)]
    calls |= {
        "tan": [sample(a.tan.default, inside)],
        "asin": [sample(a.asin.default, inside)],
        "atanh": [sample(a.atanh.default, inside)],
        "log1p": [sample(a.log1p.default, inside)],
        "threshold": [sample(a.threshold.default, x, 0.2, 0.7)],
        "clamp": [sample(a.clamp.default, x, -0.5, 0.5), sample(a.clamp.default, x, 0.1), sample(a.clamp.Tensor, x, w, w + 1.0)],
        "clamp_min": [sample(a.clamp_min.default, x, 0.1), sample(a.clamp_min.Tensor, x, w)],
        "clamp_max": [sample(a.clamp_max.default, x, 0.1)],
        "maximum": [sample(a.maximum.default, x, w), sample(a.maximum.default, w, x), sample(a.maximum.default, w, x, carriers=(1,))],
        "minimum": [sample(a.minimum.default, x, w)],
        "prelu": [sample(a.prelu.default, x, w), sample(a.prelu.default, image, w)],
        "_prelu_kernel": [sample(a._prelu_kernel.default, image, w.reshape(1, 4, 1, 1))],
        "gelu": [sample(a.gelu.default, x, approximate="tanh")],
        "pow": [sample(a.pow.Tensor_Scalar, positive, p) for p in (-0.5, 0.5, 2, 0, 1)] + [sample(a.pow.Scalar, 2.0, x, carriers=(1,)), sample(a.pow.Tensor_Tensor, positive, w)],
        "sqrt": [sample(a.sqrt.default, positive)],
        "rsqrt": [sample(a.rsqrt.default, positive)],
        "mul": [sample(a.mul.Tensor, x, w), sample(a.mul.Tensor, w, x), sample(a.mul.Tensor, x, 2.0)],
        "div": [sample(a.div.Tensor, x, w), sample(a.div.Tensor, w, positive)],
        "add": [sample(a.add.Tensor, w, x), sample(a.add.Tensor, x, 1)],
        "sub": [sample(a.sub.Tensor, w, x)],
        "rsub": [sample(a.rsub.Scalar, x, 1.0), sample(a.rsub.Tensor, x, w)],
        "matmul": [sample(a.matmul.default, x, z.T), sample(a.matmul.default, z, x.T, carriers=(1,)), sample(a.matmul.default, x, w)],
        "mm": [sample(a.mm.default, x, z.T)],
        "bmm": [sample(a.bmm.default, line, line.transpose(1, 2))],
        "mv": [sample(a.mv.default, x, w)],
        "dot": [sample(a.dot.default, w, w + 1.0)],
        "outer": [sample(a.outer.default, w, w + 1.0)],
        "mean": [sample(a.mean.dim, image, [2, 3])],
        "sum": [sample(a.sum.dim_IntList, image, [1], True)],
        "cumsum": [sample(a.cumsum.default, x, 1)],
        "diff": [sample(a.diff.default, x)],
        "trace": [sample(a.trace.default, square)],
        "avg_pool1d": [sample(a.avg_pool1d.default, line, [2])],
        "avg_pool2d": [sample(a.avg_pool2d.default, image, [2, 2])],
        "avg_pool3d": [sample(a.avg_pool3d.default, volume, [2, 2, 2])],
        "adaptive_avg_pool1d": [sample(a.adaptive_avg_pool1d.default, line, [2])],
        "adaptive_avg_pool2d": [sample(a.adaptive_avg_pool2d.default, image, [2, 3])],
        "adaptive_avg_pool3d": [sample(a.adaptive_avg_pool3d.default, volume, [1, 2, 2])],
        "upsample_nearest1d": [sample(a.upsample_nearest1d.default, line, [12])],
        "upsample_nearest2d": [sample(a.upsample_nearest2d.default, image, [9, 9])],
        "upsample_linear1d": [sample(a.upsample_linear1d.default, line, [12], False)],
        "upsample_bilinear2d": [sample(a.upsample_bilinear2d.default, image, [9, 9], False)],
        "upsample_bicubic2d": [sample(a.upsample_bicubic2d.default, image, [9, 9], False)],
        "_upsample_bilinear2d_aa": [sample(a._upsample_bilinear2d_aa.default, image, [4, 4], False)],
        "grid_sampler": [sample(a.grid_sampler.default, image, _x(2, 3, 3, 2), 0, 0, False)],
        "grid_sampler_2d": [sample(a.grid_sampler_2d.default, image, _x(2, 3, 3, 2), 0, 0, False)],
        "fft_fft": [sample(a.fft_fft.default, x)],
        "fft_fft2": [sample(a.fft_fft2.default, image)],
        "fft_fftn": [sample(a.fft_fftn.default, image)],
        "fft_rfft": [sample(a.fft_rfft.default, x)],
        "fft_irfft": [sample(a.fft_irfft.default, torch.fft.rfft(x))],
        "fft_rfft2": [sample(a.fft_rfft2.default, image)],
        "fft_irfft2": [sample(a.fft_irfft2.default, torch.fft.rfft2(image))],
        "_fft_r2c": [sample(a._fft_r2c.default, x, [1], 0, True)],
        "_fft_c2r": [sample(a._fft_c2r.default, torch.fft.rfft(x), [1], 2, 4)],
        "_fft_c2c": [sample(a._fft_c2c.default, torch.complex(x, z), [1], 0, True)],
        "_conj": [sample(a._conj.default, torch.complex(x, z))],
        "col2im": [sample(a.col2im.default, _x(1, 8, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1])],
        "linear": [sample(a.linear.default, line, _x(5, 8), _x(5)), sample(a.linear.default, w, _x(5, 4), _x(5))],
        "addmm": [sample(a.addmm.default, _x(3, 5), x, _x(4, 5), carriers=(1,), beta=0.5, alpha=2.0), sample(a.addmm.default, _x(3, 5), x, _x(4, 5), carriers=(0, 1))],
        "baddbmm": [sample(a.baddbmm.default, _x(2, 3, 3), line, line.transpose(1, 2), carriers=(1,), beta=0.5), sample(a.baddbmm.default, _x(2, 3, 3), line, line.transpose(1, 2), carriers=(2,))],
        "addcmul": [sample(a.addcmul.default, x, x, z, carriers=(1,), value=0.5)],
        "conv1d": [sample(a.conv1d.default, line, _x(4, 3, 3), _x(4))],
        "conv2d": [sample(a.conv2d.default, image, _x(4, 1, 3, 3), _x(4), [1, 1], [1, 1], [1, 1], 4)],
        "conv3d": [sample(a.conv3d.default, volume, _x(3, 2, 2, 2, 2), _x(3))],
        "convolution": [sample(a.convolution.default, line, _x(4, 3, 3), _x(4), [1], [0], [1], False, [0], 1)],
        "conv_transpose1d": [sample(a.conv_transpose1d.default, line, _x(3, 4, 3), _x(4))],
        "conv_transpose2d": [sample(a.conv_transpose2d.input, image, _x(4, 2, 2, 2), _x(2), [2, 2])],
        "conv_transpose3d": [sample(a.conv_transpose3d.input, volume, _x(2, 3, 2, 2, 2), _x(3))],
        "reshape": [sample(a.reshape.default, x, [4, 3])],
        "permute": [sample(a.permute.default, image, [0, 2, 3, 1])],
        "transpose": [sample(a.transpose.int, x, 0, 1)],
        "expand": [sample(a.expand.default, w, [3, 4])],
        "expand_as": [sample(a.expand_as.default, w, x)],
        "unsqueeze": [sample(a.unsqueeze.default, x, 1)],
        "squeeze": [sample(a.squeeze.dim, x.unsqueeze(1), 1)],
        "slice": [sample(a.slice.Tensor, x, 1, 1, 3)],
        "select": [sample(a.select.int, x, 0, 1)],
        "split": [sample(a.split.Tensor, x, 2, 1)],
        "split_with_sizes": [sample(a.split_with_sizes.default, x, [1, 3], 1)],
        "unsafe_split": [sample(a.unsafe_split.Tensor, x, 2, 1)],
        "chunk": [sample(a.chunk.default, x, 2, 1)],
        "unsafe_chunk": [sample(a.unsafe_chunk.default, x, 2, 1)],
        "unbind": [sample(a.unbind.int, x, 1)],
        "tensor_split": [sample(a.tensor_split.sections, x, 2, 1)],
        "_to_copy": [sample(a._to_copy.default, x, dtype=F32)],
        "to": [sample(a.to.dtype, x, F32)],
        "roll": [sample(a.roll.default, x, [1], [1])],
        "flip": [sample(a.flip.default, x, [1])],
        "repeat": [sample(a.repeat.default, x, [2, 1])],
        "repeat_interleave": [sample(a.repeat_interleave.self_int, x, 2, 1)],
        "tile": [sample(a.tile.default, x, [2, 2])],
        "unfold": [sample(a.unfold.default, line, 2, 3, 2)],
        "unfold_copy": [sample(a.unfold_copy.default, line, 2, 3, 2)],
        "im2col": [sample(a.im2col.default, image, [2, 2], [1, 1], [0, 0], [1, 1])],
        "pixel_shuffle": [sample(a.pixel_shuffle.default, image, 2)],
        "pixel_unshuffle": [sample(a.pixel_unshuffle.default, image, 2)],
        "channel_shuffle": [sample(a.channel_shuffle.default, image, 2)],
        "movedim": [sample(a.movedim.int, image, 1, 3)],
        "swapaxes": [sample(a.swapaxes.default, x, 0, 1)],
        "swapdims": [sample(a.swapdims.default, x, 0, 1)],
        "narrow": [sample(a.narrow.default, x, 1, 1, 2)],
        "diagonal": [sample(a.diagonal.default, x)],
        "diag_embed": [sample(a.diag_embed.default, x)],
        "view_as_real": [sample(a.view_as_real.default, torch.complex(x, z))],
        "view_as_complex": [sample(a.view_as_complex.default, _x(3, 2))],
        "real": [sample(a.real.default, torch.complex(x, z))],
        "imag": [sample(a.imag.default, torch.complex(x, z))],
        "unflatten": [sample(a.unflatten.int, x, 1, [2, 2])],
        "reflection_pad1d": [sample(a.reflection_pad1d.default, line, [1, 1])],
        "reflection_pad2d": [sample(a.reflection_pad2d.default, image, [1, 1, 1, 1])],
        "replication_pad1d": [sample(a.replication_pad1d.default, line, [1, 1])],
        "replication_pad2d": [sample(a.replication_pad2d.default, image, [1, 1, 1, 1])],
        "as_strided": [sample(a.as_strided.default, x, [2, 2], [4, 1])],
        "index_select": [sample(a.index_select.default, x, 1, columns)],
        "gather": [sample(a.gather.default, x, 1, column)],
        "index": [sample(a.index.Tensor, x, [None, columns])],
        "embedding": [sample(a.embedding.default, e, torch.tensor([[0, 2], [2, 4]]))],
        "take_along_dim": [sample(a.take_along_dim.default, x, row, 0)],
        "view_as": [sample(a.view_as.default, x, z.T)],
        "squeeze_copy": [sample(a.squeeze_copy.default, x.unsqueeze(1))],
        "slice_copy": [sample(a.slice_copy.Tensor, x, 1, 1, 3)],
        "_reshape_alias": [sample(a._reshape_alias.default, x, [4, 3], [3, 1])],
        "rot90": [sample(a.rot90.default, x)],
        "amax": [sample(a.amax.default, x, [1])],
        "amin": [sample(a.amin.default, x, [1], True)],
        "max": [sample(a.max.dim, x, 1)],
        "min": [sample(a.min.dim, x, 1)],
        "topk": [sample(a.topk.default, x, 2)],
        "kthvalue": [sample(a.kthvalue.default, x, 2)],
        "median": [sample(a.median.dim, x, 1)],
        "mode": [sample(a.mode.default, x, 1)],
        "max_pool1d": [sample(a.max_pool1d.default, line, [2])],
        "max_pool2d": [sample(a.max_pool2d.default, image, [2, 2])],
        "max_pool3d": [sample(a.max_pool3d.default, volume, [2, 2, 2])],
        "max_pool2d_with_indices": [sample(a.max_pool2d_with_indices.default, image, [2, 2])],
        "adaptive_max_pool1d": [sample(a.adaptive_max_pool1d.default, line, [2])],
        "adaptive_max_pool2d": [sample(a.adaptive_max_pool2d.default, image, [2, 2])],
        "adaptive_max_pool3d": [sample(a.adaptive_max_pool3d.default, volume, [1, 1, 1])],
        "cummax": [sample(a.cummax.default, x, 1)],
        "cummin": [sample(a.cummin.default, x, 1)],
        "cat": [sample(a.cat.default, [x, z], 1), sample(a.cat.default, [x, z], 1, carriers=(0, 1)), sample(a.cat.default, [z, x], carriers=(1,))],
        "stack": [sample(a.stack.default, [x, z], 1), sample(a.stack.default, [x, z], carriers=(0, 1))],
        "hstack": [sample(a.hstack.default, [x, z])],
        "where": [sample(a.where.self, mask, x, w, carriers=(1,)), sample(a.where.self, mask, w, x, carriers=(2,)), sample(a.where.self, mask, x, z, carriers=(1, 2)), sample(a.where.ScalarOther, mask, x, 2, carriers=(1,))],
        "masked_fill": [sample(a.masked_fill.Scalar, x, mask, float("-inf")), sample(a.masked_fill.Scalar, x, mask, 3), sample(a.masked_fill.Tensor, x, mask, torch.tensor(2.0, dtype=F64))],
        "masked_scatter": [sample(a.masked_scatter.default, x, mask.expand(3, 4), z), sample(a.masked_scatter.default, x, mask.expand(3, 4), z, carriers=(2,))],
        "index_put": [sample(a.index_put.default, x, [None, columns], _x(3, 2)), sample(a.index_put.default, x, [None, columns], _x(3, 2), True, carriers=(0,))],
        "scatter": [sample(a.scatter.src, x, 1, column, z), sample(a.scatter.value, x, 1, column, 2)],
        "scatter_add": [sample(a.scatter_add.default, x, 1, column, z), sample(a.scatter_add.default, x, 1, column, z[:, :1], carriers=(3,))],
        "slice_scatter": [sample(a.slice_scatter.default, x, _x(3, 2), 1, 1, 3), sample(a.slice_scatter.default, x, _x(3, 2), 1, 1, 3, carriers=(1,))],
        "select_scatter": [sample(a.select_scatter.default, x, w, 0, 1)],
        "diagonal_scatter": [sample(a.diagonal_scatter.default, square, w[:3])],
        "index_add": [sample(a.index_add.default, x, 1, columns, _x(3, 2)), sample(a.index_add.default, x, 1, columns, _x(3, 2), carriers=(3,), alpha=0.5)],
        "index_copy": [sample(a.index_copy.default, x, 1, columns, _x(3, 2))],
        "index_fill": [sample(a.index_fill.int_Scalar, x, 1, columns, 2)],
        "constant_pad_nd": [sample(a.constant_pad_nd.default, x, [1, 2], 3.0), sample(a.constant_pad_nd.default, x, [1, 2])],
        "pad": [sample(a.pad.default, x, [1, 2], "constant", 2.0), sample(a.pad.default, line, [1, 1], "reflect")],
        "softmax": [sample(a.softmax.int, x, 0)],
        "_softmax": [sample(a._softmax.default, x, 1, False)],
        "_safe_softmax": [sample(a._safe_softmax.default, x.masked_fill(torch.tensor([[True], [False], [False]]), float("-inf")), 1)],
        "logsumexp": [sample(a.logsumexp.default, _x(2, 3, 5), [-1], True), sample(a.logsumexp.default, _x(2, 3, 5), [1])],
        "log_softmax": [sample(a.log_softmax.int, x, 1)],
        "_log_softmax": [sample(a._log_softmax.default, x, 1, False)],
        "layer_norm": [sample(a.layer_norm.default, x, [4]), sample(a.layer_norm.default, line, [3, 8], _x(3, 8), _x(3, 8))],
        "rms_norm": [sample(a.rms_norm.default, x, [4]), sample(a.rms_norm.default, line, [3, 8])],
        "group_norm": [sample(a.group_norm.default, image, 2), sample(a.group_norm.default, image, 4, w, w)],
        "batch_norm": [sample(a.batch_norm.default, image, None, None, w, w.abs(), False, 0.1, 1e-3, False)],
        "_native_batch_norm_legit_no_training": [sample(a._native_batch_norm_legit_no_training.default, image, None, w, w, w.abs(), 0.1, 1e-3)],
        "linalg_vector_norm": [sample(a.linalg_vector_norm.default, x, 3.0, [1])],
        "norm": [sample(a.norm.ScalarOpt_dim, x, 2, [1])],
        "frobenius_norm": [sample(a.frobenius_norm.dim, x, [0, 1])],
        "var": [sample(a.var.correction, x, [1], correction=0)],
        "std": [sample(a.std.correction, x, [1])],
        "scaled_dot_product_attention": [
            sample(a.scaled_dot_product_attention.default, _x(2, 4, 5, 3), _x(2, 2, 6, 3), _x(2, 2, 6, 3), carriers=(0, 1, 2), enable_gqa=True, scale=0.7),
            sample(a.scaled_dot_product_attention.default, _x(2, 4, 5, 3), _x(2, 4, 6, 3), _x(2, 4, 6, 3), _x(2, 1, 5, 6), carriers=(0, 1, 2)),
            sample(a.scaled_dot_product_attention.default, _x(2, 4, 5, 3), _x(2, 4, 6, 3), _x(2, 4, 6, 3), _x(2, 1, 5, 6), carriers=(0, 1, 2, 3)),
            sample(a.scaled_dot_product_attention.default, _x(2, 4, 5, 3), _x(2, 4, 6, 3), _x(2, 4, 6, 3), carriers=(2,)),
            sample(a.scaled_dot_product_attention.default, _x(2, 4, 5, 3), _x(2, 4, 6, 3), _x(2, 4, 6, 3), carriers=(0, 2), factors={0: 2, 2: 3}),
        ],
    }  # fmt: skip
    return calls


LISTED = _listed()
#: Listed operations without a call here, and why.
NOT_CALLED = {
    "getitem": "picks one of several results: no operation of PyTorch",
    "_grouped_mm": "has no float64: a model with it is explained in half precision (test_precision.py)",
}


def _listed_cases() -> Iterator[Any]:
    for rule in operation_rules():
        if (
            rule.kind in ("product", "gate", "residual")
            or not rule.exact
            or rule.ops == ("*",)
            or rule.name in ("elementwise.product", "normalise.product")
        ):
            # the machine picks their carriers (all terms, or the independent ones): their own samples say which
            continue
        for op in rule.ops:
            for k, call in enumerate(LISTED.get(op.removeprefix("aten."), [])):
                if rule.name == "linear.coefficient" and op == "aten.div" and 0 not in call.carriers:
                    continue
                yield pytest.param(rule, call, id=f"{rule.name}-{op}-{k}")


def test_every_listed_operation_is_called() -> None:
    listed = {op.removeprefix("aten.") for rule in operation_rules() for op in rule.ops} - {"*"}
    assert listed - set(LISTED) - set(NOT_CALLED) == set()


@pytest.mark.parametrize(("rule", "call"), list(_listed_cases()))
def test_listed_operation(rule: Rule, call: Call) -> None:
    """Value, linearity, sinks and balance for every operation a rule names."""
    narrows = any(v.dtype == F32 for v in floating(call.run()))
    check_value(rule, with_value(call))
    check_linearity(rule, call, 1e-6 if narrows else 1e-10)
    check_sinks(rule, with_value(call))
    if _unaudited(rule) is None and not rule.frozen:
        check_balance(rule, with_value(call), 1e-6 if narrows else 1e-11)


# ------------------------------------------------------------------------------------------------ drawn calls
#: Values that break formulas: zeros, the smallest and largest that a float16 holds without overflowing in a sum,
#: near-zeros.
AWKWARD = (0.0, -0.0, 1.0, -1.0, 1e-3, -1e-3, 1e-7, -1e-7, 3.5, -3.5, 20.0, -20.0, 400.0, -400.0)
HALF = (torch.bfloat16, torch.float16)
dtypes = st.sampled_from([F64, F32])
sizes = st.integers(1, 4)


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], dtype: torch.dtype = F64, *, awkward: bool = True) -> Tensor:
    """A tensor of normal numbers, some of them replaced by awkward ones."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(shape, generator=g, dtype=F64).flatten()
    if awkward and x.numel():
        for place, value in draw(
            st.lists(st.tuples(st.integers(0, x.numel() - 1), st.sampled_from(AWKWARD)), max_size=4)
        ):
            x[place] = value
    return x.view(shape).to(dtype)


@st.composite
def broadcast_shapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast: axes of size 1 and missing axes on either side."""
    full = tuple(draw(st.lists(sizes, min_size=1, max_size=3)))
    cut = [
        tuple(s if draw(st.booleans()) else 1 for s in full)[draw(st.integers(0, len(full) - 1)) :] for _ in range(2)
    ]
    keep = draw(st.sampled_from([0, 1, None]))
    return (full if keep == 0 else cut[0], full if keep == 1 else cut[1])


def obey(rule: Rule, call: Call, *, reference: bool = False) -> None:
    """All laws at the precision of the call's type."""
    double = cast(call, F64)
    narrow = call.operands()[0].dtype == F32
    check_value(rule, call, 1e-5 if narrow else 1e-11)
    check_sinks(rule, call)
    check_balance(rule, call, 1e-5 if narrow else 1e-11)
    check_linearity(rule, double, 1e-9)
    if reference:
        check_reference(rule, double)


def check_finite(rule: Rule, call: Call) -> None:
    """In half precision: the right value, and finite coefficients and relevance wherever the operation's own value is
    finite.
    """
    check_value(rule, call, 16 * torch.finfo(call.operands()[0].dtype).eps)
    applied = apply(rule, with_value(call))
    assert all(bool(y.isfinite().all()) for y in floating(call.run())), "draw smaller values"
    c_x, c_sinks = applied.coefficients(seeds_for(applied.results))
    for x, c in zip(applied.carriers, c_x, strict=True):
        assert c.dtype == x.dtype and bool(c.isfinite().all())
        assert bool(relevance_of(x.detach().float(), c.float()).isfinite().all()), (
            f"{rule.name} on {call.op}: relevance is not finite"
        )
    assert all(bool(c.isfinite().all()) for c in c_sinks)


ELEMENTWISE = "silu gelu relu relu6 leaky_relu hardswish mish tanh elu selu celu softplus sigmoid log_sigmoid erf erfc sin cos asinh atan hardtanh hardsigmoid softshrink hardshrink abs sinc".split()


@given(st.data(), st.sampled_from(ELEMENTWISE), dtypes, st.lists(sizes, max_size=3))
def test_drawn_elementwise(data: Any, name: str, dtype: torch.dtype, shape: list[int]) -> None:
    obey(rule_of["elementwise.identity"], sample(getattr(aten, name).default, data.draw(tensors(tuple(shape), dtype))))


@given(st.data(), st.sampled_from(ELEMENTWISE), st.sampled_from(HALF))
def test_drawn_elementwise_in_half(data: Any, name: str, dtype: torch.dtype) -> None:
    check_finite(rule_of["elementwise.identity"], sample(getattr(aten, name).default, data.draw(tensors((4,), dtype))))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_at_awkward_values_in_half(name: str, dtype: torch.dtype) -> None:
    check_finite(
        rule_of["elementwise.identity"], sample(getattr(aten, name).default, torch.tensor(AWKWARD, dtype=dtype))
    )


@given(
    st.data(),
    dtypes,
    st.lists(sizes, min_size=1, max_size=3),
    st.floats(0.5, 50.0),
    st.sampled_from(["softmax.taylor", "softmax.log"]),
)
def test_drawn_softmax(data: Any, dtype: torch.dtype, shape: list[int], scale: float, name: str) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = data.draw(tensors(tuple(shape), dtype)) * scale
    if name == "softmax.taylor":
        keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=x.numel(), max_size=x.numel()))).view(x.shape)
        some_left = keep.any(dim, keepdim=True)
        x = x.masked_fill(~keep & some_left, float("-inf"))
    op = aten.softmax.int if name == "softmax.taylor" else aten.log_softmax.int
    obey(rule_of[name], sample(op, x, dim))


@given(st.data(), st.sampled_from(HALF))
def test_drawn_softmax_in_half(data: Any, dtype: torch.dtype) -> None:
    x = data.draw(tensors((2, 4), dtype))
    x[:, data.draw(st.integers(0, 3))] = data.draw(st.sampled_from([float("-inf"), torch.finfo(dtype).min, 0.0]))
    check_finite(rule_of["softmax.taylor"], sample(aten.softmax.int, x, -1))


def test_softmax_of_a_row_that_is_masked_throughout() -> None:
    """Padding queries: with -inf everywhere the safe softmax gives 0 and nothing may become NaN."""
    x = torch.full((2, 3), float("-inf"), dtype=F64)
    x[1] = torch.tensor([1.0, 2.0, float("-inf")])
    call = sample(aten._safe_softmax.default, x, -1)
    check_balance(rule_of["softmax.taylor"], call)
    check_finite(rule_of["softmax.taylor"], call)


@given(
    st.data(),
    dtypes,
    st.lists(sizes, max_size=2),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from([1e-5, 1e-12, 0.1]),
)
def test_drawn_layer_norm(
    data: Any, dtype: torch.dtype, shape: list[int], features: int, affine: bool, eps: float
) -> None:
    x = data.draw(tensors((*shape, features), dtype))
    w, b = (data.draw(tensors((features,), dtype)) if affine else None for _ in range(2))
    assume(bool((x.var(-1, unbiased=False) > 1e-4).all()))  # below this a variance is rounding error
    obey(rule_of["normalise.layer"], sample(aten.layer_norm.default, x, [features], w, b, eps))


@given(st.data(), dtypes, st.lists(sizes, max_size=2), st.integers(1, 5), st.booleans(), st.sampled_from([None, 1e-5]))
def test_drawn_rms_norm(
    data: Any, dtype: torch.dtype, shape: list[int], features: int, affine: bool, eps: float | None
) -> None:
    x = data.draw(tensors((*shape, features), dtype))
    obey(
        rule_of["normalise.statistics"],
        sample(aten.rms_norm.default, x, [features], data.draw(tensors((features,), dtype)) if affine else None, eps),
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_norms_of_zeros_in_half(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 4, dtype=dtype)
    x[1] = torch.tensor([400.0, 300.0, -400.0, 20.0])
    check_finite(rule_of["normalise.layer"], sample(aten.layer_norm.default, x, [4], None, None, 1e-5))
    check_finite(rule_of["normalise.statistics"], sample(aten.rms_norm.default, x, [4], None, 1e-5))


@given(
    st.data(),
    dtypes,
    broadcast_shapes(),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["mul", "div"]),
)
def test_drawn_products(
    data: Any, dtype: torch.dtype, shapes: tuple[Any, Any], factors: tuple[int, int], name: str
) -> None:
    a, b = (data.draw(tensors(s, dtype)) for s in shapes)
    if name == "div":
        b = torch.where(b.abs() < 1e-2, torch.ones_like(b), b)
    rule = rule_of["product.uniform" if name == "mul" else "product.quotient"]
    obey(
        rule,
        sample(getattr(aten, name).Tensor, a, b, carriers=(0, 1), factors=dict(enumerate(factors))),
        reference=True,
    )


@given(
    st.data(),
    dtypes,
    st.tuples(sizes, sizes, sizes),
    st.sampled_from([(), (2,), (1,), (2, 1), (1, 3)]),
    st.sampled_from([(), (2,), (1,), (2, 3)]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_drawn_matrix_products(
    data: Any,
    dtype: torch.dtype,
    sizes_: tuple[int, int, int],
    left: tuple[int, ...],
    right: tuple[int, ...],
    factors: tuple[int, int],
) -> None:
    n, k, m = sizes_
    try:
        torch.broadcast_shapes(left, right)
    except RuntimeError:
        assume(False)
    a, b = data.draw(tensors((*left, n, k), dtype)), data.draw(tensors((*right, k, m), dtype))
    obey(
        rule_of["product.uniform"], sample(aten.matmul.default, a, b, carriers=(0, 1), factors=dict(enumerate(factors)))
    )


@given(
    st.data(),
    dtypes,
    broadcast_shapes(),
    st.sampled_from([(0,), (1,), (0, 1)]),
    st.sampled_from(["add", "sub", "rsub"]),
    st.sampled_from([1, 0.5, -2.0]),
)
def test_drawn_sums(
    data: Any, dtype: torch.dtype, shapes: tuple[Any, Any], carriers: tuple[int, ...], name: str, alpha: float
) -> None:
    a, b = (data.draw(tensors(s, dtype)) for s in shapes)
    obey(rule_of["sum.plain"], sample(getattr(aten, name).Tensor, a, b, carriers=carriers, alpha=alpha))


@given(
    st.data(),
    dtypes,
    st.lists(sizes, max_size=2),
    st.tuples(sizes, sizes),
    st.booleans(),
    st.sampled_from(["linear.zero", "linear.epsilon", "linear.gamma"]),
)
def test_drawn_linear(
    data: Any, dtype: torch.dtype, shape: list[int], features: tuple[int, int], bias: bool, name: str
) -> None:
    x = data.draw(tensors((*shape, features[0]), dtype))
    w, b = data.draw(tensors(features[::-1], dtype)), data.draw(tensors(features[1:], dtype)) if bias else None
    obey(rule_of[name], sample(aten.linear.default, x, w, b))


@given(st.data(), st.sampled_from(HALF), st.sampled_from(["linear.zero", "linear.epsilon", "linear.gamma"]))
def test_drawn_linear_in_half(data: Any, dtype: torch.dtype, name: str) -> None:
    x, w, b = (
        data.draw(tensors((2, 3), dtype)).clamp(-20, 20),
        data.draw(tensors((4, 3), dtype)).clamp(-20, 20),
        data.draw(tensors((4,), dtype)),
    )
    check_finite(rule_of[name], sample(aten.linear.default, x, w, b))
    check_finite(rule_of[name], sample(aten.linear.default, torch.zeros_like(x), w, torch.zeros_like(b)))


@given(st.data(), dtypes, st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_drawn_attention(data: Any, dtype: torch.dtype, queries: int, keys: int, masked: bool) -> None:
    q, k, v = (data.draw(tensors((2, n, 3), dtype, awkward=False)) for n in (queries, keys, keys))
    mask = (
        torch.tensor(data.draw(st.lists(st.booleans(), min_size=keys, max_size=keys))).expand(2, queries, keys)
        if masked
        else None
    )
    assume(mask is None or bool(mask.any()))
    obey(
        rule_of["attention.taylor"],
        sample(aten.scaled_dot_product_attention.default, q, k, v, mask, carriers=(0, 1, 2)),
    )


# ------------------------------------------------------------------------------------------------ lawless rules are
# caught
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
    with pytest.raises(AssertionError, match="not linear"):
        check_linearity(rule, SILU)
    with pytest.raises(AssertionError, match="out .* in "):
        check_balance(rule, SILU)


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
