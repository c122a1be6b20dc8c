"""Spellings of the gated linear unit: half of the features times the sigmoid of the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from testing.spellings.common import Gated as host  # noqa: F401


def functional(x: Tensor) -> Tensor:
    return nn.functional.glu(x)


def module(x: Tensor) -> Tensor:
    return nn.GLU(-1)(x)  # type: ignore[no-any-return]


def of_the_first_axis(x: Tensor) -> Tensor:
    return nn.functional.glu(x.transpose(1, 2), 1).transpose(1, 2)


def halves(x: Tensor) -> Tensor:
    up, gate = x.chunk(2, -1)
    return up * gate.sigmoid()


def gate_first(x: Tensor) -> Tensor:
    up, gate = x.split(x.shape[-1] // 2, -1)
    return torch.sigmoid(gate) * up


def slices(x: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    return x[..., :n] * nn.functional.sigmoid(x[..., n:])


def narrowed(x: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    return torch.mul(x.narrow(-1, 0, n), torch.special.expit(x.narrow(-1, n, n)))


def unbound(x: Tensor) -> Tensor:
    up, gate = x.unflatten(-1, (2, -1)).unbind(-2)
    return up * gate.sigmoid()


SPELLINGS = [functional, module, of_the_first_axis, halves, gate_first, slices, narrowed, unbound]
