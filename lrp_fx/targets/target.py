"""Target: what any target offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Target(Protocol):
    """What a target must offer; any object with these members can be passed as ``target=``."""

    linear: bool

    @property
    def signature(self) -> tuple[Any, ...]:
        """What tells its kind apart: targets of one signature share a relevance graph."""
        ...

    def example_arguments(self) -> dict[str, Tensor]:
        """Its numbers by name, as the graph is traced with: tensors of the right types, first axis the examples."""
        ...

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """Its numbers by name, (B,) each, for an output of ``shape``; raises `TargetError` for what that has not."""
        ...

    @property
    def score(self) -> Callable[..., Tensor]:
        """``score(output, mask, **arguments) -> (B,)`` in plain torch; ``mask`` is (B, T) or None."""
        ...
