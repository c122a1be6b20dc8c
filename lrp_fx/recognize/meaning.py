"""Meaning: the role of an operation on a relevance path; refusal: why a recogniser does not give one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Meaning:
    """The role of an operation on a relevance path.

    ``kind``      the structural role (one of `lrp_fx.rule.KINDS`) that a rule must serve.
    ``signals``   operands through which relevance flows.
    ``op``/``args``  the operation that the rule sees in place of the node's own, if any.
    ``facts``     what was found out about the operation, for the rule.
    ``why``       one phrase for the report.
    """

    kind: str
    signals: tuple[fx.Node, ...]
    why: str
    op: object = None
    args: tuple[object, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Nearness(IntEnum):
    """What was missing: the later in this list, the nearer the node came to being recognised."""

    OPERATION = 0  # it is another operation
    OPERANDS = 1  # the operation fits, what it is applied to does not
    PATTERN = 2  # the operands fit, the way they are computed does not
    CONDITION = 3  # the pattern is there, one condition on it does not hold


@dataclass(frozen=True)
class Refusal:
    """Why a recogniser gives no meaning. ``recogniser`` is filled in by the one who asked."""

    why: str
    nearness: Nearness
    recogniser: str = ""

    def __str__(self) -> str:
        return f"{self.recogniser}: {self.why}"


def nearest(refusals: Iterable[Refusal]) -> Refusal:
    """Of several refusals the one that came nearest, the first of equals."""
    return max(refusals, key=lambda r: r.nearness)
