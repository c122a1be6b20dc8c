"""Compiled: what a compiler keeps of a model, program by program, and how often it had to work for it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lrp_fx.capture.call import ModelCall
from lrp_fx.guards.guard import Constants, Guard, refusal
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.ir.passes import Step
from lrp_fx.ir.program import Program
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.runtime.captures import Captured
from lrp_fx.structure.places import Places
from lrp_fx.structure.structure import Structure
from lrp_fx.targets import Target
from lrp_fx.transpose.inside import NOTHING, Inside
from lrp_fx.transpose.signature import RelevanceGraph


@dataclass
class Statistics:
    """How often each expensive stage was needed (a text of another length must not capture again). ``captures``: with
    those that another explainer of the model had made.
    """

    captures: int = 0
    transposes: int = 0
    runs: int = 0


@dataclass(frozen=True)
class Built:
    """A relevance graph for one kind of target, what runs it, and which calls it serves. ``inside``: what it reads of
    places inside the model.
    """

    graph: RelevanceGraph
    target: Target
    runner: Any
    guards: tuple[Guard, ...]
    history: tuple[Step, ...] = ()
    inside: Inside = NOTHING


@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """A compiled program. ``base``: the same before masks that say nothing were dropped, ``assumed``: for which masks
    they were.

    ``graphs`` by the target's signature; ``history``: what the passes did that made it; ``apart``: kinds of functions
    as targets that were seen to read each example by itself.
    """

    base: Captured
    assumed: MaskGuard | None
    program: Program
    rewritten: Rewritten
    structure: Structure
    history: tuple[Step, ...] = ()
    graphs: OrderedDict[Any, Built] = field(default_factory=OrderedDict)
    apart: set[Any] = field(default_factory=set)

    @cached_property
    def places(self) -> Places:
        """What can be asked for inside the model."""
        return Places(self.rewritten, self.structure)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """Which calls the program serves."""
        return self.base.guards if self.assumed is None else (*self.base.guards, self.assumed)

    def serves(self, call: ModelCall) -> bool:
        """Is the program right for a call, with what was taken for granted of its masks?"""
        return refusal(self.guards, call) is None

    def fits(self, call: ModelCall) -> bool:
        """Does what was captured serve a call, whatever its masks are?"""
        return refusal(self.base.guards, call) is None


@dataclass(frozen=True, eq=False)
class Kept:
    """An entry, the key of the calls that it was captured for, and the masks that were constant in them (None: good for
    any).
    """

    key: Any
    constants: Constants | None
    entry: CompiledProgram
