"""Guards of what was captured: which calls it serves beside the one that it was captured for.

requires  a captured program, and the call
ensures   a call that the guards admit decides nothing otherwise than the capture did
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.compare import difference, ran
from lrp_fx.capture.example import shortened
from lrp_fx.guards.guard import Arguments, Guard, shapes_in
from lrp_fx.guards.inputs import PlainGuard, TensorGuard, ValueGuard
from lrp_fx.guards.sizes import SizeGuard, TracedSizes, sizes_of
from lrp_fx.ir.program import CONCRETE, Program


def guards_of(program: Program, call: ModelCall) -> tuple[Guard, ...]:
    """The values beside the tensors; names, types and sizes of these; the values, in the record of one call."""
    guards: tuple[Guard, ...] = (
        PlainGuard(call.plain),
        TensorGuard(program.inputs),
        SizeGuard(TracedSizes(program), compare=_comparison(program, call.model)),
    )
    if program.method != CONCRETE:
        return guards
    return (*guards, ValueGuard({n: v.clone() for n, v in call.tensors.items()}))


def _comparison(program: Program, model: nn.Module) -> Callable[[Arguments], bool]:
    """Does a captured program compute what the model computes? Asked once for each set of sizes that are 1."""
    known = weakref.ref(model)  # what is kept for a model does not keep it

    def compare(given: Arguments) -> bool:
        call = given if isinstance(given, ModelCall) else _of_model(given)
        if call is None:
            return False
        short = _short(call)
        found = (ran(call.model, short) if short is not None else None) or ran(call.model, call.bound)
        return found is not None and difference(program, found).ok

    def _of_model(given: Arguments) -> ModelCall | None:
        """A call of a graph that was handed on as one of the model, which is still there."""
        own = known()
        return ModelCall(dict(given.bound), dict(given.roles), own) if own is not None else None

    def _short(call: ModelCall) -> dict[str, Any] | None:
        """Fewer tokens, if the program holds for as few; what is 1 is 1 there, too."""
        short = shortened(call.bound, call.roles)
        return short if short is not None and sizes_of(program).refusal(shapes_in(short)) is None else None

    return compare
