"""Dump: a program as it is after one of the passes, as text."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrp_fx.capture.call import as_call, bind
from lrp_fx.capture.checks import check_inputs
from lrp_fx.errors import InputError
from lrp_fx.ir.listing import check_blocks
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.pipeline import PIPELINE, Options, State, compile_until
from lrp_fx.runtime.settings import ruleset_of
from lrp_fx.targets import as_target


def graph_after(
    model: nn.Module, inputs: dict[str, Any], until: str, *, rules: str | Ruleset = "pa-lrp", blocks: str = "all"
) -> str:
    """What there is after the pass ``until``, as text: the program, the program with its rules, or the relevance graph.

    blocks: ``"once"`` for the first of each run of equal blocks, with how often it comes.

    Raises `InputError` for a name that is no pass and for other ``blocks``, and what converting raises.
    """
    check_blocks(blocks)
    if until not in [p.name for p in PIPELINE]:
        raise InputError(f"there is no pass {until!r}; there are {', '.join(p.name for p in PIPELINE)}")
    call = as_call(model, bind(model, (), inputs), {})
    check_inputs(call.bound, call.roles)
    state = State(Options(ruleset_of(rules)), call, constants=call.constants, target=as_target(None))
    return compile_until(state, until)[0].print_readable(blocks)
