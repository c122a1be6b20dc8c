"""Elementwise nonlinearities: the identity rule. All relevance of ``f(x)`` goes to ``x``; ``f(0)`` is booked in
``offset``.

The ratio ``(f(x) - f(0)) / x`` is taken in closed form where there is one, so that nothing is divided by a small
number; elsewhere its limit ``f'(0)`` is used near zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, carry, covers, draw, freeze, precise, register, sample, sink, where_positive

aten = torch.ops.aten

Ratio = Callable[[Call, Tensor], Tensor]


def _gelu_gate(call: Call, x: Tensor) -> Tensor:
    if call.kwargs.get("approximate", "none") == "tanh":
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))


def _leaky(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.ones_like(x), torch.full_like(x, float(call.arg(1, "negative_slope", 0.01))))


#: (f(x) - f(0)) / x in closed form.
CLOSED_FORM: dict[str, Ratio] = {
    "silu": lambda call, x: torch.sigmoid(x),
    "gelu": _gelu_gate,
    "leaky_relu": _leaky,
    "hardswish": lambda call, x: torch.clamp(x + 3.0, 0.0, 6.0) / 6.0,
    "mish": lambda call, x: torch.tanh(torch.nn.functional.softplus(x)),
}
#: f(0) where it is not zero.
OFFSET: dict[str, float] = {
    "sigmoid": 0.5,
    "exp": 1.0,
    "exp2": 1.0,
    "cos": 1.0,
    "cosh": 1.0,
    "hardsigmoid": 0.5,
    "log_sigmoid": -math.log(2.0),
    "erfc": 1.0,
}
#: f'(0), for the functions that have no closed ratio.
SLOPE: dict[str, float] = {
    "tanh": 1.0, "sigmoid": 0.25, "exp": 1.0, "exp2": math.log(2.0), "sin": 1.0, "cos": 0.0, "tan": 1.0, "sinh": 1.0,
    "cosh": 0.0, "asinh": 1.0, "atan": 1.0, "asin": 1.0, "atanh": 1.0, "expm1": 1.0, "log1p": 1.0,
    "erf": 2.0 / math.sqrt(math.pi), "erfc": -2.0 / math.sqrt(math.pi),
    "hardsigmoid": 1.0 / 6.0, "log_sigmoid": 0.5, "selu": 1.0507009873554805, "abs": 0.0, "sign": 0.0, "sgn": 0.0,
    "round": 1.0, "floor": 1.0, "ceil": 1.0, "trunc": 1.0,  # straight through
}  # fmt: skip


def _value_and_slope_at_zero(call: Call, name: str, x: Tensor, y: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """f(0) and f'(0): from the tables, else by evaluating the operation and its derivative at zero."""
    if name in SLOPE:
        return OFFSET.get(name, 0.0), SLOPE[name]
    (position,) = call.carriers
    if call.facts.get("derivative") is False:
        return _by_differences(call, y)
    alone = name.isidentifier() and not any(isinstance(a, Tensor) for i, a in enumerate(call.flat()) if i != position)
    # an axis of size 1 for each of the operand's: the call may name one
    zero = torch.zeros((1,) * x.dim() if alone else y.shape, dtype=x.dtype, device=x.device, requires_grad=True)
    at_zero = call.map(lambda i, a: zero if i == position else a).run()
    (slope,) = torch.autograd.grad(at_zero.sum(), zero, allow_unused=True) if at_zero.requires_grad else (None,)
    return at_zero.detach(), slope if slope is not None else 0.0


def _name(call: Call) -> str:
    """The operation's name; that of a custom operator keeps its namespace."""
    return call.name.removeprefix("aten.")


def _value(call: Call) -> Any:
    return (
        call.value
        if isinstance(call.value, Tensor)
        else call.map(lambda i, a: a.detach() if isinstance(a, Tensor) else a).run()
    )


def _by_differences(call: Call, y: Tensor) -> tuple[Tensor, Tensor]:
    """f(0) and f'(0) of an operation without a derivative, by central differences."""
    (position,) = call.carriers
    h = 2.0 ** round(math.log2(torch.finfo(y.dtype).eps) / 3)
    below, at, above = (
        call.put({position: torch.full_like(y, s * h)})
        .map(lambda i, a: a.detach() if isinstance(a, Tensor) else a)
        .run()
        for s in (-1.0, 0.0, 1.0)
    )
    return at, (above - below) / (2 * h)


def _each_result(call: Call, x: Tensor, ys: Any) -> Any:
    """Several results, each a function of the operand's own element."""

    def only(k: int) -> Call:
        return replace(call, op=_Picked(call.op, k), value=ys[k].detach())

    return type(ys)(
        _along(x, y, *_value_and_slope_at_zero(only(k), _name(call), x, y)) if y.is_floating_point() else y
        for k, y in enumerate(ys)
    )


@dataclass(frozen=True)
class _Picked:
    """One result of an operation that has several."""

    op: Callable[..., Any]
    index: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op(*args, **kwargs)[self.index]


def _shown_only(call: Call) -> Any:
    """The identity rule where nothing is masked; what the function makes of a mask (minus infinity, or as low as there
    is) goes to ``offset``: it is no number that could have a part in it.
    """
    (x,) = call.operands()
    (position,) = call.carriers
    information = torch.finfo(x.dtype)
    hidden = x.detach().abs() > information.max * (0.125 if information.bits == 16 else 1e-4)
    others = {k: v for k, v in call.facts.items() if k != "masked"}
    shown = replace(call.put({position: x.masked_fill(hidden, 0.0)}), value=None, facts=others)
    inner, y = identity(shown), _value(call)
    return inner + sink("offset", (y - inner.detach()).masked_fill(~hidden, 0.0), y)


def identity(call: Call) -> Any:
    """``x * freeze((f(x) - f(0)) / x) + sink(f(0))``."""
    if call.facts.get("masked"):
        return _shown_only(call)
    (x,) = call.operands()
    name = _name(call)
    if name == "relu":
        return where_positive(freeze(x), x)  # the ratio is 0 or 1: a choice instead of a product
    if name in CLOSED_FORM:
        return x * freeze(CLOSED_FORM[name](call, precise(x.detach())).to(x.dtype))
    y = _value(call)
    if not isinstance(y, Tensor):
        return _each_result(call, x, y)
    return _along(x, y, *_value_and_slope_at_zero(call, name, x, y))


def _along(x: Tensor, y: Tensor, at_zero: Tensor | float, slope: Tensor | float) -> Tensor:
    # Where f(0) = 0 nothing cancels, and the ratio is as good as f down to the smallest x.
    tiny = torch.as_tensor(at_zero, device=x.device) != 0
    slope = torch.as_tensor(slope, dtype=y.dtype, device=y.device)
    near = (x.detach() == 0) | (tiny & slope.isfinite() & (x.detach().abs() < torch.finfo(x.dtype).eps ** 0.5))
    rise = (y - at_zero) / torch.where(near, torch.ones_like(x.detach()), x.detach())
    ratio = freeze(
        torch.where(near, torch.where(slope.isfinite(), slope, torch.zeros_like(slope)), rise)
    )  # x f'(x) -> 0 where f is steep at 0
    linear = x * ratio
    if isinstance(at_zero, float) and at_zero == 0.0:
        return linear
    return linear + sink("offset", torch.as_tensor(at_zero, dtype=y.dtype, device=y.device), y.detach())


def power(call: Call) -> Any:
    """Powers and roots are homogeneous: ``x * freeze(f(x) / x)``, zero where x and f(x) are zero (Euler).

    ``a ** x`` and ``x ** 0`` are not: they are 1 at zero, and the identity rule serves them.
    """
    return identity(call) if 1 in call.carriers or _exponent_is_zero(call) else _by_value(call)


def _exponent_is_zero(call: Call) -> bool:
    exponent = call.arg(1, "exponent", 1.0)
    return not isinstance(exponent, Tensor) and bool(exponent == 0)


def _by_value(call: Call) -> Any:
    (x,) = call.operands()
    y = _value(call)
    still = x.detach() == 0
    ratio = torch.where(still, torch.zeros_like(y), y / torch.where(still, torch.ones_like(x.detach()), x.detach()))
    return carry(y, x * freeze(ratio))  # negative powers have no value at zero: it stays the operation's own


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """AttnLRP eq. 9: R(x) = R(y), less the part of f(0): R(x) = (f(x) - f(0)) / f(x) R(y)."""
    (x,) = call.operands()
    (position,) = call.carriers
    y = call.run()
    zero = (
        torch.zeros_like(y)
        if call.facts.get("power")
        else call.map(lambda i, a: torch.zeros_like(a) if i == position else a).run()
    )
    return [torch.where(x == 0, torch.zeros_like(x), (y - zero) / torch.where(y == 0, torch.ones_like(y), y) * R_y)]


def _points() -> Tensor:
    return torch.tensor([[-30.0, -3.0, -0.5, -1e-9], [0.7, 1e-3, 2.0, 30.0]], dtype=torch.float64)


def _bounds_samples() -> list[Call]:
    x, low = _points(), draw(4)
    return [
        sample(aten.hardtanh.default, x),
        sample(aten.clamp.default, x, -1.0, 2.0),
        sample(aten.clamp.default, x, 0.1),
        sample(aten.clamp.Tensor, x, low, low + 1.0),
        sample(aten.clamp_min.default, x, 0.1),
        sample(aten.clamp_min.Tensor, x, low),
        sample(aten.clamp_max.default, x, 0.1),
        sample(aten.threshold.default, x, 0.2, 0.7),
        sample(aten.nan_to_num.default, x),
    ]


def _masked_calls() -> list[Call]:
    x = draw(3, 4).masked_fill(torch.tensor([False, True, False, False]), float("-inf"))
    lowest = x.masked_fill(x.isinf(), torch.finfo(torch.float64).min)
    ops = (aten.sigmoid.default, aten.tanh.default, aten.relu.default, aten.elu.default)
    return [sample(op, t, facts={"masked": True}) for op in ops for t in (x, lowest)]


def _power_samples() -> list[Call]:
    x = _points()
    return [
        sample(aten.pow.Tensor_Scalar, x.abs(), 0.5),
        sample(aten.pow.Tensor_Scalar, x.abs(), 0),
        sample(aten.pow.Tensor_Scalar, x.abs(), 1),
        sample(aten.pow.Scalar, 2.0, draw(3, 4), carriers=(1,)),
        sample(aten.pow.Tensor_Tensor, x.abs(), draw(4)),
        sample(aten.pow.Tensor_Scalar, x, 2),
        sample(aten.pow.Tensor_Scalar, x, 3),
        sample(aten.pow.Tensor_Scalar, x.abs(), -0.5),
    ]


def _inferred_samples() -> list[Call]:
    x, degree = _points(), {"power": True}
    plain = "silu gelu relu tanh leaky_relu hardswish mish elu selu celu softplus sigmoid erf sin atan softshrink expm1"
    return [
        *(sample(getattr(aten, name).default, x) for name in plain.split()),
        sample(aten.hardsigmoid.default, x.clamp(-2.5, 2.5)),  # in relevances f(x) = 0 != f(0) has no formula
        sample(aten.gelu.default, x, approximate="tanh"),
        sample(aten.exp.default, x),
        sample(aten.log1p.default, x.clamp(-0.9, 0.9)),
        sample(aten.maximum.default, x, torch.full_like(x, 0.25)),
        sample(aten.logit.default, x.sigmoid(), 1e-6),
        sample(aten.sqrt.default, x.abs()),
        sample(aten.rsqrt.default, x.abs(), facts=degree),
        sample(aten.reciprocal.default, x, facts=degree),
        sample(aten.square.default, x),
    ]


def _power_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """Euler: x f'(x) = k f(x), so R(x) = x f'(x) / (k f(x)) R(y) = R(y); not for ``a ** x`` and ``x ** 0``."""
    return _reference(call, R_y) if 1 in call.carriers or _exponent_is_zero(call) else [R_y]


register(
    Rule(
        name="elementwise.identity",
        kind="elementwise",
        law="y = x * frozen((f(x) - f(0)) / x) + sink(f(0))",
        cites=("achtibat2024", "bach2015"),
        ops=covers(
            "aten",
            "clamp clamp_min clamp_max hardtanh threshold nan_to_num",  # looks linear where no draw reaches the bounds
        ),
        surrogate=identity,
        sinks=("offset",),
        reference=_reference,
        samples=_bounds_samples,
    ),
    Rule(
        name="elementwise.inferred",
        kind="elementwise",
        law="y = x * frozen((f(x) - f(0)) / x) + sink(f(0)), for an operation found to act on each element alone",
        cites=("achtibat2024",),
        ops=("*",),
        surrogate=lambda call: _by_value(call) if call.facts.get("power") else identity(call),
        sinks=("offset",),
        reference=_reference,
        samples=_inferred_samples,
        calls=_masked_calls,
    ),
    Rule(
        name="elementwise.product",
        kind="elementwise",
        law="y = x * frozen(g(x)) for a nonlinearity written as a product, such as x * sigmoid(x)",
        cites=("achtibat2024",),
        ops=covers("aten", "mul div"),
        surrogate=lambda call: call.run(),
        reference=lambda call, R_y: [R_y],
        samples=lambda: [
            sample(aten.mul.Tensor, _points(), torch.sigmoid(_points())),
            sample(aten.div.Tensor, _points(), 1.0 + torch.exp(-_points())),
        ],
    ),
    Rule(
        name="elementwise.power",
        kind="elementwise",
        law="y = x * frozen(f(x) / x) for f homogeneous: Euler's theorem, coefficients divided by the degree",
        cites=("bach2015",),
        ops=covers("aten", "pow"),
        surrogate=power,
        sinks=("offset",),
        reference=_power_reference,
        samples=_power_samples,
    ),
)
