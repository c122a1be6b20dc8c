"""Direction: a value read along a vector: a probe, the direction of a feature, a row of a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.targets.classes import LAST, rows_at
from lrp_fx.targets.indices import Index, check_range, column, listed, whole_numbers


class Direction:
    """``sum_d output[b, position, d] * vector[d]``, or ``sum(output[b] * vector)`` over all that there is.

    vector: (d,), or (B, d) with one for each example, read at ``position`` (a number, or one for each example; -1 is
    the last that counts). With ``position=None``: any shape that broadcasts against the value's, the examples first.
    """

    linear = True

    def __init__(self, vector: Any, position: Index | None = LAST) -> None:
        try:
            self.vector = torch.as_tensor(vector).detach()
        except (TypeError, ValueError, RuntimeError):
            raise TargetError(f"a direction is a vector of floating numbers, got {vector!r}") from None
        self.position = None if position is None else listed(position)
        if not self.vector.is_floating_point() or not self.vector.dim():
            raise TargetError(f"a direction is a vector of floating numbers, got {self.vector.dtype} {_shape(vector)}")
        if self.position is not None:
            whole_numbers(self.position, "position")
            if self.vector.dim() > 2:
                raise TargetError(
                    f"a direction at a position is (d,), or (B, d); got {_shape(vector)}\n    next: position=None for "
                    "a vector of the whole value's shape"
                )

    @property
    def signature(self) -> tuple[Any, ...]:
        """Which axes it has, and whether it is read at a position; its numbers are arguments."""
        return ("Direction", self.position is not None, tuple(s != 1 for s in self.vector.shape))

    def sizes(self, shape: Sequence[Any]) -> list[Any]:
        """The shapes of its arguments for a value of this (perhaps symbolic) shape."""
        if self.position is None:
            return [_where_given(self.vector, shape)]
        return [_where_given(self.vector, (shape[0], shape[-1])), (shape[0],)]

    def example_arguments(self) -> dict[str, Tensor]:
        """Numbers by name, of the right types."""
        vector = {"vector": self.vector[(None,) * (2 - self.vector.dim())] if self.vector.dim() < 2 else self.vector}
        return vector if self.position is None else {**vector, "position": torch.zeros(2, dtype=torch.int64)}

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """``vector``, with an axis for each that is read, and ``position`` (B,)."""
        if self.position is not None and len(shape) not in (2, 3):
            raise TargetError(
                f"{self!r} reads a row of a value (B, T, d), this one has shape {shape}\n    next: position=None, and "
                "a vector that broadcasts against it"
            )
        read = shape if self.position is None else (shape[0], shape[-1])
        if not _broadcasts(self.vector.shape, read):
            raise TargetError(
                f"a direction of shape {tuple(self.vector.shape)} for a value of shape {shape}: it has to be "
                f"{'broadcast against it' if self.position is None else f'({read[-1]},) or {read}'}"
            )
        vector = self.vector.to(device).reshape((1,) * (len(read) - self.vector.dim()) + tuple(self.vector.shape))
        if self.position is None:
            return {"vector": vector}
        position = column(self.position, shape[0], device, "position")
        if len(shape) == 3:
            check_range(position, shape[1], "position")
        return {"vector": vector, "position": position}

    @property
    def counts_back(self) -> bool:
        """Is a position counted from the last row that the mask keeps?"""
        return self.position is not None and bool((whole_numbers(self.position, "position") < 0).any())

    def score(self, output: Tensor, mask: Tensor | None, *, vector: Tensor, position: Tensor | None = None) -> Tensor:
        """(B,): how far the value goes along the vector, times the vector's length."""
        read = output if position is None else rows_at(output, mask, position)
        return (read * vector.to(output.dtype)).flatten(1).sum(1)

    def __repr__(self) -> str:
        where = "" if self.position is None else f", position={self.position}"
        return f"Direction({_shape(self.vector)}{where})"


def _shape(vector: Any) -> tuple[int, ...]:
    return tuple(torch.as_tensor(vector).shape)


def _where_given(vector: Tensor, shape: Sequence[Any]) -> tuple[Any, ...]:
    """A value's sizes along the axes that a vector has, 1 along others."""
    own = (1,) * (len(shape) - vector.dim()) + tuple(vector.shape)
    return tuple(size if given != 1 else 1 for size, given in zip(shape, own, strict=True))


def _broadcasts(own: Sequence[int], shape: Sequence[int]) -> bool:
    if len(own) > len(shape):
        return False
    return all(s in (1, size) for s, size in zip(reversed(own), reversed(shape), strict=False))
