"""Products, quotients and mixtures of two values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("gate_by_glu", "gate_by_sigmoid"),
    ("mixture", "mixture_written_out"),
    ("mixture_by_gate", "mixture_by_lerp"),
    ("modulated", "modulated_written_out"),
    ("row_products", "row_products_written_out"),
)


def product(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x * y


def product_of_maps(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return w.first(x) * w.second(y)


def gate(w: Weights, x: Tensor) -> Tensor:
    return F.silu(w.first(x)) * w.second(x)


def gate_by_glu(w: Weights, x: Tensor) -> Tensor:
    return F.glu(torch.cat([w.second(x), w.first(x)], -1), -1)


def gate_by_sigmoid(w: Weights, x: Tensor) -> Tensor:
    return w.second(x) * torch.sigmoid(w.first(x))


def gate_of_one_map(w: Weights, x: Tensor) -> Tensor:
    a, b = w.up(x).chunk(2, -1)
    return a * F.gelu(b)


def gate_of_other(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x * torch.sigmoid(w.first(y))


def gate_of_itself_moved(w: Weights, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.roll(1, 1))


def quotient(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x / (1 + w.second(y).square())


def quotient_by_itself(w: Weights, x: Tensor) -> Tensor:
    return x / (1 + x.square())


def quotient_by_sigmoid(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x / (0.5 + w.first(y).sigmoid())


def mixture(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.lerp(x, y, 0.3)


def mixture_written_out(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return 0.7 * x + 0.3 * y


def mixture_by_gate(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    g = torch.sigmoid(w.first(x))
    return g * x + (1 - g) * y


def mixture_by_lerp(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.lerp(y, x, torch.sigmoid(w.first(x)))


def modulated(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x * (1 + w.second(y))


def modulated_written_out(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x + x * w.second(y)


def added_product(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.addcmul(x, y, w.second(x), value=0.5)


def added_quotient(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.addcdiv(x, y, 2 + w.second(x).tanh(), value=0.5)


def outer(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-1) * w.second(y).unsqueeze(-2)).sum(-1) / 2


def row_products(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return w.bias * torch.einsum("btd,btd->bt", x, y)[..., None] / 4


def row_products_written_out(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True) * w.bias / 4


def product_with_moved(w: Weights, x: Tensor) -> Tensor:
    return x * x.roll(1, 1)


def gram_of_features(w: Weights, x: Tensor) -> Tensor:
    return x @ (x.mT @ x) / 20


def gram_of_tokens(w: Weights, x: Tensor) -> Tensor:
    return (x @ x.mT) @ x / 20


def three_factors(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return w.first(x) * w.second(y) * x / 3


def cosine_similarity(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return x * F.cosine_similarity(x, w.second(y), dim=-1)[..., None]


def bilinear(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return F.bilinear(x, y, w.experts.repeat(2, 1, 1) / 3, w.bias)


def difference_of_squares(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return (x - y) * (x + y) / 3


def length(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y)


def angle(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.atan2(x, y.abs() + 0.5)


def softened_maximum(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.logaddexp(x, y)


def remainder(w: Weights, x: Tensor) -> Tensor:
    return torch.remainder(x, 0.7)
