"""A value, and what a dictionary makes of it: the operation that stands where an activation was reconstructed.

Relevance graphs do not compute it: there it is its first operand (`lrp_fx.optimize.simplify`).
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("lrp_fx::reconstructed", mutates_args=())
def reconstructed(x: Tensor, x_hat: Tensor) -> Tensor:
    """``x`` itself, to the bit. ``x_hat``: its reconstruction, of the same shape, to which its relevance goes."""
    return x.clone()


@reconstructed.register_fake
def _(x: Tensor, x_hat: Tensor) -> Tensor:
    return torch.empty_like(x)
