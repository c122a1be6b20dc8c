"""Captures: canonical programs, and those that explainers of one model share, whatever their rules are.

A program is taken over where the model is, as far as can be seen (`lrp_fx.ir.look`), what it was when it was captured:
the same modules of the same classes with the same tensors, attributes and hooks. What cannot be seen (a function
replaced in a module of Python) shows in the numbers: before it is used the program is compared with the model as every
capture is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lrp_fx.analysis.provenance import Facts
from lrp_fx.canonicalize.detached import has_detached
from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.compare import Ran, verify_capture
from lrp_fx.errors import CaptureError
from lrp_fx.guards.guard import Constants, Guard, refusal
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.ir.contents import state
from lrp_fx.ir.look import Look
from lrp_fx.ir.passes import Step
from lrp_fx.ir.program import CONCRETE, Program
from lrp_fx.ir.sparse import address_of
from lrp_fx.ir.traces import Traces

#: Programs that are kept for each model, and variants of each without masks.
KEPT = 4


@dataclass(frozen=True, eq=False)
class Variant:
    """A captured program for some masks, with what is known of its values whatever the rules are; ``history``: what
    the passes did that made it since it was captured.
    """

    program: Program
    assumed: MaskGuard | None
    facts: Facts
    history: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Captured:
    """A captured and canonical program, which calls it serves, and what the passes did that made it.

    ``first``: the call whose sizes alone it holds for, where one for any sizes was put off. ``traces``: rules that were
    transposed for values of this program, by what they were traced for; graphs of it share them. ``variants``: by the
    masks that say nothing in them, None for the one that is good for any, and whether attention is written out.
    """

    program: Program
    guards: tuple[Guard, ...]
    history: tuple[Step, ...]
    first: ModelCall | None = None
    traces: Traces = field(default_factory=Traces)
    variants: OrderedDict[tuple[Constants | None, bool], Variant] = field(default_factory=OrderedDict)

    def keep(self, key: tuple[Constants | None, bool], variant: Variant) -> None:
        """Keep a variant; the one kept longest goes first."""
        self.variants[key] = variant
        while len(self.variants) > KEPT:
            self.variants.popitem(last=False)


@dataclass(frozen=True)
class _Shared:
    """``detached``: is what the model's code detached kept apart? None where it detaches nothing."""

    wanted: Any
    detached: bool | None
    seen: Any
    captured: Captured


_SHARED: WeakKeyDictionary[nn.Module, list[_Shared]] = WeakKeyDictionary()


def taken_over(call: ModelCall, wanted: Sequence[Any], detached: bool) -> Captured | None:
    """What another explainer of the model captured for such calls; None if there is none that is right.

    wanted: the methods and options that it must have been captured with. detached: is what the model's code detached
    kept apart?
    """
    shared = _SHARED.get(call.model)
    if not shared:
        return None
    key, seen = (_kind(call), *wanted), fingerprint(call.model)
    for entry in reversed(shared):
        captured = entry.captured
        same = entry.wanted == key and entry.detached in (None, detached)
        if same and entry.seen == seen and refusal(captured.guards, call) is None:
            return captured if _is_right(call, captured.program) else None
    return None


def _kind(call: ModelCall) -> tuple[Any, ...]:
    """What a program is captured for; inputs have the roles that they were given."""
    return call.key, tuple(sorted(call.roles.items()))


def _is_right(call: ModelCall, program: Program) -> bool:
    """Compared as every capture is: on the call, on other values, another shape and another mask."""
    try:
        verify_capture(call.model, program, call.bound, call.roles, Ran(call.bound, call.result))
    except CaptureError:
        return False
    return True


def share(call: ModelCall, wanted: Sequence[Any], detached: bool, captured: Captured) -> None:
    """Keep what was captured for other explainers of the model, for as long as there is the model."""
    program = captured.program
    if program.method == CONCRETE or not _holds_no_copies(call.model, program):
        return
    shared = _SHARED.setdefault(call.model, [])
    kept_apart = detached if has_detached(program) else None
    shared.append(_Shared((_kind(call), *wanted), kept_apart, fingerprint(call.model), captured))
    del shared[:-KEPT]


def carry_over(model: nn.Module) -> None:
    """Keep what was captured before the weights of a model came: it is compared with the model before it is used. What
    was found out about values is found out anew.
    """
    for entry in (shared := _SHARED.get(model, [])):
        entry.captured.variants.clear()
    shared[:] = [replace(entry, seen=fingerprint(model)) for entry in shared]


def forget() -> None:
    """Share nothing that was captured so far."""
    _SHARED.clear()


@contextmanager
def apart() -> Iterator[None]:
    """What is captured in here is shared among explainers that work in here, and with no others: parts of the compiler
    may be replaced meanwhile.
    """
    before = dict(_SHARED)
    _SHARED.clear()
    try:
        yield
    finally:
        _SHARED.clear()
        _SHARED.update(before)


def _holds_no_copies(model: nn.Module, program: Program) -> bool:
    """Are all large tensors of the program the model's own? Others would be kept alive, and not change with them."""
    own = {address_of(t) for t in (*model.parameters(), *model.buffers())}
    held = (getattr(program.module, str(n.target)) for n in program.graph.nodes if n.op == "get_attr")
    return all(address_of(t) in own or t.numel() <= 1 << 16 for t in held) and not any(
        t.is_inference() for t in (*model.parameters(), *model.buffers())
    )


# ------------------------------------------------------------------------------------------------ what a model is
def fingerprint(model: nn.Module) -> Any:
    """Whatever of a model may decide what it computes: equal as long as nobody has changed it."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return tuple((name, id(t), state(t)) for name, t in tensors), Look(model).print()
