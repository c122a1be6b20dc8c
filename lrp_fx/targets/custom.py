"""Custom: a function of the output as a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_fx.ir.devices import callers_device
from lrp_fx.ir.seen import seen


class Custom:
    """Any function of the output that returns one number per example, shape (B,), and differentiates.

    It is traced once, and again where what it reads beside the output has changed: attributes of its object, variables
    around it, global values. What it is not linear in is booked in the sink ``target``.
    """

    linear = False

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    @property
    def signature(self) -> tuple[Any, ...]:
        return ("Custom", seen(self.function))

    def example_arguments(self) -> dict[str, Tensor]:
        return {}

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        return {}

    def score(self, output: Tensor, mask: Tensor | None) -> Tensor:
        with callers_device():
            return self.function(output)

    def __repr__(self) -> str:
        return f"Custom({getattr(self.function, '__name__', self.function)})"
