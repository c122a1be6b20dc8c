"""Strategies: by which methods a call is captured, and in which order, from what calls of its kind have taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.example import suits_fixed_sizes
from lrp_fx.errors import warn_user
from lrp_fx.ir.program import CONCRETE, DYNAMIC, METHODS, STATIC, Program

#: Are sizes symbolic: always, never, or from the second size on?
Dynamic: TypeAlias = bool | Literal["auto"]
_REMEMBERED = 256


class Strategies:
    """What is known of kinds of calls (`ModelCall.key`).

    ``known``: the method that captured such calls before, and why those above it did not; ``fixed``: kinds that were
    captured for the sizes of their first call only, because that is quicker.
    """

    def __init__(self, dynamic: Dynamic) -> None:
        self.dynamic = dynamic
        self.known: dict[Any, tuple[str, tuple[str, ...]]] = {}
        self.fixed: set[Any] = set()

    def clear(self) -> None:
        self.known.clear()
        self.fixed.clear()

    def methods(self, call: ModelCall) -> tuple[Sequence[str], tuple[str, ...]]:
        """The methods to try, and why those that are left out were refused."""
        if self.is_first(call):
            return (STATIC, DYNAMIC, CONCRETE), ()
        first, refusals = self.known.get(call.key, (METHODS[0], ()))
        return self.from_method(first), refusals

    def from_method(self, first: str) -> tuple[str, ...]:
        """A method and those that hold for fewer calls."""
        below = METHODS[METHODS.index(first) :]
        return tuple(m for m in below if self.dynamic or m != DYNAMIC)

    def is_first(self, call: ModelCall) -> bool:
        """Is it the first of its kind, and quicker to capture for its own sizes?"""
        seen = call.key in self.known or call.key in self.fixed
        return self.dynamic == "auto" and not seen and suits_fixed_sizes(call.bound, call.roles)

    def remember(self, call: ModelCall, program: Program) -> None:
        """Remember how a call was captured; say so, once, when every call has to be traced anew."""
        if program.method == STATIC and self.is_first(call):
            self.fixed.add(call.key)
            return
        if program.method == CONCRETE and self.known.get(call.key, ("",))[0] != CONCRETE:
            warn_user(
                f"{type(call.model).__name__} is traced for this very call (method 'concrete') and again for every "
                f"other: {_why(program)}"
            )
        self.learn(call.key, program.method, program.refusals)

    def learn(self, key: Any, method: str, refusals: tuple[str, ...] = ()) -> None:
        """Calls of this kind begin with this method from now on."""
        self.known[key] = (method, refusals)
        while len(self.known) > _REMEMBERED:
            self.known.pop(next(iter(self.known)))


def _why(program: Program) -> str:
    """Why no method that holds for more calls did, in the words of the one that comes nearest."""
    last = next(iter(reversed(program.refusals)), "")
    if not last or "data-dependent" in last:
        return "its Python decides by numbers that it reads out of tensors (if, .item(), .tolist())"
    return last.split(": ", 2)[-1]
