"""The laws on drawn calls: shapes, types, broadcasting, and values that break formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import lrp_fx.rules  # noqa: F401  (registers every rule family)
from lrp_fx.rule import Call, Rule, registry, sample
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
    relevance_of,
    seeds_for,
    with_value,
)

aten = torch.ops.aten
rule_of = registry.rules

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


ELEMENTWISE = (
    "silu gelu relu relu6 leaky_relu hardswish mish tanh elu selu celu softplus sigmoid log_sigmoid erf erfc "
    "sin cos asinh atan hardtanh hardsigmoid softshrink hardshrink abs sinc "
).split()


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
