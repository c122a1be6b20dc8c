"""Guards of what was captured: which calls it serves beside the one that it was captured for.

requires  a captured program, and the call
ensures   a call that the guards admit decides nothing otherwise than the capture did
"""

from __future__ import annotations

from collections.abc import Callable

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.compare import CAPTURE_ULPS, difference, ran
from lrp_fx.capture.example import shortened
from lrp_fx.guards.guard import Arguments, Guard
from lrp_fx.guards.inputs import PlainGuard, TensorGuard, ValueGuard
from lrp_fx.guards.sizes import SizeGuard, TracedSizes
from lrp_fx.ir.program import CONCRETE, Program


def guards_of(program: Program, call: ModelCall) -> tuple[Guard, ...]:
    """The values beside the tensors; names, types and sizes of these; the values, in the record of one call."""
    guards: tuple[Guard, ...] = (
        PlainGuard(call.plain),
        TensorGuard(program.inputs),
        SizeGuard(TracedSizes(program), compare=_comparison(program)),
    )
    if program.method != CONCRETE:
        return guards
    return (*guards, ValueGuard({n: v.clone() for n, v in call.tensors.items()}))


def _comparison(program: Program) -> Callable[[Arguments], bool]:
    """Does a captured program compute what the model computes? Asked once for each set of sizes that are 1."""

    def compare(call: Arguments) -> bool:
        assert isinstance(call, ModelCall)
        short = shortened(call.bound, call.roles)
        found = ran(call.model, short) if short is not None else None  # as many rows: what is 1 is 1 there, too
        found = found or ran(call.model, call.bound)
        return found is not None and difference(program, found) <= CAPTURE_ULPS

    return compare
