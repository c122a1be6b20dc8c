"""Masks: what becomes of values that were masked, by minus infinity or a number as low as there is.

A softmax gives them no weight: nothing arrives there, and it does not matter what number they were filled with. Any
other function makes something of them: what a sigmoid of minus infinity is less than its value at zero has to be
booked, and so has a mask that is put beside values as a feature of its own.

requires  a rule at each node
ensures   ``fills_count`` among the facts of a route whose fills reach no softmax, ``masked`` among those of all that
          is given values that a mask has passed
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from torch import fx

from lrp_fx.analysis.sources import is_very_low
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name
from lrp_fx.ir.operators import has
from lrp_fx.rewrite.application import Application

Applications = dict[fx.Node, Application]
_SPENDING = ("softmax", "attention")
_UNBOUNDED = ("aten.log_sigmoid", "aten.leaky_relu")


def follow_masks(applications: Applications) -> Applications:
    """The applications, with what is known of masks among their facts."""
    readers: dict[fx.Node, list[Application]] = defaultdict(list)
    for application in applications.values():
        for operand in dict.fromkeys(application.operands):
            readers[operand].append(application)
    facts: dict[fx.Node, dict[str, bool]] = defaultdict(dict)
    for node, application in applications.items():
        if not _fills(application):
            continue
        reached = _reached(node, readers)
        if application.kind == "route" and not any(a.kind in _SPENDING for a in reached):
            facts[node]["fills_count"] = True
        for a in reached:
            facts[a.node]["masked"] = True
    return {n: replace(a, facts={**a.facts, **facts[n]}) if n in facts else a for n, a in applications.items()}


def _fills(application: Application) -> bool:
    """Does it put masks, or numbers as low as they have, beside values or into their places?"""
    if application.kind not in ("route", "sum", "residual"):
        return False
    others = [a for i, a in enumerate(application.flat()) if i not in application.carriers]
    tensors = any(isinstance(a, fx.Node) and is_float(a) for a in others)
    return bool(application.masks) or (tensors and application.kind == "route") or any(map(is_very_low, others))


def _reached(node: fx.Node, readers: dict[fx.Node, list[Application]]) -> list[Application]:
    """All that is given the values, through moves, multiples, sums and further masks, up to the first that makes
    something else of them.
    """
    found: dict[fx.Node, Application] = {}
    stack = [node]
    while stack:
        for application in readers[stack.pop()]:
            if application.node not in found:
                found[application.node] = application
                if _keeps(application):
                    stack.append(application.node)
    return list(found.values())


def _keeps(application: Application) -> bool:
    """May the result be minus infinity where an operand is?"""
    kept = application.kind in ("move", "sum", "residual", "route") or op_name(application.node) in _UNBOUNDED
    return kept or (application.kind == "linear" and has(application.node, Fact.SCALING | Fact.SIGN))
