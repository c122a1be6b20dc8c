"""Normalisations: the statistics are frozen, subtracting the mean is linear and stays, the bias is a sink (LN-rule)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, covers, draw, freeze, precise, register, sample, sink

aten = torch.ops.aten
BATCH = covers("aten", "batch_norm _native_batch_norm_legit_no_training")


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + sink("bias", bias, y)


def _layer_norm(call: Call) -> Any:
    x = precise(call.args[0])
    dims = list(range(-len(call.args[1]), 0))
    centred = x + x.sum(dims, keepdim=True) * (
        -1.0 / math.prod(call.args[1])
    )  # x - mean x, in fewer passes when transposed
    return _affine(
        centred * freeze(_inverse_deviation(call, x.detach(), dims)), call.arg(2, "weight"), call.arg(3, "bias")
    ).to(call.args[0].dtype)


def _inverse_deviation(call: Call, x: Tensor, dims: list[int]) -> Tensor:
    """1 / std x, keeping its axes: the kernel's own statistic, which the forward pass has, unless it computes in half
    precision.
    """
    eps = call.arg(4, "eps", 1e-5)
    if x.dtype == call.args[0].dtype:
        inverse: Tensor = aten.native_layer_norm.default(
            x, call.args[1], call.arg(2, "weight"), call.arg(3, "bias"), eps
        )[2]
        return inverse
    return torch.rsqrt(x.var(dims, keepdim=True, unbiased=False) + eps)


def _rms_norm(call: Call) -> Any:
    x = precise(call.args[0])
    dims = list(range(-len(call.args[1]), 0))
    eps = call.arg(3, "eps")
    mean_square = freeze(x).square().mean(dims, keepdim=True)
    scale = freeze(torch.rsqrt(mean_square + (torch.finfo(x.dtype).eps if eps is None else eps)))
    return _affine(x * scale, call.arg(2, "weight"), None).to(call.args[0].dtype)


def _group_norm(call: Call) -> Any:
    x, groups = precise(call.args[0]), call.args[1]
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    variance = freeze(grouped).var(-1, keepdim=True, unbiased=False)
    y = (centred * freeze(torch.rsqrt(variance + call.arg(4, "eps", 1e-5)))).reshape(x.shape)
    shape = (-1,) + (1,) * (x.dim() - 2)
    weight, bias = call.arg(2, "weight"), call.arg(3, "bias")
    return _affine(
        y, None if weight is None else weight.reshape(shape), None if bias is None else bias.reshape(shape)
    ).to(call.args[0].dtype)


def _instance_norm(call: Call) -> Any:
    """Each channel of each example by its own statistics; by running statistics where the call names these."""
    if not call.args[5]:
        return _batch_norm(call)
    return _group_norm(_channels_as_groups(call))


def _channels_as_groups(call: Call) -> Call:
    x, weight, bias = call.args[:3]
    return replace(call, op=aten.group_norm.default, args=(x, x.shape[1], weight, bias, call.args[7]), kwargs={})


def _batch_norm(call: Call) -> Any:
    """In evaluation mode the statistics are parameters: an affine map."""
    x, weight, bias, mean, variance = call.args[:5]
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = torch.rsqrt(variance + _epsilon(call)) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    y = x * scale.reshape(shape)
    y = y + sink("bias", shift.reshape(shape), y)
    return (y, *call.run()[1:]) if call.name == "aten._native_batch_norm_legit_no_training" else y


def _epsilon(call: Call) -> float:
    """That of a norm by given statistics, in any of its forms."""
    return float(call.arg(6 if call.name == "aten._native_batch_norm_legit_no_training" else 7, "eps", 1e-5))


def _product(call: Call) -> Any:
    """A normalisation written as a product: the machine has made the statistic a coefficient."""
    return call.run()


def _multiple(call: Call) -> Any:
    """``y = s x`` with one number ``s`` along the axes of the statistic, read off by least squares: no element is
    divided by.
    """
    x, axes = precise(call.operands()[0]), list(call.facts["axes"])
    fixed = freeze(x)
    y = precise(
        (
            call.value
            if isinstance(call.value, Tensor)
            else call.map(lambda i, a: a.detach() if isinstance(a, Tensor) else a).run()
        ).detach()
    )
    size = fixed.abs().amax(axes, keepdim=True)
    unit = fixed / torch.where(size == 0, torch.ones_like(size), size)  # the square of 1e30 is no float32
    energy = (unit * unit).sum(axes, keepdim=True) * size
    scale = torch.where(
        size == 0,
        torch.zeros_like(size),
        (unit * y).sum(axes, keepdim=True) / torch.where(size == 0, torch.ones_like(energy), energy),
    )
    return (x * freeze(scale)).to(call.operands()[0].dtype)


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """LN-rule (Ali et al. 2022, eq. 12): with frozen sigma, R_i = sum_j x_i (d_ij - 1/N) w_j / (sigma y_j) R_j, y_j
    without bias' share.
    """
    x, n = call.args[0], math.prod(call.args[1])
    weight, eps = _or_ones(call.arg(2, "weight"), x).expand(x.shape).reshape(-1, n), call.arg(4, "eps", 1e-5)
    z, ratio = x.reshape(-1, n), (R_y / call.run()).reshape(-1, n)
    centre = torch.eye(n, dtype=x.dtype) - 1.0 / n
    sigma = (z.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    messages = z.unsqueeze(-1) * centre * (weight / sigma * ratio).unsqueeze(-2)
    return [messages.sum(-1).reshape(x.shape)]


def _or_ones(weight: Tensor | None, x: Tensor) -> Tensor:
    return torch.ones((), dtype=x.dtype) if weight is None else weight


def _groups(call: Call) -> tuple[tuple[int, ...], Tensor, bool, float]:
    """Shape whose last axis shares its statistics, weight for every element, whether a mean is subtracted, epsilon."""
    x = call.args[0]
    if call.name == "aten.rms_norm":
        eps = call.arg(3, "eps")
        shape = (*x.shape[: x.dim() - len(call.args[1])], math.prod(call.args[1]))
        weight = _or_ones(call.arg(2, "weight"), x).expand(x.shape)
        return shape, weight, False, torch.finfo(x.dtype).eps if eps is None else eps
    per_channel = _or_ones(call.arg(2, "weight"), x).reshape(-1, *(1,) * (x.dim() - 2)).expand(x.shape)
    return (x.shape[0], call.args[1], x[0].numel() // call.args[1]), per_channel, True, call.arg(4, "eps", 1e-5)


def _statistics_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """The LN-rule with each group's own statistics; for fixed statistics LRP-0 on the affine map."""
    x, y = call.args[0], call.run()
    own = call.name == "aten.instance_norm" and call.args[5]
    call = _channels_as_groups(call) if own else call
    if call.name in (*BATCH, "aten.instance_norm"):
        y = y[0] if isinstance(y, tuple) else y
        weight, _, _, variance = call.args[1:5]
        shape, eps = (1, -1) + (1,) * (x.dim() - 2), _epsilon(call)
        return [x * (_or_ones(weight, x) / (variance + eps).sqrt()).reshape(shape) / y * R_y]
    shape, weight, centres, eps = _groups(call)
    z, w, ratio = x.reshape(shape), weight.reshape(shape), (R_y / y).reshape(shape)
    n = shape[-1]
    centre = torch.eye(n, dtype=x.dtype) - (1.0 / n if centres else 0.0)
    scale = ((z - (z.mean(-1, keepdim=True) if centres else 0.0)).square().mean(-1, keepdim=True) + eps).sqrt()
    messages = z.unsqueeze(-1) * centre * (w / scale * ratio).unsqueeze(-2)
    return [messages.sum(-1).reshape(x.shape)]


def _layer_samples() -> list[Call]:
    x, line = draw(2, 3, 6, seed=3) * 3 + 1, draw(2, 3, 8, seed=4)
    w, b = draw(2, 6, seed=5)
    return [
        sample(aten.layer_norm.default, x, [6], w, b),
        sample(aten.layer_norm.default, x * 1e-4, [6], w, b, 1e-5),
        sample(aten.layer_norm.default, x, [6]),
        sample(aten.layer_norm.default, line, [3, 8], draw(3, 8, seed=6), draw(3, 8, seed=7)),
    ]


def _other_samples() -> list[Call]:
    x, image = draw(2, 4, 6, seed=4) + 0.5, draw(2, 4, 3, 3, seed=5)
    w, b, c, v = draw(4, 4, seed=6)
    return [
        sample(aten.rms_norm.default, x, [6], draw(6, seed=7), 1e-6),
        sample(aten.rms_norm.default, x, [6]),
        sample(aten.rms_norm.default, x, [4, 6]),
        sample(aten.group_norm.default, x, 2, w, b),
        sample(aten.group_norm.default, image, 2),
        sample(aten.group_norm.default, image, 4, w, w),
        sample(aten.instance_norm.default, x, w, b, None, None, True, 0.1, 1e-5, False),
        sample(aten.instance_norm.default, image, None, None, None, None, True, 0.1, 1e-3, False),
        sample(aten.instance_norm.default, image, w, b, c, v.abs(), False, 0.1, 1e-5, False),
        sample(aten.batch_norm.default, x, w, b, c, v.abs(), False, 0.1, 1e-5, False),
        sample(aten.batch_norm.default, image, None, None, w, v.abs(), False, 0.1, 1e-3, False),
        sample(aten._native_batch_norm_legit_no_training.default, x, w, b, c, v.abs(), 0.1, 1e-5),
        sample(aten._native_batch_norm_legit_no_training.default, image, None, w, c, v.abs(), 0.1, 1e-3),
    ]


def _product_samples() -> list[Call]:
    x, s = draw(1, 2, seed=8), torch.tensor([[0.5]], dtype=torch.float64)
    return [sample(aten.mul.Tensor, x, s), sample(aten.div.Tensor, x, s)]


def _by_op(call: Call) -> Any:
    by_name = {"aten.rms_norm": _rms_norm, "aten.group_norm": _group_norm, "aten.instance_norm": _instance_norm}
    return by_name.get(call.name, _batch_norm)(call)


register(
    Rule(
        name="normalise.layer",
        kind="normalise",
        law="y = (x - mean x) * frozen(1/std x) * w + sink(b)",
        cites=("ali2022", "achtibat2024"),
        ops=covers("aten", "layer_norm"),
        surrogate=_layer_norm,
        sinks=("bias",),
        reference=_reference,
        samples=_layer_samples,
    ),
    Rule(
        name="normalise.statistics",
        kind="normalise",
        law="y = centred(x) * frozen(1/scale) * w + sink(b), for RMS, group, instance and (fixed) batch statistics",
        cites=("ali2022",),
        ops=(*covers("aten", "rms_norm group_norm instance_norm"), *BATCH),
        surrogate=_by_op,
        sinks=("bias",),
        reference=_statistics_reference,
        samples=_other_samples,
    ),
    Rule(
        name="normalise.inferred",
        kind="normalise",
        law="y = x * frozen(s), for an operation found to multiply its operand by one number along some axes",
        cites=("ali2022",),
        ops=("*",),
        surrogate=_multiple,
        reference=lambda call, R_y: [R_y],
        samples=lambda: [
            sample(
                aten.renorm.default,
                torch.tensor([[3.0, -2.0], [0.5, 4.0]], dtype=torch.float64),
                2,
                0,
                1.0,
                facts={"axes": (-1,)},
            )
        ],
    ),
    Rule(
        name="normalise.product",
        kind="normalise",
        law="y = x * frozen(s(x)) with s a statistic of x alone, broadcast over the axes it reduces",
        cites=("ali2022",),
        ops=covers("aten", "mul div"),
        surrogate=_product,
        reference=lambda call, R_y: [R_y],
        samples=_product_samples,
    ),
)
