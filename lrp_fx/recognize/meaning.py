"""Meaning: the role of an operation on a relevance path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    facts: Mapping[str, object] = field(default_factory=dict)
