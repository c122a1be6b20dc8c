"""The vocabulary of rules: `Rule`, `Ruleset`, `Call`, and the primitives ``freeze``, ``share``, ``carry``, ``sink``.

A rule replaces an operation ``y = f(x_1, ..., x_k)`` by a *surrogate*, an expression equal to ``f`` in value at the
current activations and linear in the operands that carry relevance. Its transpose, which automatic differentiation
supplies, moves the coefficient ``c(y)`` to the operands; relevance is ``R(x) = x * c(x)``. What a surrogate does not
hand to an operand it declares as a ``sink``.
"""

from __future__ import annotations

from lrp_fx.rule.call import Call, constant_part, covers, draw, sample
from lrp_fx.rule.definition import OTHERS, Rule, Ruleset
from lrp_fx.rule.kinds import KINDS, LINEAR, Kind
from lrp_fx.rule.linearity import freeze_is_missing, missing_freeze
from lrp_fx.rule.primitives import (
    Tape,
    carry,
    elements,
    freeze,
    identity,
    precise,
    recording,
    share,
    sink,
    where_positive,
)
from lrp_fx.rule.registration import DEFAULT, Choice, Registry, register, registered, registry

__all__ = [
    "DEFAULT",
    "KINDS",
    "LINEAR",
    "OTHERS",
    "Call",
    "Choice",
    "Kind",
    "Registry",
    "Rule",
    "Ruleset",
    "Tape",
    "carry",
    "constant_part",
    "covers",
    "draw",
    "elements",
    "freeze",
    "freeze_is_missing",
    "identity",
    "missing_freeze",
    "precise",
    "recording",
    "register",
    "registered",
    "registry",
    "sample",
    "share",
    "sink",
    "where_positive",
]
