"""Linear and affine maps: weights are frozen coefficients, biases are absorbed in the sink ``bias`` (LRP-0).

LRP-epsilon and LRP-gamma are served as alternatives (`linear.epsilon`, `linear.gamma`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, constant_part, covers, draw, freeze, register, sample, sink

aten = torch.ops.aten

#: Position of the bias argument, and the axis (from the right) along which it runs.
BIAS = {
    "aten.linear": (2, 1), "aten.conv1d": (2, 2), "aten.conv2d": (2, 3), "aten.conv3d": (2, 4),
    "aten.convolution": (2, 0), "aten.conv_transpose1d": (2, 2), "aten.conv_transpose2d": (2, 3),
    "aten.conv_transpose3d": (2, 4),
}  # fmt: skip
SUM_OF_PRODUCT = covers("aten", "addmm baddbmm addbmm addmv")


def split_bias(call: Call) -> tuple[Call, Tensor | None]:
    """The call without its bias, and the bias shaped to broadcast against the result (None if there is none)."""
    name = call.name
    if name in SUM_OF_PRODUCT:
        if 0 in call.carriers or isinstance(call.args[0], (int, float)):
            return call, None
        beta = call.kwargs.get("beta", 1)
        return call.map(lambda i, a: torch.zeros_like(a) if i == 0 else a), call.args[0] * beta
    place = BIAS.get(name)
    if place is None or len(call.args) <= place[0] or call.args[place[0]] is None:
        return call, None
    position, from_right = place
    bias = call.args[position]
    if name == "aten.convolution":
        from_right = call.args[0].dim() - 1
    args = tuple(None if i == position else a for i, a in enumerate(call.args))
    bare = replace(call, args=args)
    return bare, bias.reshape(bias.shape + (1,) * (from_right - 1))


def _zero(call: Call) -> Any:
    bare, bias = split_bias(call)
    y = bare.run()
    return y if bias is None else y + sink("bias", bias, y)


def _affine(call: Call) -> Any:
    y = call.run()
    if not call.facts.get("affine", True):
        return y
    return _each(_absorb, y, constant_part(call))


def _absorb(y: Tensor, constant: Tensor) -> Tensor:
    constant = freeze(constant)
    return y - constant + sink("bias", constant, constant)


def _each(rule: Callable[..., Tensor], *results: Any) -> Any:
    """A rule for one floating result, applied to each of an operation's results."""
    if isinstance(results[0], Tensor):
        return rule(*results) if results[0].is_floating_point() or results[0].is_complex() else results[0]
    return type(results[0])(_each(rule, *parts) for parts in zip(*results, strict=True))


def _stabilised(z: Tensor, epsilon: float) -> Tensor:
    return z + epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


def epsilon_surrogate(epsilon: float) -> Any:
    """LRP-epsilon with the given stabiliser; what it absorbs is booked in the sink ``epsilon``."""

    def surrogate(call: Call) -> Any:
        bare, bias = split_bias(call)
        y = bare.run()
        z = freeze(y.detach() if bias is None else y.detach() + bias)
        s = z / _stabilised(z, epsilon)
        result = y * s + sink("epsilon", z * (1 - s), y)
        return result if bias is None else result + sink("bias", bias * s, y)

    return surrogate


def gamma_surrogate(gamma: float) -> Any:
    """LRP-gamma in its signed form: positive contributions count ``1 + gamma`` times.

    Contributions are separated by the signs of inputs and weights; the branch follows the sign of the result.
    """

    def surrogate(call: Call) -> Any:
        bare, bias = split_bias(call)
        position = min(call.carriers)
        first = 1 if call.name in SUM_OF_PRODUCT else 0  # the term in front is no factor
        weight = next(
            i
            for i, a in enumerate(bare.flat())
            if i >= first and i != position and isinstance(a, Tensor) and a.is_floating_point() and a.dim() > 1
        )
        x, w = bare.flat()[position], bare.flat()[weight]

        def with_(x_: Tensor, w_: Tensor) -> Tensor:
            result: Tensor = bare.map(lambda i, a: x_ if i == position else (w_ if i == weight else a)).run()
            return result

        positive, negative = freeze((x > 0).to(x.dtype)), freeze((x < 0).to(x.dtype))
        raw = with_(x, w)
        z = freeze(raw.detach() if bias is None else raw.detach() + bias)
        above = raw + gamma * (with_(x * positive, w.clamp(min=0)) + with_(x * negative, w.clamp(max=0)))
        below = raw + gamma * (with_(x * positive, w.clamp(max=0)) + with_(x * negative, w.clamp(min=0)))
        b = torch.zeros_like(z) if bias is None else bias.expand_as(z)
        b_above, b_below = b + gamma * b.clamp(min=0), b + gamma * b.clamp(max=0)
        up = freeze((z > 0).to(z.dtype))
        total = freeze(up * (above.detach() + b_above) + (1 - up) * (below.detach() + b_below))
        ratio = freeze(torch.where(total == 0, 0.0, z / torch.where(total == 0, 1.0, total)).to(z.dtype))
        return (up * above + (1 - up) * below) * ratio + sink("bias", (up * b_above + (1 - up) * b_below) * ratio, z)

    return surrogate


def _matrix(call: Call) -> Tensor:
    """The operation as a dense matrix over its (single) flattened carrier."""
    bare, _ = split_bias(call)
    (position,) = call.carriers
    x = bare.operand(position)
    origin = constant_part(bare).flatten()
    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    return torch.stack([bare.put({position: unit}).run().flatten() - origin for unit in units], 1)


def _reference_zero(call: Call, R_y: Tensor) -> list[Tensor]:
    """Bach et al. 2015, eq. 56: R_i = sum_j x_i w_ji / z_j R_j, with z_j including the bias."""
    (x,) = call.operands()
    W, z = _matrix(call), call.run().flatten()
    contributions = W * x.flatten()
    return [(contributions * (R_y.flatten() / z).unsqueeze(1)).sum(0).view_as(x)]


def _reference_epsilon(call: Call, R_y: Tensor) -> list[Tensor]:
    """Bach et al. 2015, eq. 58: the same with a stabilised denominator."""
    (x,) = call.operands()
    W, z = _matrix(call), call.run().flatten()
    return [(W * x.flatten() * (R_y.flatten() / _stabilised(z, 1e-2)).unsqueeze(1)).sum(0).view_as(x)]


def _reference_gamma(call: Call, R_y: Tensor) -> list[Tensor]:
    """Generalised gamma rule (Montavon et al. 2019, signed as in zennit): weights of helpful contributions grow."""
    (x,) = call.operands()
    _, bias = split_bias(call)
    W, z = _matrix(call), call.run().flatten()
    b = torch.zeros_like(z) if bias is None else bias.expand(call.run().shape).flatten()
    contributions = W * x.flatten()
    helps = torch.where(z.unsqueeze(1) > 0, contributions.clamp(min=0), contributions.clamp(max=0))
    b_helps = torch.where(z > 0, b.clamp(min=0), b.clamp(max=0))
    raised = contributions + 0.25 * helps
    total = raised.sum(1) + b + 0.25 * b_helps
    return [(raised * (R_y.flatten() / total).unsqueeze(1)).sum(0).view_as(x)]


def _samples() -> list[Call]:
    line, image, volume = draw(2, 3, 8), draw(1, 4, 5, 5), draw(1, 2, 4, 4, 4)
    return [
        sample(aten.linear.default, draw(2, 3, 4), draw(5, 4, seed=1), draw(5, seed=2)),
        sample(aten.linear.default, draw(3, 4), draw(5, 4, seed=1)),
        sample(aten.linear.default, draw(4), draw(5, 4, seed=1), draw(5, seed=2)),
        sample(aten.addmm.default, draw(5), draw(3, 4, seed=1), draw(4, 5, seed=2), carriers=(1,)),
        sample(aten.addmm.default, draw(3, 5), draw(3, 4), draw(4, 5, seed=2), carriers=(1,), beta=0.5, alpha=2.0),
        sample(aten.baddbmm.default, draw(2, 3, 3), line, draw(2, 8, 3, seed=1), carriers=(1,), beta=0.5),
        sample(aten.baddbmm.default, draw(2, 3, 3), line, draw(2, 8, 3, seed=1), carriers=(2,)),
        sample(aten.conv1d.default, line, draw(4, 3, 3, seed=1), draw(4, seed=2), [2], [1]),
        sample(aten.conv2d.default, image, draw(3, 4, 2, 2, seed=1), draw(3, seed=2), [2, 2]),
        sample(aten.conv2d.default, image, draw(4, 1, 3, 3, seed=1), draw(4, seed=2), [1, 1], [1, 1], [1, 1], 4),
        sample(aten.conv3d.default, volume, draw(3, 2, 2, 2, 2, seed=1), draw(3, seed=2)),
        sample(aten.convolution.default, line, draw(4, 3, 3, seed=1), draw(4), [1], [0], [1], False, [0], 1),
        sample(aten.conv_transpose1d.default, line, draw(3, 4, 3, seed=1), draw(4, seed=2)),
        sample(aten.conv_transpose2d.input, image, draw(4, 2, 2, 2, seed=1), draw(2, seed=2), [2, 2]),
        sample(aten.conv_transpose3d.input, volume, draw(2, 3, 2, 2, 2, seed=1), draw(3, seed=2)),
    ]


def _with_carrying_term() -> list[Call]:
    return [sample(aten.addmm.default, draw(3, 5), draw(3, 4, seed=1), draw(4, 5, seed=2), carriers=(0, 1))]


def _coefficient_samples() -> list[Call]:
    x, z, w = draw(3, 4), draw(4, 5, seed=1), draw(4, seed=2)
    return [
        sample(aten.mul.Tensor, draw(2, 3, 4), w),
        sample(aten.mul.Tensor, w, x, carriers=(1,)),
        sample(aten.mul.Tensor, x, 2.0),
        sample(aten.div.Tensor, x, 3.0),
        sample(aten.div.Tensor, x, w),
        sample(aten.matmul.default, draw(2, 3, 4), draw(4, 2, seed=1)),
        sample(aten.matmul.default, z.T, x.T, carriers=(1,)),
        sample(aten.matmul.default, x, w),
        sample(aten.mm.default, x, z),
        sample(aten.bmm.default, draw(2, 3, 4), draw(2, 4, 5, seed=1)),
        sample(aten.mv.default, x, w),
        sample(aten.dot.default, w, w + 1.0),
        sample(aten.outer.default, w, w + 1.0),
    ]


def _inferred_samples() -> list[Call]:
    x, plain = draw(2, 3, 4, seed=1), {"affine": False}
    return [
        sample(
            aten.lerp.Scalar,
            torch.ones(3, dtype=torch.float64),
            torch.full((3,), 2.0, dtype=torch.float64),
            0.25,
            facts={"affine": True},
        ),
        sample(aten.neg.default, x, facts=plain),
        sample(aten.mean.dim, x, [1], True, facts=plain),
        sample(aten.sum.dim_IntList, x, [2], facts=plain),
        sample(aten.cumsum.default, x, 1, facts=plain),
    ]


WEIGHTED = covers(
    "aten", "linear addmm baddbmm conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d"
)

register(
    Rule(
        name="linear.zero",
        kind="linear",
        law="y = W x + sink(b); c(x) = W^T c(y)",
        cites=("bach2015",),
        ops=WEIGHTED,
        surrogate=_zero,
        sinks=("bias",),
        reference=_reference_zero,
        samples=_samples,
        calls=_with_carrying_term,
    ),
    Rule(
        name="linear.coefficient",
        kind="linear",
        law="y = A x with A free of relevance; c(x) = A^T c(y)",
        cites=("bach2015",),
        ops=covers("aten", "mul div matmul mm bmm mv dot outer _grouped_mm"),
        surrogate=lambda call: call.run(),
        reference=_reference_zero,
        samples=_coefficient_samples,
        unsampled={"aten._grouped_mm": "has no float64: a model with it is explained in half precision"},
    ),
    Rule(
        name="linear.affine",
        kind="linear",
        law="y = A x + sink(f(0)) for an operation found to be linear or affine, in all its carriers jointly",
        cites=("bach2015",),
        ops=("*",),
        surrogate=_affine,
        sinks=("bias",),
        reference=_reference_zero,
        samples=_inferred_samples,
    ),
    Rule(
        name="linear.epsilon",
        kind="linear",
        law="y = (W x) s + sink(b s) + sink(z (1 - s)), z = W x + b, s = z / (z + eps sign z), sign 0 = 1",
        cites=("bach2015",),
        ops=WEIGHTED,
        surrogate=epsilon_surrogate(1e-2),
        sinks=("bias", "epsilon"),
        reference=_reference_epsilon,
        samples=_samples,
        calls=_with_carrying_term,
    ),
    Rule(
        name="linear.gamma",
        kind="linear",
        law="y = (W + gamma W+) x * z/z' + sink((b + gamma b+) z/z'), z' the raised sum; signs by branch of z",
        cites=("montavon2019", "anders2021"),
        ops=WEIGHTED,
        surrogate=gamma_surrogate(0.25),
        sinks=("bias",),
        reference=_reference_gamma,
        samples=_samples,
        calls=_with_carrying_term,
    ),
)
