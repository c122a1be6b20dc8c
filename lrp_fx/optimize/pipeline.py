"""The passes on relevance graphs, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from lrp_fx.ir.passes import Keeps, Pass
from lrp_fx.optimize.contiguous import make_contiguous
from lrp_fx.optimize.one_hot import pick_classes
from lrp_fx.optimize.program import RelevanceProgram, check_functional, copy, size
from lrp_fx.optimize.pull_rows import pull_rows
from lrp_fx.optimize.push_rows import push_rows
from lrp_fx.optimize.rematerialize import rematerialize_blocks, rematerialize_moves
from lrp_fx.optimize.schedule import schedule_late
from lrp_fx.optimize.simplify import simplify


def _pass(
    name: str, purpose: str, edit: Callable[[RelevanceProgram], None], keeps: Keeps = Keeps.BITS, **others: Any
) -> Pass[RelevanceProgram]:
    """A pass that edits the graph it is given; all of them may be left out."""

    def apply(program: RelevanceProgram) -> RelevanceProgram:
        edit(program)
        return program

    specs = (check_functional,)
    return Pass(
        name, purpose, apply, keeps, optional=True, copy=copy, size=size, requires=specs, ensures=specs, **others
    )


def _simplify(program: RelevanceProgram) -> None:
    simplify(program.graph)


def _push_rows(program: RelevanceProgram) -> None:
    push_rows(program.graph, program.mode, program.own_outputs)


def _pull_rows(program: RelevanceProgram) -> None:
    pull_rows(program.graph, program.mode)


def _pick_classes(program: RelevanceProgram) -> None:
    pick_classes(program.graph, program.mode, program.own_outputs)


def _make_contiguous(program: RelevanceProgram) -> None:
    make_contiguous(program.graph, program.mode, program.own_outputs)


def _rematerialize_blocks(program: RelevanceProgram) -> None:
    sums: set[fx.Node] = {n for n in program.graph.nodes if n.meta.get("residual")}
    rematerialize_blocks(program.graph, sums, program.forward_outputs)


def _rematerialize_moves(program: RelevanceProgram) -> None:
    rematerialize_moves(program.graph, program.forward_outputs)


def _schedule_late(program: RelevanceProgram) -> None:
    schedule_late(program.graph)


def _returns_relevance_only(program: RelevanceProgram) -> bool:
    return not program.whole


def _keeps_little(program: RelevanceProgram) -> bool:
    return program.recompute


OPTIMIZE: tuple[Pass[RelevanceProgram], ...] = (
    _pass("simplify", "detours go, sizes are read once, equal expressions are computed once", _simplify),
    _pass(
        "push_rows",
        "what is zero but for one token of each example is computed for that token alone",
        _push_rows,
        Keeps.OUTPUT_BITS,
    ),
    _pass("simplify_pushed", "the same after rows were pushed", _simplify),
    _pass(
        "pull_rows",
        "what is read at one token of each example only is computed for that token alone",
        _pull_rows,
        Keeps.ROUNDING,
        when=_returns_relevance_only,
    ),
    _pass("simplify_pulled", "the same after rows were pulled", _simplify, when=_returns_relevance_only),
    _pass(
        "pick_classes",
        "rows that are zero but at one class pick a row of the head's matrix",
        _pick_classes,
        Keeps.OUTPUT_BITS,
    ),
    _pass(
        "make_contiguous",
        "values that many elementwise operations read across memory are written out once",
        _make_contiguous,
        Keeps.OUTPUT_BITS,
    ),
    _pass(
        "rematerialize_blocks",
        "with checkpoint=True, the insides of blocks are computed again instead of kept",
        _rematerialize_blocks,
        when=_keeps_little,
    ),
    _pass(
        "rematerialize_moves",
        "what is only another value rearranged is made again instead of kept",
        _rematerialize_moves,
    ),
    _pass("schedule_late", "values are computed when they are read", _schedule_late),
)
