"""Products in a recurrence: the value carries, what decays, writes and reads the state is frozen (MambaLRP).

Which operand is the coefficient (decay, step, input map, read-out; q, k and weights between tokens in linear attention)
is found by dataflow and stands in the fact ``coefficients``. The gate on the result is a product like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, covers, draw, freeze, register, sample, share, sink

aten = torch.ops.aten
PLAIN = covers("aten", "mul div matmul mm bmm")
MATRIX = covers("aten", "matmul mm bmm addmm baddbmm")
WITH_TERM = covers("aten", "addcmul addmm baddbmm")


def _has_term(call: Call) -> bool:
    return call.name in WITH_TERM


def _run(call: Call) -> Any:
    """The operation; a term that does not carry goes to the sink."""
    if not _has_term(call) or 0 in call.carriers:
        return call.run()
    y = call.map(lambda i, a: torch.zeros_like(a) if i == 0 else a).run()
    return y + sink("bias", call.args[0] * call.kwargs.get("beta", 1), y)


def _coefficients(call: Call) -> tuple[int, ...]:
    """Positions of coefficients; where none are named, of all factors that carry but the first."""
    first = 1 if _has_term(call) else 0
    named: tuple[int, ...] = call.facts.get("coefficients") or tuple(
        [i for i in sorted(call.carriers) if i >= first][1:]
    )
    return named


def _frozen(call: Call) -> Any:
    coefficients = _coefficients(call)
    return _run(call.map(lambda i, a: freeze(a) if i in coefficients else a))


def _uniform(call: Call) -> Any:
    """As a product outside of recurrences: in proportion to the factors behind each operand, a denominator
    negatively.
    """
    factors = [i for i in sorted(call.carriers) if not (_has_term(call) and i == 0)]
    total = sum(call.factors.get(i, 1) for i in factors)
    weights = {i: call.factors.get(i, 1) / total for i in factors}
    if call.name == "aten.div" and 1 in weights:
        weights[1] = -weights[1]
    return _run(call.map(lambda i, a: share(a, weights[i]) if i in weights else a))


def _messages(call: Call, R_y: Tensor, kept: dict[int, float]) -> list[Tensor]:
    """R(x_i) = w_i (what x_i contributes to y) / y R(y), summed over what x_i is broadcast or multiplied with."""
    a, b = call.args[-2:] if _has_term(call) else call.args[:2]
    offset = 1 if _has_term(call) else 0
    alpha, beta, y = call.kwargs.get("alpha", call.kwargs.get("value", 1)), call.kwargs.get("beta", 1), call.run()
    if call.name in MATRIX:
        m = alpha * a.unsqueeze(-1) * b.unsqueeze(-3) * (R_y / y).unsqueeze(-2)
        given = [m.sum(-1), m.sum(-3)]
    else:
        m = alpha * (a / b if call.name == "aten.div" else a * b) / y * R_y
        given = [m, m]
    result = [(beta * call.args[0] / y * R_y).sum_to_size(call.args[0].shape)] if offset and 0 in call.carriers else []
    return result + [
        kept[i] * given[i - offset].sum_to_size(call.operand(i).shape)
        for i in sorted(call.carriers)
        if i in (offset, offset + 1)
    ]


def _reference_frozen(call: Call, R_y: Tensor) -> list[Tensor]:
    """MambaLRP, section 4: the whole relevance of a product goes to the value (zero to a coefficient that stands beside
    it).
    """
    return _messages(call, R_y, {i: 0.0 if i in _coefficients(call) else 1.0 for i in call.carriers})


def _reference_uniform(call: Call, R_y: Tensor) -> list[Tensor]:
    factors = [i for i in sorted(call.carriers) if not (_has_term(call) and i == 0)]
    total = sum(call.factors[i] for i in factors)
    return _messages(call, R_y, {i: call.factors[i] / total for i in call.carriers})


def _samples(both: bool) -> list[Call]:
    """Value and coefficient of each kind of product; ``both``: they carry alike."""

    def call(op: Any, *args: Any, value: int, coefficient: int, term: int | None = None, **kwargs: Any) -> Call:
        carriers = sorted({value, *([coefficient] if both else []), *([term] if term is not None else [])})
        return sample(op, *args, carriers=carriers, facts={"coefficients": (coefficient,)}, **kwargs)

    x, z, positive = draw(2, 3, 4, seed=16), draw(2, 3, 1, seed=17), draw(2, 3, 4, seed=18).abs() + 0.5
    term, a, b = draw(2, 3, 5, seed=19), draw(2, 3, 4, seed=20), draw(2, 4, 5, seed=21)
    return [
        call(aten.mul.Tensor, x, z, value=0, coefficient=1),
        call(aten.mul.Tensor, positive, x, value=1, coefficient=0),
        call(aten.div.Tensor, x, positive, value=0, coefficient=1),
        call(aten.matmul.default, a, b, value=1, coefficient=0),
        call(aten.bmm.default, a, b, value=0, coefficient=1),
        call(aten.mm.default, a[0], b[0], value=1, coefficient=0),
        call(aten.addmm.default, term[0], a[0], b[0], value=1, coefficient=2, beta=0.5, alpha=2.0),
        call(aten.addcmul.default, x, positive, a, value=2, coefficient=1, term=0),
        call(aten.baddbmm.default, term, a, b, value=2, coefficient=1, beta=0.5, alpha=2.0),
        call(aten.baddbmm.default, term, a, b, value=2, coefficient=1, term=0),
    ]


def _start_samples() -> list[Call]:
    """The state of a loop before its first step."""
    a, b, start = draw(2, 3, 4), draw(2, 4, 5), torch.zeros(2, 4, 5, dtype=torch.float64)
    return [
        sample(aten.mul.Tensor, b, start, carriers=(1,)),
        sample(aten.div.Tensor, start, b.abs() + 0.5),
        sample(aten.matmul.default, a, start, carriers=(1,)),
        sample(aten.bmm.default, a, start, carriers=(1,)),
        sample(aten.mm.default, a[0], start[0], carriers=(1,)),
    ]


def _vectors() -> list[Call]:
    return [sample(aten.matmul.default, draw(3, 4), draw(4, seed=17))]


register(
    Rule(
        name="scan.frozen",
        kind="scan",
        law="y = frozen(A) x: in s_t = A_t s_(t-1) + B_t x_t, y_t = C_t s_t all relevance flows through x and s, "
        "none through A, B, C",
        cites=("jafari2024", "arras2017"),
        ops=PLAIN + WITH_TERM,
        surrogate=_frozen,
        sinks=("bias",),
        reference=_reference_frozen,
        samples=lambda: _samples(False),
        calls=_vectors,
        frozen_operands="coefficients",
    ),
    Rule(
        name="scan.uniform",
        kind="scan",
        law="y = a b, linear in each with the other frozen, shared as in product.uniform: decays and maps carry too",
        cites=("achtibat2024",),
        ops=PLAIN + WITH_TERM,
        surrogate=_uniform,
        sinks=("bias",),
        reference=_reference_uniform,
        samples=lambda: _samples(True),
        calls=_vectors,
    ),
    Rule(
        name="scan.start",
        kind="stop",
        law="y = 0 x: what a loop does to the zeros it starts from carries nothing",
        cites=("jafari2024",),
        ops=PLAIN,
        surrogate=lambda call: freeze(call.run()),
        samples=_start_samples,
        frozen=True,
    ),
)
