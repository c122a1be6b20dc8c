"""Saving: the relevance graphs of an explainer in one file, for `lrp_fx.load`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lrp_fx.errors import InputError, TargetError
from lrp_fx.file.contents import Contents, ModelOutputs, SavedGraph
from lrp_fx.file.write import write
from lrp_fx.ir.graph import value_of
from lrp_fx.runtime.compiled import CompiledProgram
from lrp_fx.runtime.compiler import Compiler
from lrp_fx.structure.sites import find_sites
from lrp_fx.targets import At, Custom, Target


def save(
    compiler: Compiler,
    last: CompiledProgram,
    path: str | Path,
    targets: Sequence[Target] | None,
    said: dict[str, Any],
    *,
    weights: bool,
) -> None:
    """Write the graphs for these targets (None: those used so far) of the program used ``last``, for any size and mask.

    said: what the file says of the explainer: ``conserve``, ``probabilities`` and ``reading``.

    Raises `TargetError` for functions as targets, and `InputError` where the model has been changed since and computes
    something else.
    """
    write(path, contents_of(compiler, last, targets, said), model=compiler.model, weights=weights)


def contents_of(
    compiler: Compiler, last: CompiledProgram, targets: Sequence[Target] | None, said: dict[str, Any]
) -> Contents:
    """What such a file holds."""
    if not compiler.trusts(last):
        raise InputError(
            "the model has been changed since it was explained last\n    next: explain an input once more (the "
            "graphs are compared with it), and save then"
        )
    built = [d.target for entry in compiler.related(last) for d in entry.graphs.values()]
    used = list({t.signature: t for t in built if not isinstance(t, (At, Custom))}.values())
    goals = list(targets) if targets is not None else used
    if not goals or any(isinstance(g, (At, Custom)) for g in goals):
        raise TargetError(
            "a file holds no code: give save(path, targets=[...]) targets from lrp_fx.targets, not functions"
        )
    entries = compiler.variants(compiler.for_any_size(last, goals))
    graphs = [(goal, compiler.build(entry, goal)) for entry in entries for goal in goals]
    saved = tuple(SavedGraph(goal.signature, built.graph, built.guards) for goal, built in graphs)
    return _contents(compiler, entries[-1], saved, said)


def _contents(
    compiler: Compiler, general: CompiledProgram, graphs: tuple[SavedGraph, ...], said: dict[str, Any]
) -> Contents:
    """What is said of graphs that were made of one captured program; ``general``: what is good for any mask."""
    outputs, batched = general.program.outputs, general.program.batch_input
    alone = isinstance(outputs.rebuild(tuple(range(len(outputs.names)))), int)  # and not something that holds it
    return Contents(
        graphs,
        ModelOutputs(tuple(outputs.names), alone, batched[0].name if batched is not None else None),
        device=value_of(next(iter(general.program.input_nodes().values()))).device.type,
        ruleset=compiler.options.ruleset.name,
        conserve=said["conserve"],
        method=general.program.method,
        sites=find_sites(general.rewritten, general.structure),
        coverage=general.rewritten.coverage(),
        made_with={
            "lrp_fx": version("lrp_fx"),
            "torch": torch.__version__,
            "model": type(compiler.model).__name__,
            "probabilities": said["probabilities"],
        },
        reading=said["reading"],
    )
