"""What surrogates are written with: ``freeze``, ``share``, ``carry``, ``sink``, and the tape that records them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from lrp_fx.ir.sizes import hint


@dataclass
class Tape:
    """Records the sinks that a surrogate declares, and its frozen parts so that they can be replayed at other inputs.

    ``sinks``: (name, constant term broadcast to the result); ``given``: the same constants before that, as (constant,
    what it is to be multiplied by). ``open``: sinks stay functions of what they are made of, for those who ask what
    weights and biases have a part in.
    """

    sinks: list[tuple[str, Tensor]] = field(default_factory=list)
    given: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    frozen: list[Tensor] = field(default_factory=list)
    replay: Iterator[Tensor] | None = None
    open: bool = False


_tapes: list[Tape] = []


@contextlib.contextmanager
def recording(tape: Tape) -> Iterator[Tape]:
    """Collect what the surrogates run inside declare."""
    _tapes.append(tape)
    try:
        yield tape
    finally:
        _tapes.pop()


def freeze(x: Tensor) -> Tensor:
    """The value of ``x`` as a constant: relevance does not flow into it."""
    tape = _tapes[-1] if _tapes else None
    if tape is not None and tape.replay is not None:
        return next(tape.replay)
    frozen = x.detach()
    if tape is not None:
        tape.frozen.append(frozen)
    return frozen


def sink(name: str, value: Tensor, like: Tensor, *, times: Tensor | None = None) -> Tensor:
    """A constant term of the surrogate, broadcast to the result ``like``; its relevance is booked under ``name``.

    ``times``: the term is ``value * times``; where ``value`` lacks axes, products with ``times`` alone are summed along
    them first.
    """
    given = (value if _tapes and _tapes[-1].open else freeze(value)).to(like.dtype)
    factor = freeze(times).to(like.dtype) if times is not None else None
    constant = (given if factor is None else given * factor).expand(like.shape)
    if _tapes and _tapes[-1].open:
        return constant
    constant = constant.detach().requires_grad_()
    if _tapes:
        _tapes[-1].sinks.append((name, constant))
        _tapes[-1].given.append((given, factor))
    return constant


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, through: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.weight, None


def carry(value: Tensor, through: Tensor) -> Tensor:
    """The value of ``value`` with the transpose of ``through``: pairs an operation's own result with a surrogate."""
    result: Tensor = _Carry.apply(freeze(value), through)  # type: ignore[no-untyped-call]
    return result


def share(x: Tensor, weight: float) -> Tensor:
    """``x`` itself, with its coefficient scaled by ``weight``."""
    if weight == 1.0:
        return x
    result: Tensor = _Share.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


def precise(x: Tensor) -> Tensor:
    """Half precision as float32, in which the kernels compute: the square of 400 is no float16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def where_positive(gate: Tensor, x: Tensor) -> Tensor:
    """``x`` where ``gate`` (of the same shape) is positive or no number, else 0, also where ``x`` is infinite; linear
    in ``x``.

    As `torch.where` does it, in a third of the time on a CPU: the derivative of a threshold is this choice, in one
    vectorised pass.
    """
    if x.is_complex() or x.dtype != gate.dtype:
        return torch.where(gate <= 0, 0.0, x)
    chosen: Tensor = torch.ops.aten.threshold_backward(x, gate, 0.0)
    return chosen


def elements(x: Tensor) -> int:
    """The number of elements; where sizes are symbolic, of the example that was traced."""
    return prod(map(hint, x.shape))


def identity(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """The operation that a leaf rule is applied to: the leaf itself, with the attention weights its scores lead to."""
    return x
