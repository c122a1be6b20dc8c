"""Errors: every one names what failed, where in the user's source, why, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class LrpError(Exception):
    """Base of all errors raised by lrp_fx."""


class CaptureError(LrpError):
    """The model could not be captured as a graph that is right for other values and shapes too."""


class UnsupportedOperatorError(LrpError):
    """Strict mode met operations on a relevance path that are only approximated."""


class ConservationError(LrpError):
    """Relevance was lost or created: a ledger or a site does not balance. ``ledger`` is the one that does not."""

    ledger: Any = None


class TargetError(LrpError):
    """The requested target does not exist in the model's output."""


class InputError(LrpError):
    """The inputs (or the model's state) cannot be explained as they are."""


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
