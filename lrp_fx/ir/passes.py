"""Passes: what takes a program and returns a new one, with its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lrp_fx.ir.program import Program


@dataclass(frozen=True)
class Pass:
    """A program transformation with its contract: ``requires`` before, ``ensures`` after (both raise on breach)."""

    name: str
    apply: Callable[[Program], Program]
    requires: tuple[Callable[[Program], None], ...] = ()
    ensures: tuple[Callable[[Program], None], ...] = ()

    def __call__(self, program: Program) -> Program:
        for check in self.requires:
            check(program)
        result = self.apply(program).evolve(self.name)
        for check in self.ensures:
            check(result)
        return result
