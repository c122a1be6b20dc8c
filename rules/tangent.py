"""The tangent: the ordinary gradient. What the tangent plane misses is booked in a named sink, never lost.

`tangent.gradient` is gradient x input, a preset of its own, with `tangent.detached`; `tangent.unexplained` is the last
resort for operations that no rule knows, refused by strict mode.
"""

from __future__ import annotations

from typing import Any

import torch

from lrp_fx.rule import Call, Rule, freeze, register, sample

aten = torch.ops.aten


def _tangent(call: Call) -> Any:
    return call.run()


def _samples() -> list[Call]:
    return [sample(aten.sigmoid.default, torch.tensor([0.3, -1.2], dtype=torch.float64))]


register(
    Rule(
        name="tangent.gradient",
        kind="tangent",
        law="y = J x + sink(y - J x), J the Jacobian at x",
        cites=("simonyan2014",),
        ops=("*",),
        surrogate=_tangent,
        sinks=("tangent",),
        remainder="tangent",
        samples=_samples,
    ),
    Rule(
        name="tangent.detached",
        kind="stop",
        law="y = frozen(x): what the model's code detached has no gradient",
        cites=("simonyan2014",),
        ops=("aten.detach_copy",),
        surrogate=lambda call: freeze(call.run()),
        samples=lambda: [sample(aten.detach_copy.default, torch.tensor([0.3, -1.2], dtype=torch.float64))],
        frozen=True,
    ),
    Rule(
        name="tangent.unexplained",
        kind="tangent",
        law="y = J x + sink(y - J x), for want of a rule",
        cites=("simonyan2014",),
        ops=("*",),
        surrogate=_tangent,
        sinks=("unexplained",),
        remainder="unexplained",
        samples=_samples,
        exact=False,
    ),
)
