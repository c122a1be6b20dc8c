"""Detached: values that the model's code detached, kept apart where a ruleset follows gradients.

``detach()`` is the identity: relevance does not ask whether a function was written with it, and canonicalisation drops
it. A gradient does ask, so for such rulesets it becomes an operation that stays.

requires  a captured program
ensures   the same values; ``aten.detach_copy`` in place of ``aten.detach``, and before what Python reads as a number
"""

from __future__ import annotations

import torch

from lrp_fx.canonicalize.numbers import reads_number
from lrp_fx.errors import UnsupportedOperatorError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import call_like
from lrp_fx.ir.operators import has
from lrp_fx.ir.program import Program, copy


def has_detached(program: Program) -> bool:
    """Does the model's code detach a value, as far as an input or a parameter would get its gradient?"""
    if program.unfollowed:
        return True
    module = program.captured or program.module
    return any(has(node, Fact.DETACHES) or reads_number(node) for node in module.graph.nodes)


def keep_detached(program: Program) -> Program:
    """A program in which canonicalisation keeps what is detached.

    Raises `UnsupportedOperatorError` where the model writes past autograd into a value that is read with gradients.
    """
    if program.unfollowed:
        raise UnsupportedOperatorError(
            "the model's code writes into a value that has a gradient where autograd does not see it (detach(), .data, "
            f"no_grad): its numbers are new and its gradient is the old one\n  {program.unfollowed}\n  next: let the "
            "write make a new tensor, or take a ruleset that follows values (rules='pa-lrp')"
        )
    program = copy(program)
    for node in program.graph.nodes:
        if has(node, Fact.DETACHES):
            node.target = torch.ops.aten.detach_copy.default
        elif reads_number(node):
            (x,) = node.all_input_nodes
            with program.graph.inserting_before(node):
                node.replace_input_with(x, call_like(program.graph, x, torch.ops.aten.detach_copy.default, x))
    program.module.recompile()
    return program
