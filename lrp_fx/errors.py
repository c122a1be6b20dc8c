"""Errors: every one names what failed, where in the user's source, why, and what to do next."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

_PACKAGE = str(Path(__file__).resolve().parent)


class LrpError(Exception):
    """Base of all errors raised by lrp_fx."""


class CaptureError(LrpError):
    """The model could not be captured as a graph that is right for other values and shapes too."""


class UnsupportedOperatorError(LrpError):
    """Strict mode met operations on a relevance path that are only approximated."""


class ConservationError(LrpError):
    """Relevance was lost or created: a ledger or a site does not balance. ``ledger`` is the one that does not."""

    ledger: Any = None


class PassError(LrpError):
    """A pass failed by a fault of lrp_fx itself: nothing is wrong with the model or the inputs."""


class FaultWarning(UserWarning):
    """A pass failed by a fault of lrp_fx itself, and another way was taken: please report it."""


class TargetError(LrpError):
    """The requested target does not exist in the model's output."""


class TransposeError(LrpError):
    """A rule, a target or a reading could not be transposed for these (perhaps symbolic) sizes: torch refused to
    trace it.
    """


class UntracedTargetError(TransposeError, TargetError):
    """A target's function failed while it was traced."""


class InputError(LrpError):
    """The inputs (or the model's state) cannot be explained as they are."""


class MissingPackageError(LrpError, ImportError):
    """A package is not installed that comes with an extra."""


class RuleError(LrpError, ValueError):
    """A rule or a ruleset is not what it has to be: unknown kind, no order among two rules, a missing ``freeze``."""


@dataclass(frozen=True)
class Problem:
    """One failing node, in the four parts that every message of this library has.

    ``nearest``: what it came near to being, and why it is not, where that was asked.
    """

    what: str
    where: str
    why: str
    next_step: str
    nearest: tuple[str, ...] = ()

    def __str__(self) -> str:
        near = "".join(f"\n    near:  {line}" for line in self.nearest)
        return f"  {self.what}\n    where: {self.where}\n    why:   {self.why}{near}\n    next:  {self.next_step}"


def needed(module: str, extra: str) -> Any:
    """A module that is not always installed, or one of ours that imports such a one; raises `MissingPackageError`,
    which names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'{error.name} is not installed\n    next: pip install "lrp-fx[{extra}]"') from error


def is_ours(file: str) -> bool:
    """Is a file of code part of this package?"""
    return str(Path(file).resolve()).startswith(_PACKAGE)


def is_out_of_memory(error: BaseException) -> bool:
    """Did Python, torch or a device have no memory left?"""
    said = "allocate memory" in str(error)  # torch's own, on a CPU
    return said or isinstance(error, (MemoryError, torch.OutOfMemoryError))


#: What torch says in place of an error that came while it read an argument (a symbolic size is read by Python code).
_UNREAD = re.compile(r"""(?:Python error details: |with error ")(KeyboardInterrupt|MemoryError|RuntimeError): (.*)""")
_MEANT = {e.__name__: e for e in (KeyboardInterrupt, MemoryError, RuntimeError)}


def may_be_interrupt(error: TypeError) -> bool:
    """Does an operator say that it does not take two tensors? Then an error while torch read them was lost: whoever can
    do so tries again.
    """
    kinds = re.fullmatch(r"unsupported operand type\(s\) for .*: '(\w+)' and '(\w+)'", str(error))
    return kinds is not None and all(kind.endswith(("Tensor", "Parameter")) for kind in kinds.groups())


def raise_if_out_of_memory(error: BaseException) -> None:
    """A failed allocation says nothing about the model: it is raised again, never taken for a refusal that is kept.

    So is what was raised because of one, or while one was on its way to here. (Not while the caller handles one.) The
    same holds for an interrupt: where torch was just reading arguments, it raises an error of types in its place.
    """
    for known in _behind(error):
        unread = _UNREAD.search(str(known))
        if unread and (unread[1] != "RuntimeError" or "allocate memory" in unread[2]):
            raise _MEANT[unread[1]](unread[2].replace("<EMPTY MESSAGE>", "")) from error
        if is_out_of_memory(known):
            raise error if known in _causes(error) else known
        if isinstance(known, KeyboardInterrupt):
            raise KeyboardInterrupt from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _behind(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes, and what was handled when they were raised, as far as it came through the same frames: what
    the caller handles did not.
    """
    frames: set[FrameType] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        known = waiting.pop()
        if known is not None:
            yield known
            frames |= {frame for frame, _ in traceback.walk_tb(known.__traceback__)}
            handled = known.__context__
            begins = handled.__traceback__ if handled is not None else None
            waiting += [handled if begins is not None and begins.tb_frame in frames else None, known.__cause__]


#: Where warnings are kept that are not to be given one by one.
_HELD: ContextVar[list[tuple[str, type[Warning]]] | None] = ContextVar("held", default=None)


@contextlib.contextmanager
def holding_warnings() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Keeps what `warn_user` would say, for a caller that makes one warning of many."""
    held: list[tuple[str, type[Warning]]] = []
    token = _HELD.set(held)
    try:
        yield held
    finally:
        _HELD.reset(token)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning that points at the user's line: the nearest caller that is no part of this package."""
    held = _HELD.get()
    if held is not None:
        held.append((message, category))
        return
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level + 1)
