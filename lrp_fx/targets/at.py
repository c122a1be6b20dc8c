"""At: a target that reads a value inside the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.targets.target import Target


class At:
    """``target`` of the value at ``place`` in the place of the model's output.

    place: a name as in ``explainer(..., at=...)``: ``"residual.6"``, a module's path, a node. target: what targets are
    of an output: a number (that feature, in the last row), `Direction`, a function of the value, examples first.
    """

    def __init__(self, place: str, target: Any) -> None:
        if not isinstance(place, str) or not place:
            raise TargetError(f"At takes the name of a place first, got {place!r}")
        if target is None or isinstance(target, At):
            raise TargetError(f"At({place!r}, ...) takes what to explain there: a feature, a Direction, a function")
        self.place, self.target = place, target
        self.linear = bool(getattr(target, "linear", False))

    def read_by(self, as_target: Callable[[Any], Target]) -> At:
        """The same, with what was given as a target in the form of one."""
        return At(self.place, as_target(self.target))

    @property
    def signature(self) -> tuple[Any, ...]:
        """The place, and the target's own."""
        return ("At", self.place, *self.target.signature)

    def example_arguments(self) -> dict[str, Tensor]:
        """The target's own."""
        found: dict[str, Tensor] = self.target.example_arguments()
        return found

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """The target's own, for a value of ``shape``, examples first."""
        found: dict[str, Tensor] = self.target.arguments(shape, device)
        return found

    @property
    def score(self) -> Callable[..., Tensor]:
        """The target's own."""
        found: Callable[..., Tensor] = self.target.score
        return found

    def __repr__(self) -> str:
        return f"At({self.place!r}, {self.target!r})"
