"""Functions of each element."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("gelu", "gelu_by_erf"),
    ("silu", "silu_written_out", "silu_by_exp"),
    ("relu", "relu_as_clamp", "relu_as_where"),
    ("softplus", "softplus_written_out"),
    ("square", "square_by_power", "square_by_square"),
)


def gelu(w: Weights, x: Tensor) -> Tensor:
    return F.gelu(x)


def gelu_by_erf(w: Weights, x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_by_tanh(w: Weights, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def silu(w: Weights, x: Tensor) -> Tensor:
    return F.silu(x)


def silu_written_out(w: Weights, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def silu_by_exp(w: Weights, x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def relu(w: Weights, x: Tensor) -> Tensor:
    return F.relu(x)


def relu_as_clamp(w: Weights, x: Tensor) -> Tensor:
    return x.clamp(min=0)


def relu_as_where(w: Weights, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.0)


def relu_squared(w: Weights, x: Tensor) -> Tensor:
    return F.relu(x).square()


def leaky_relu(w: Weights, x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def elu(w: Weights, x: Tensor) -> Tensor:
    return F.elu(x)


def selu(w: Weights, x: Tensor) -> Tensor:
    return F.selu(x)


def celu(w: Weights, x: Tensor) -> Tensor:
    return F.celu(x, 0.5)


def prelu(w: Weights, x: Tensor) -> Tensor:
    return F.prelu(x.mT, w.scale).mT


def tanh(w: Weights, x: Tensor) -> Tensor:
    return x.tanh()


def sigmoid(w: Weights, x: Tensor) -> Tensor:
    return x.sigmoid()


def softplus(w: Weights, x: Tensor) -> Tensor:
    return F.softplus(x)


def softplus_written_out(w: Weights, x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def log_sigmoid(w: Weights, x: Tensor) -> Tensor:
    return F.logsigmoid(x)


def hardswish(w: Weights, x: Tensor) -> Tensor:
    return F.hardswish(x)


def hardtanh(w: Weights, x: Tensor) -> Tensor:
    return F.hardtanh(x, -0.6, 0.9)


def hardsigmoid(w: Weights, x: Tensor) -> Tensor:
    return F.hardsigmoid(x)


def relu6(w: Weights, x: Tensor) -> Tensor:
    return F.relu6(3 * x)


def mish(w: Weights, x: Tensor) -> Tensor:
    return F.mish(x)


def softsign(w: Weights, x: Tensor) -> Tensor:
    return F.softsign(x)


def tanhshrink(w: Weights, x: Tensor) -> Tensor:
    return F.tanhshrink(x)


def softshrink(w: Weights, x: Tensor) -> Tensor:
    return F.softshrink(x, 0.2)


def threshold(w: Weights, x: Tensor) -> Tensor:
    return F.threshold(x, 0.1, -0.3)


def absolute(w: Weights, x: Tensor) -> Tensor:
    return x.abs()


def exponential(w: Weights, x: Tensor) -> Tensor:
    return (x * 0.3).exp()


def exponential_less_one(w: Weights, x: Tensor) -> Tensor:
    return torch.expm1(x * 0.3)


def logarithm(w: Weights, x: Tensor) -> Tensor:
    return torch.log1p(x.abs())


def root(w: Weights, x: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(x))


def root_of_inverse(w: Weights, x: Tensor) -> Tensor:
    return torch.rsqrt(1 + x * x)


def inverse(w: Weights, x: Tensor) -> Tensor:
    return (1.5 + x.tanh()).reciprocal()


def sine(w: Weights, x: Tensor) -> Tensor:
    return x.sin()


def cosine(w: Weights, x: Tensor) -> Tensor:
    return x.cos()


def arc_tangent(w: Weights, x: Tensor) -> Tensor:
    return x.atan()


def arc_sinh(w: Weights, x: Tensor) -> Tensor:
    return x.asinh()


def error_function(w: Weights, x: Tensor) -> Tensor:
    return x.erf()


def square(w: Weights, x: Tensor) -> Tensor:
    return x * x / 2


def square_by_power(w: Weights, x: Tensor) -> Tensor:
    return x**2 / 2


def square_by_square(w: Weights, x: Tensor) -> Tensor:
    return 0.5 * x.square()


def cube(w: Weights, x: Tensor) -> Tensor:
    return x * x * x / 4


def power(w: Weights, x: Tensor) -> Tensor:
    return (x.abs() + 0.5) ** 1.5


def power_of_constant(w: Weights, x: Tensor) -> Tensor:
    return 1.5**x


def polynomial(w: Weights, x: Tensor) -> Tensor:
    return 0.1 * x**3 - 0.5 * x**2 + x


def negated(w: Weights, x: Tensor) -> Tensor:
    return -x


def sinc(w: Weights, x: Tensor) -> Tensor:
    return torch.sinc(x)


def logit(w: Weights, x: Tensor) -> Tensor:
    return torch.logit(0.9 * x.sigmoid() + 0.05)


def x_log_x(w: Weights, x: Tensor) -> Tensor:
    return torch.special.entr(x.sigmoid())


def clamped(w: Weights, x: Tensor) -> Tensor:
    return x.clamp(-0.5, 1.0)


def numbers_only(w: Weights, x: Tensor) -> Tensor:
    return 1 - (2 * x + 1) / 4
