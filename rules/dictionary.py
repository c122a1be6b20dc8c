"""Dictionaries put at an activation: what they reconstruct of it carries on, what they miss of it is a sink.

The activation itself stays what the model computes with. Relevance goes to ``x_hat``, and from there through the
decoder to the latents and through the encoder to what the dictionary read, by the rules of the operations in them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lrp_fx.kernels.reconstructed  # noqa: F401  (makes the operation)
from lrp_fx.rule import Call, Rule, draw, register, sample, sink

ERROR = "reconstruction error"


def _surrogate(call: Call) -> Any:
    x, x_hat = call.operand(0), call.operand(1)
    return x_hat + sink(ERROR, x.detach() - x_hat.detach(), x.detach())


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """LRP-0 on the sum of a reconstruction and its error: R(x_hat) = x_hat / x R(y)."""
    x, x_hat = call.operand(0), call.operand(1)
    return [x_hat * R_y / x]


register(
    Rule(
        name="dictionary.reconstruction",
        kind="sum",
        law="y = x_hat + sink(x - x_hat)",
        cites=("marks2025", "bach2015"),
        ops=("lrp_fx.reconstructed",),
        surrogate=_surrogate,
        sinks=(ERROR,),
        reference=_reference,
        samples=lambda: [
            sample(torch.ops.lrp_fx.reconstructed.default, draw(2, 3, 4), draw(2, 3, 4, seed=1), carriers=(1,))
        ],
    )
)
