"""Doubts: which captured programs answer for the model as it is now, and which have to be compared with it before.

What somebody has set since a program was captured (an attribute, a hook, a configuration) may decide what the next
call does not show: a branch it does not take, a gradient. The model is then captured again. What the model writes
itself when it is run (a count, the length of the last text) says less: as long as it is not what it was at the capture,
programs are compared with the model in every call.

requires  to be asked before each call, and told when programs have been made
ensures   a program that is trusted was captured from the model as it is now, but for what the model writes itself, and
          then computes what the model computes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.checks import run_model
from lrp_fx.capture.compare import Ran, difference
from lrp_fx.ir.look import Look
from lrp_fx.runtime.captures import Captured
from lrp_fx.runtime.watch import Watch


class Doubts:
    """``every``: compare in every call. ``older``: captured before the model wrote what it has not taken back."""

    def __init__(self, model: nn.Module, *, every: bool) -> None:
        self.model, self.every = model, every
        self.watch = Watch(model)
        self.older: set[Captured] = set()
        self._new: set[Captured] = set()
        self._agreed: tuple[set[Captured], Look] | None = None

    def begin(self) -> None:
        """No program is kept: the next one is captured from the model as it is now."""
        self.forget()
        self.watch.look()

    def forget(self) -> None:
        """All programs are forgotten."""
        self.older.clear()
        self._new.clear()
        self._agreed = None

    def refuted(self, call: ModelCall, used: Callable[[], set[Captured]]) -> bool:
        """Has the model been set otherwise, or does a program ``used`` for the call compute something else?"""
        changed = self.watch.changed()
        if changed and self.watch.set_by_others():
            self.watch.learn_from(lambda: call.result)
            if self.watch.set_by_others():
                self.watch.learn_again(lambda: run_model(call.model, call.bound))
            if self.watch.set_by_others():
                return True
        if not (self.every or changed or self.older):
            return False
        doubted = used() if self.every or changed else self.older & used()
        if not doubted:
            return False
        found = not agree(doubted, call)
        self._agreed = None if found else (doubted, Look(self.model))
        return found

    def captured(self, base: Captured) -> None:
        """A program is being made."""
        self._new.add(base)

    def settle(self, kept: Iterable[Captured]) -> None:
        """What has become another since the model was looked at was written by itself: it was captured meanwhile, and
        compared.
        """
        self.watch.learn()
        if self._new:
            if self.watch.changed():
                self.older = (self.older | set(kept)) - self._new
            self.older &= set(kept)
            self.watch.look()
            self._new.clear()

    def trusted(self, base: Captured) -> bool:
        """Is the program what the model computes, as far as is known?"""
        if base not in self.older and not self.watch.changed():
            return True
        return self._agreed is not None and base in self._agreed[0] and not self._agreed[1].changed()


def agree(bases: Iterable[Captured], call: ModelCall) -> bool:
    """Do programs compute on a call what the model computes?"""
    known = Ran(call.bound, call.result)
    return all(difference(base.program, known).ok for base in bases)
