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
    def signature(self) -> tuple[Any, ...]: ...

    def example_arguments(self) -> dict[str, Tensor]: ...

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]: ...

    @property
    def score(self) -> Callable[..., Tensor]:
        """``score(output, mask, **arguments) -> (B,)`` in plain torch; ``mask`` is (B, T) or None."""
        ...
