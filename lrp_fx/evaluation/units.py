"""Units: what a perturbation puts in or takes away, and how an input is made of them.

``read`` turns an input (M, ...) into units (M, T, ...), ``whole`` turns them back, ``pool`` brings the scores of one
example, in any of the shapes that explanations have, to one for each unit (T,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lrp_fx.errors import InputError

#: Images without patches of their own are cut into about so many cells along each side.
_CELLS = 14


class Units(Protocol):
    """The units of one input of one example."""

    @property
    def count(self) -> int: ...

    @property
    def about(self) -> str: ...

    def read(self, value: Tensor) -> Tensor: ...

    def whole(self, units: Tensor) -> Tensor: ...

    def pool(self, scores: Any) -> Tensor: ...


@dataclass(frozen=True)
class Places:
    """Places along the second axis of an input: tokens (M, T), frames (M, T, F), samples (M, T)."""

    count: int
    what: str

    @property
    def about(self) -> str:
        return self.what

    def read(self, value: Tensor) -> Tensor:
        return value

    def whole(self, units: Tensor) -> Tensor:
        return units

    def pool(self, scores: Any) -> Tensor:
        return _of_length(as_scores(scores), self.count, self.what)


@dataclass(frozen=True)
class Patches:
    """Square patches of images (M, C, H, W), row by row."""

    height: int
    width: int
    side: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.height // self.side, self.width // self.side

    @property
    def count(self) -> int:
        rows, columns = self.grid
        return rows * columns

    @property
    def about(self) -> str:
        rows, columns = self.grid
        return f"{rows} x {columns} patches of {self.side} x {self.side} pixels"

    def read(self, value: Tensor) -> Tensor:
        return torch.nn.functional.unfold(value, self.side, stride=self.side).mT

    def whole(self, units: Tensor) -> Tensor:
        return torch.nn.functional.fold(units.mT, (self.height, self.width), self.side, stride=self.side)

    def pool(self, scores: Any) -> Tensor:
        found = as_scores(scores)
        if found.dim() == 3 and found.shape[1:] == (self.height, self.width):
            found = found.sum(0)
        if found.shape == (self.height, self.width) and self.side > 1:
            found = self.read(found[None, None])[0].sum(-1)
        return _of_length(found.flatten() if found.shape == self.grid else found, self.count, self.about)


def as_scores(scores: Any) -> Tensor:
    """Scores of one example as a tensor in float64, an axis of one for the example taken off."""
    value = scores if isinstance(scores, Tensor) else torch.as_tensor(scores)
    value = value.detach().cpu().double()
    return value[0] if value.dim() > 1 and value.shape[0] == 1 else value


def _of_length(scores: Tensor, count: int, what: str) -> Tensor:
    if scores.shape != (count,):
        raise InputError(f"scores of shape {tuple(scores.shape)} for an example of {count} units ({what})")
    return scores


def patches_of(value: Tensor, side: int | None, known: tuple[int, int] | None) -> Patches:
    """Patches of an image (1, C, H, W): of the side asked for, else those of the model (``known``: rows, columns),
    else about 14 along the height. Raises `InputError` where patches of this side do not fill the image.
    """
    height, width = value.shape[-2:]
    if side is None and known is not None and height // known[0] == width // known[1]:
        side = height // known[0]
    if side is None:
        fitting = [s for s in range(1, min(height, width) + 1) if height % s == 0 and width % s == 0]
        side = min(fitting, key=lambda s: abs(height / s - _CELLS))
    if side < 1 or height % side or width % side:
        raise InputError(f"patches of side {side} do not fill an image of {height} x {width}: give patch= another side")
    return Patches(int(height), int(width), side)
