"""Derivative: a target's score and the coefficient of the output, by differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_fx.errors import TargetError


def derived(score: Callable[[Tensor], Tensor], output: Tensor) -> tuple[Tensor, Tensor]:
    """The score (B,) of an output, and its derivative, of the output's shape.

    Raises `TargetError` for what is not one number per example, or has no derivative.
    """
    leaf = output.detach().requires_grad_()
    with torch.enable_grad():
        found = score(leaf)
        if not isinstance(found, Tensor) or found.dim() != 1:
            given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise TargetError(f"a target must give one number per example, shape (B,); got {given}")
        if not found.requires_grad:
            raise TargetError(
                "the target does not depend on the model's output in a way that has a derivative\n    next: leave out "
                "detach() and no_grad; one that it takes itself has one by torch.func.grad or create_graph=True"
            )
        (coefficient,) = torch.autograd.grad(found.sum(), leaf, allow_unused=True)
    if coefficient is None:
        raise TargetError("the target does not depend on the model's output")
    return found.detach(), coefficient
