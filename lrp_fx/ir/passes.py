"""Passes: what takes a program (or any state of a compilation) and returns a new one, with its contract.

A pass says what it requires and ensures, and what it keeps of the numbers. `run` applies a list of passes in order; it
can stop after any of them, leave out those that may be left out, check specs in between and tell an observer.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

from torch import fx

from lrp_fx.errors import (
    FaultWarning,
    InputError,
    LrpError,
    PassError,
    is_ours,
    raise_if_out_of_memory,
    warn_user,
)
from lrp_fx.ir.source import describe, module_path, source_line

S = TypeVar("S")
Whole = TypeVar("Whole")
#: Says at INFO what every pass did.
LOG = logging.getLogger("lrp_fx")


class Keeps(Enum):
    """What a pass keeps of the numbers that a program computes."""

    BITS = "bits"
    OUTPUT_BITS = "the output's bits"
    ROUNDING = "all but rounding"


@dataclass(frozen=True)
class Pass(Generic[S]):
    """One step of a compilation.

    ``name``      unique in a list of passes.
    ``purpose``   one line.
    ``apply``     state -> new state. With ``in_place`` it may edit the graph of a state that the caller gives up.
    ``copy``      how a state is copied, where ``apply`` works in place: called by itself, a pass leaves its argument
                    alone.
    ``keeps``     what stays of the numbers.
    ``optional``  may it be left out (an optimisation)?
    ``when``      is there anything to do for this state?
    ``requires``, ``ensures``  specs: raise `LrpError` on a breach.
    ``size``      number of nodes of a state, for the history.
    """

    name: str
    purpose: str
    apply: Callable[[S], S]
    keeps: Keeps = Keeps.BITS
    optional: bool = False
    when: Callable[[S], bool] = field(default=lambda state: True)
    requires: tuple[Callable[[S], None], ...] = ()
    ensures: tuple[Callable[[S], None], ...] = ()
    copy: Callable[[S], S] | None = None
    size: Callable[[S], int] = field(default=lambda state: 0)

    def __call__(self, state: S) -> S:
        """The pass alone, its contract checked; the argument is as it was."""
        for check in self.requires:
            check(state)
        result = self.apply(state if self.copy is None else self.copy(state))
        for check in self.ensures:
            check(result)
        return result

    def on(self, get: Callable[[Whole], S], put: Callable[[Whole, S], Whole]) -> Pass[Whole]:
        """The same pass on a part of a larger state."""

        def lifted(check: Callable[[S], Any]) -> Callable[[Whole], Any]:
            return lambda whole: check(get(whole))

        copy = self.copy
        return Pass(
            self.name,
            self.purpose,
            lambda whole: put(whole, self.apply(get(whole))),
            self.keeps,
            self.optional,
            lifted(self.when),
            tuple(map(lifted, self.requires)),
            tuple(map(lifted, self.ensures)),
            None if copy is None else lambda whole: put(whole, copy(get(whole))),
            lifted(self.size),
        )


@dataclass(frozen=True)
class Step:
    """What one pass did: number of nodes before and after, seconds."""

    name: str
    before: int
    after: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.name:<28}{self.before:>7} -> {self.after:>6} nodes {self.seconds:8.3f} s"


class _Checks:
    """``verify``: are specs checked between passes? ``faults``: are faults of ours raised where there is a way on?"""

    verify = False
    faults = False


@contextlib.contextmanager
def checked(*, verify: bool = True, faults: bool = True) -> Iterator[None]:
    """Check every spec between passes, and raise faults of our own where users are only warned of them (for tests)."""
    before = _Checks.verify, _Checks.faults
    _Checks.verify, _Checks.faults = verify, faults
    try:
        yield
    finally:
        _Checks.verify, _Checks.faults = before


#: Is told of every pass: its name as it starts, and what it did when it is done.
Listener: TypeAlias = Callable[[str, Step | None], None]
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of every pass that runs inside, in this thread."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def _tell(name: str, done: Step | None) -> None:
    if done is not None:
        LOG.info("%s", done)
    for listener in _LISTENERS.get():
        listener(name, done)


def run(
    state: S,
    passes: Iterable[Pass[S]],
    *,
    until: str | None = None,
    without: Iterable[str] = (),
    observe: Callable[[Pass[S], S], None] | None = None,
) -> tuple[S, tuple[Step, ...]]:
    """The state after the passes, and what each did.

    until: the last pass to apply. without: optional passes to leave out. observe: called after each pass that ran.
    Raises what passes refuse with (`LrpError`), `PassError` for everything else that goes wrong in one.
    """
    left_out = set(without)
    steps: list[Step] = []
    for step in passes:
        if step.name not in left_out and step.when(state):
            _tell(step.name, None)
            before, start = step.size(state), time.perf_counter()
            state = _applied(step, state)
            steps.append(Step(step.name, before, step.size(state), time.perf_counter() - start))
            _tell(step.name, steps[-1])
            if observe is not None:
                observe(step, state)
        if step.name == until:
            break
    return state, tuple(steps)


def _applied(step: Pass[S], state: S) -> S:
    """The pass applied to a state that nobody else holds."""
    try:
        for check in step.requires if _Checks.verify else ():
            check(state)
        result = step.apply(state)
        for check in step.ensures if _Checks.verify else ():
            check(result)
        return result
    except LrpError:
        raise
    except Exception as error:  # the model's own errors are caught where the model runs
        raise_if_out_of_memory(error)
        raise PassError(fault_text(error, step.name)) from error


def check_names(passes: Iterable[Pass[Any]], without: Iterable[str]) -> None:
    """Raise `InputError` for a name that is no pass, or of one that cannot be left out."""
    known = {p.name: p for p in passes}
    optional = ", ".join(n for n, p in known.items() if p.optional)
    for name in without:
        if name not in known:
            raise InputError(f"there is no pass {name!r}; those that can be left out are {optional}")
        if not known[name].optional:
            raise InputError(f"the pass {name!r} cannot be left out; those that can are {optional}")


# ------------------------------------------------------------------------------------------------ faults
#: Methods of a mode, which do what was called.
_HANDING_ON = ("__torch_function__", "__torch_dispatch__")


def is_own_fault(error: BaseException) -> bool:
    """Was the error raised by our own code, and not by torch, by the model or on purpose?"""
    if isinstance(error, LrpError):
        return isinstance(error, PassError)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    while frames and frames[-1].f_code.co_name in _HANDING_ON:
        frames.pop()
    return bool(frames) and is_ours(frames[-1].f_code.co_filename)


def raise_fault(error: Exception, name: str) -> None:
    """Raise `PassError` for a fault of our own; nothing where torch or the model raised."""
    if isinstance(error, PassError):
        raise error
    if is_own_fault(error):
        raise PassError(fault_text(error, name)) from error


def report_fault(error: Exception, name: str) -> None:
    """A fault of our own where there is another way on: raised in tests, a warning that names pass and node for
    users.
    """
    raise_if_out_of_memory(error)
    if not is_own_fault(error):
        return
    if _Checks.faults:
        raise_fault(error, name)
    warn_user(fault_text(error, name), FaultWarning)


def fault_text(error: Exception, name: str) -> str:
    """Pass, node, source line and next step."""
    if isinstance(error, PassError):
        return str(error)
    node = _node_in(error)
    where = (
        f"\n    node:   {describe(node)}\n    where:  {module_path(node) or 'model'}, {source_line(node)}"
        if node
        else ""
    )
    return (
        f"the pass {name} failed with {type(error).__name__}: {error}{where}"
        "\n    why:    this is a fault of lrp_fx, not of the model"
        "\n    next:   please report it with the model's code; an optimisation can be left out with "
        f"convert(model, without=({name!r},))"
    )


def _node_in(error: BaseException) -> fx.Node | None:
    """The node that our code was at: the innermost local variable of that name."""
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__) if is_ours(f.f_code.co_filename)]
    nodes = (frame.f_locals.get("node") for frame in reversed(frames))
    return next((n for n in nodes if isinstance(n, fx.Node)), None)
