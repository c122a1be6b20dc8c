"""Products of operands that carry relevance: the uniform rule, each factor of a chain gets an equal share.

A factor that is a number and more, ``x * (1 + g)``, makes a chain of one factor and one of two: ``x + x g``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, carry, covers, draw, elements, freeze, register, sample, share, sink

aten = torch.ops.aten
BILINEAR = covers("aten", "mul matmul mm bmm mv dot outer")
MATRIX = covers("aten", "matmul mm bmm")
VECTORS = covers("aten", "mv dot outer")
WITH_TERM = covers("aten", "baddbmm addmm addcmul")


def shares(call: Call, positions: list[int]) -> dict[int, float]:
    """The relevance due to each operand: in proportion to the factors of the product chain behind it."""
    total = sum(call.factors.get(i, 1) for i in positions)
    return {i: call.factors.get(i, 1) / total for i in positions}


def _uniform(call: Call) -> Any:
    weights = shares(call, sorted(call.carriers))
    if begun := _bases(call):
        return _from_bases(call, weights, begun)
    first, *others = weights.values()
    if all(w == first for w in others) and _is_smaller(call):
        return share(call.run(), first)
    return call.map(lambda i, a: share(a, weights[i]) if i in weights else a).run()


def _bases(call: Call) -> dict[int, tuple[Tensor, str]]:
    """Where factors begin, and the sink in which the rule that they come from has booked this part of them."""
    numbers = {i: (call.operand(i).new_full((), number), "bias") for i, number in call.facts.get("numbers", ())}
    return {**numbers, **{i: (base, "softmax") for i, base in call.bases.items()}}


def _from_bases(call: Call, weights: dict[int, float], begun: dict[int, tuple[Tensor, str]]) -> Any:
    """``a b = a0 b + (a - a0) b`` where ``a`` begins at ``a0``: the first term is all b's, the second a product.

    So b gets ``w_a a0`` beside its own share; what a's share holds of ``a0`` is taken back from the sink in which the
    rule that a comes from has booked it.
    """
    y = call.run().detach() if call.value is None else call.value.detach()
    through = call.map(lambda i, a: share(a, weights[i]) if i in weights else a).run()
    unmoved: dict[str, Tensor] = {}
    for i, (base, booked) in begun.items():
        rest = 1 - weights[i]
        others = {j: share(call.operand(j), weights[i] * w / rest) for j, w in weights.items() if j != i}
        product = call.put({**others, i: base}).run()
        through = through + product
        unmoved[booked] = unmoved.get(booked, torch.zeros_like(y)) + weights[i] * product.detach()
    whole = carry(sum(unmoved.values(), y), through)
    return sum((sink(booked, -part, y) for booked, part in unmoved.items()), whole)


def _is_smaller(call: Call) -> bool:
    """Is the result smaller than the operands together? Then its coefficient is the cheaper one to scale (as
    attention's weights times values).
    """
    y = call.value
    return isinstance(y, Tensor) and elements(y) < sum(map(elements, call.operands()))


def _frozen_gate(call: Call) -> Any:
    """CP-LRP: the activated branch is a coefficient."""
    activated = sorted(call.carriers)[int(call.facts["activated"])]
    return call.map(lambda i, a: freeze(a) if i == activated else a).run()


def _quotient(call: Call) -> Any:
    """``a / b`` is homogeneous of degree -1 in b: Euler divides its coefficient by the degree."""
    if 0 not in call.carriers:
        return call.map(lambda i, a: share(a, -1.0) if i == 1 else a).run()
    weights = shares(call, [0, 1])
    return call.map(lambda i, a: share(a, weights[0] if i == 0 else -weights[1]) if i < 2 else a).run()


def _with_term(call: Call) -> Any:
    """``term + a b``: the product shares, the term keeps its coefficient or goes to the sink."""
    weights = shares(call, [i for i in sorted(call.carriers) if i in (1, 2)])
    if begun := {i: base for i, base in _bases(call).items() if i in weights}:
        bare = replace(call.map(lambda i, a: torch.zeros_like(a) if i == 0 else a), value=None)
        term = call.args[0] * call.kwargs.get("beta", 1)
        y = _from_bases(bare, weights, begun)
        return y + (term if 0 in call.carriers else sink("bias", term, y))
    product = call.map(lambda i, a: share(a, weights[i]) if i in weights else a)
    if 0 in call.carriers:
        return product.run()
    y = product.map(lambda i, a: torch.zeros_like(a) if i == 0 else a).run()
    return y + sink("bias", call.args[0] * call.kwargs.get("beta", 1), y)


def _reference_elementwise(call: Call, R_y: Tensor) -> list[Tensor]:
    """AttnLRP eq. 7 generalised: R(x_i) = n_i / n R(y), summed over broadcast axes."""
    total = sum(call.factors[i] for i in call.carriers)
    return [(R_y * call.factors[i] / total).sum_to_size(call.operand(i).shape) for i in sorted(call.carriers)]


def _reference_matrix(call: Call, R_y: Tensor) -> list[Tensor]:
    """AttnLRP prop. 3.3: R(A_ji) = sum_p A_ji V_ip / (2 O_jp) R_jp, likewise for V (halves by factor counts)."""
    A, V = call.args[:2]
    total = call.factors[0] + call.factors[1]
    messages = A.unsqueeze(-1) * V.unsqueeze(-3) * (R_y / call.run()).unsqueeze(-2)
    return [
        messages.sum(-1) * call.factors[0] / total,
        (messages * call.factors[1] / total).sum(-3).sum_to_size(V.shape),
    ]


def _reference_vectors(call: Call, R_y: Tensor) -> list[Tensor]:
    """The same for products with vectors: R(A_ji) = A_ji v_i / y_j R_j, likewise for v, by factor counts."""
    a, b = call.args
    ratio, n = R_y / call.run(), [call.factors[i] / sum(call.factors.values()) for i in (0, 1)]
    if call.name == "aten.outer":
        messages = a.unsqueeze(-1) * b * ratio
        return [messages.sum(1) * n[0], messages.sum(0) * n[1]]
    messages = a * b * ratio.unsqueeze(-1)
    return [messages * n[0], messages.reshape(-1, b.numel()).sum(0) * n[1]]


def _reference_with_term(call: Call, R_y: Tensor) -> list[Tensor]:
    """LRP-0 on the sum ``t + ab`` (R(z) = z / y R(y)), then the product's own rule."""
    t, A, V = call.args[:3]
    y, beta, alpha = call.run(), call.kwargs.get("beta", 1), call.kwargs.get("alpha", call.kwargs.get("value", 1))
    total = call.factors[1] + call.factors[2]
    if call.name == "aten.addcmul":
        R_A, R_V = (alpha * A * V / y * R_y * call.factors[i] / total for i in (1, 2))
    else:
        messages = alpha * A.unsqueeze(-1) * V.unsqueeze(-3) * (R_y / y).unsqueeze(-2)
        R_A, R_V = messages.sum(-1) * call.factors[1] / total, messages.sum(-3) * call.factors[2] / total
    R_t = (beta * t / y * R_y).sum_to_size(t.shape)
    return [R_t, R_A, R_V] if 0 in call.carriers else [R_A, R_V]


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    if call.name in MATRIX:
        return _reference_matrix(call, R_y)
    return (_reference_vectors if call.name in VECTORS else _reference_elementwise)(call, R_y)


def _samples() -> list[Call]:
    x, z = draw(2, 3, 4, seed=6), draw(2, 3, 4, seed=7)
    return [
        sample(aten.mul.Tensor, x, z, carriers=(0, 1)),
        sample(aten.mul.Tensor, x, draw(4, seed=6), carriers=(0, 1)),
        sample(aten.mul.Tensor, x, z, carriers=(0, 1), factors={0: 2, 1: 1}),
        sample(aten.matmul.default, x, draw(2, 4, 5, seed=6), carriers=(0, 1)),
        sample(aten.bmm.default, x, draw(2, 4, 5, seed=6), carriers=(0, 1), factors={0: 1, 1: 2}),
        sample(aten.mm.default, x[0], draw(4, 5, seed=6), carriers=(0, 1)),
        sample(aten.mv.default, x[0], draw(4, seed=8), carriers=(0, 1)),
        sample(aten.dot.default, draw(4), draw(4, seed=8), carriers=(0, 1), factors={0: 2, 1: 1}),
        sample(aten.outer.default, draw(3), draw(4, seed=8), carriers=(0, 1)),
    ]


def _calls() -> list[Call]:
    """Factors that begin somewhere: attention's weights on values, both ways round, and a product of two such."""
    p, v, p0, v0 = (draw(2, 4, 4, seed=i) for i in range(4))
    both = (0, 1)
    return [
        sample(aten.bmm.default, p, v, carriers=both, bases={0: p0}),
        sample(aten.matmul.default, v, p, carriers=both, bases={1: p0}, factors={0: 2, 1: 1}),
        sample(aten.mul.Tensor, p, v[:1], carriers=both, bases={0: p0[:1]}),
        sample(aten.bmm.default, p, v, carriers=both, bases={0: p0, 1: v0}),
        sample(aten.mul.Tensor, p, 1 + v, carriers=both, facts={"numbers": ((1, 1.0),)}),
        sample(aten.mul.Tensor, 2 - p, 1 + v[:1], carriers=both, facts={"numbers": ((0, 2.0), (1, 1.0))}),
        sample(aten.mul.Tensor, 1 + p, v, carriers=both, facts={"numbers": ((0, 1.0),)}, factors={0: 1, 1: 2}),
    ]


register(
    Rule(
        name="product.uniform",
        kind="product",
        law="y = x_1 ... x_n, linear in each with the others frozen; c(x_i) = (n_i / n) dy/dx_i c(y)",
        cites=("achtibat2024", "you2025"),
        ops=BILINEAR,
        surrogate=_uniform,
        sinks=("bias", "softmax"),
        based="start",
        reference=_reference,
        samples=_samples,
        calls=_calls,
    ),
    Rule(
        name="product.inferred",
        kind="product",
        law="the same, for an operation found to be linear in each of its carriers apart (and in none together)",
        cites=("achtibat2024", "you2025"),
        ops=("*",),
        surrogate=_uniform,
        sinks=("bias", "softmax"),
        based="start",
        reference=_reference,
        samples=lambda: [
            sample(aten.mul.Tensor, draw(2, 3, 4, seed=6), draw(2, 3, 4, seed=7), carriers=(0, 1), factors={0: 2, 1: 1})
        ],
    ),
    Rule(
        name="gate.uniform",
        kind="gate",
        law="y = up * act(gate): a product of two factors like any other",
        cites=("achtibat2024",),
        ops=covers("aten", "mul"),
        surrogate=_uniform,
        sinks=("bias", "softmax"),
        based="start",
        reference=_reference,
        samples=lambda: [
            sample(aten.mul.Tensor, draw(2, 3, seed=6), draw(2, 3, seed=8), carriers=(0, 1), facts={"activated": 1})
        ],
    ),
    Rule(
        name="gate.frozen",
        kind="gate",
        law="y = up * frozen(act(gate))",
        cites=("ali2022",),
        ops=covers("aten", "mul"),
        surrogate=_frozen_gate,
        reference=lambda call, R_y: [
            R_y if i != call.facts["activated"] else torch.zeros_like(R_y) for i in sorted(call.carriers)
        ],
        samples=lambda: [
            sample(aten.mul.Tensor, draw(2, 3, seed=6), draw(2, 3, seed=8), carriers=(0, 1), facts={"activated": 1})
        ],
    ),
    Rule(
        name="product.quotient",
        kind="product",
        law="y = a / b; c(a) = w_a dy/da c(y), c(b) = -w_b dy/db c(y) (Euler, degrees 1 and -1)",
        cites=("achtibat2024",),
        ops=covers("aten", "div"),
        surrogate=_quotient,
        reference=_reference_elementwise,
        samples=lambda: [
            sample(aten.div.Tensor, draw(2, 3, seed=6), draw(2, 3, seed=8).abs() + 0.5, carriers=(0, 1)),
            sample(aten.div.Tensor, draw(2, 3, seed=6), draw(2, 3, seed=8).abs() + 0.5, carriers=(1,)),
        ],
    ),
    Rule(
        name="product.with_term",
        kind="product",
        law="y = beta t + alpha a b; uniform on the product, plain on the term (or sink)",
        cites=("achtibat2024",),
        ops=WITH_TERM,
        surrogate=_with_term,
        sinks=("bias", "softmax"),
        based="start",
        reference=_reference_with_term,
        calls=lambda: (
            [
                sample(aten.baddbmm.default, *(draw(2, 4, 4, seed=i) for i in range(3)), carriers=c, bases=b, beta=0.5)
                for c, b in (((0, 1, 2), {1: draw(2, 4, 4, seed=4)}), ((1, 2), {2: draw(4, 4, seed=4).expand(2, 4, 4)}))
            ]
            + [
                sample(
                    aten.addcmul.default,
                    *(draw(2, 3, seed=i) + i for i in range(3)),
                    carriers=carriers,
                    facts={"numbers": ((2, 2.0),)},
                    value=0.5,
                )
                for carriers in ((0, 1, 2), (1, 2))
            ]
        ),
        samples=lambda: [
            sample(
                aten.addcmul.default,
                draw(2, 3, seed=6),
                draw(2, 3, seed=8),
                draw(2, 3, seed=9),
                carriers=(0, 1, 2),
                factors={0: 1, 1: 2, 2: 1},
                value=0.5,
            ),
            sample(aten.addmm.default, draw(5, seed=6), draw(3, 4, seed=6), draw(4, 5, seed=9), carriers=(1, 2)),
            sample(
                aten.baddbmm.default,
                draw(2, 3, 5, seed=6),
                draw(2, 3, 4, seed=6),
                draw(2, 4, 5, seed=9),
                carriers=(1, 2),
                beta=0.5,
                alpha=2.0,
            ),
            sample(
                aten.baddbmm.default,
                draw(2, 3, 5, seed=6),
                draw(2, 3, 4, seed=6),
                draw(2, 4, 5, seed=9),
                carriers=(0, 1, 2),
            ),
        ],
    ),
)
