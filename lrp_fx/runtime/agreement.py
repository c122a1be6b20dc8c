"""Agreement: does what was captured still compute what the model computes?

requires  captured programs, and a call of the model as it is now
ensures   a report by output; nothing is captured, kept or forgotten
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.compare import CAPTURE_ULPS
from lrp_fx.capture.compare import largest_difference as _between
from lrp_fx.capture.outputs import named_leaves
from lrp_fx.ir.program import Program
from lrp_fx.ir.read import all_as_read


@dataclass(frozen=True)
class Agreement:
    """What `Explainer.verify` found.

    ``differences``: output name -> largest difference between the explainer's graph and the model as it is now, in
    units in the last place of the largest value; infinite where it is no such tensor any more. Empty where no graph
    serves the inputs yet. ``changed``: what is another than when the model was looked at last.
    """

    differences: Mapping[str, float]
    changed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Would the explainer's graphs answer for the model as it is now?"""
        return all(d <= CAPTURE_ULPS for d in self.differences.values())

    def __str__(self) -> str:
        changed = [f"  changed  {what}" for what in self.changed]
        if not self.differences:
            return "\n".join(
                ["ok: no graph serves these inputs, the model is captured when they are explained", *changed]
            )
        lines = [
            f"  {'differs' if d > CAPTURE_ULPS else 'agrees '}  {name}: {d:.3g} units in the last place (allowed "
            f"{CAPTURE_ULPS:g})"
            for name, d in self.differences.items()
        ]
        verdict = (
            "ok: the graphs compute what the model computes"
            if self.ok
            else "FAILED: the model computes something else than when it was captured; what was captured is forgotten, "
            "and the next call captures it again"
        )
        return "\n".join([verdict, *lines, *changed])


def compare(programs: Iterable[Program], call: ModelCall, changed: tuple[str, ...]) -> Agreement:
    """Every output of every program, on one call, with what the model gives; raises `InputError` where it fails."""
    worst: dict[str, float] = {}
    for program in programs:
        for name, difference in _differences(program, call):
            worst[name] = max(worst.get(name, 0.0), difference)
    return Agreement(worst, changed)


def _differences(program: Program, call: ModelCall) -> list[tuple[str, float]]:
    old = not all_as_read(program.read)  # the graph that is run has copies, the one that is compared has not
    with torch.no_grad():
        flat = (program.captured or program.module)(*[call.bound[i.name] for i in program.inputs])
    ours = {n: v for n, v in zip(program.outputs.names, pytree.tree_leaves(flat), strict=True) if isinstance(v, Tensor)}
    theirs = {n: v for n, v in named_leaves(call.result) if isinstance(v, Tensor)}
    return [
        (name, float("inf") if old or name not in ours or name not in theirs else _between(ours[name], theirs[name]))
        for name in dict.fromkeys([*theirs, *ours])
    ]
