"""Agreement: does what was captured still compute what the model computes, and what was made of it?

requires  captured programs, or outputs of relevance graphs, and a call of the model as it is now
ensures   a report by output, or an error; nothing is captured, kept or forgotten
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.compare import OTHER, Difference, difference_of
from lrp_fx.capture.outputs import named_leaves, opened
from lrp_fx.errors import PassError
from lrp_fx.ir.program import Program
from lrp_fx.ir.read import all_as_read
from lrp_fx.report.relevance import Relevance


@dataclass(frozen=True)
class Agreement:
    """What `Explainer.verify` found.

    ``found``: output name -> largest difference between the explainer's graph and the model as it is now. Empty where
    no graph serves the inputs yet. ``changed``: what is another than when the model was looked at last.
    """

    found: Mapping[str, Difference]
    changed: tuple[str, ...] = ()

    @property
    def differences(self) -> dict[str, float]:
        """By output, in units in the last place of the largest value; infinite where it is no such tensor any more."""
        return {name: difference.ulps for name, difference in self.found.items()}

    @property
    def allowed(self) -> dict[str, float]:
        """How large they may be: 1024, and 8 in float16 and 4 in bfloat16, whose units are a thousandth and a hundredth
        of the value.
        """
        return {name: difference.allowed for name, difference in self.found.items()}

    @property
    def ok(self) -> bool:
        """Would the explainer's graphs answer for the model as it is now?"""
        return all(difference.ok for difference in self.found.values())

    def __str__(self) -> str:
        changed = [f"  changed  {what}" for what in self.changed]
        if not self.found:
            return "\n".join(
                ["ok: no graph serves these inputs, the model is captured when they are explained", *changed]
            )
        lines = [
            f"  {'agrees ' if difference.ok else 'differs'}  {name}: {difference}"
            for name, difference in self.found.items()
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
    worst: dict[str, Difference] = {}
    for program in programs:
        for name, found in _differences(program, call):
            worst[name] = max(worst.get(name, found), found, key=lambda d: d.excess)
    return Agreement(worst, changed)


def output_difference(output: Any, result: Any, computed_in: torch.dtype) -> Difference:
    """The largest difference of a relevance graph's output from what the model gives, of the values of floating point;
    ``computed_in``: the narrowest type on the way.
    """
    got, expected = floats(output), floats(result)
    if len(got) != len(expected):
        return OTHER
    found = (difference_of(g.detach(), e, computed_in) for g, e in zip(got, expected, strict=True))
    return max(found, key=lambda d: d.excess, default=Difference())


def check_outputs(results: Sequence[Relevance], result: Any) -> None:
    """Raise `PassError` unless every relevance graph gave what the model gives (where it returns its output)."""
    for relevance in results:
        if relevance.output is not None:
            found = output_difference(relevance.output, result, relevance.ledger.dtype)
            if not found.ok:
                raise PassError(
                    f"the relevance graph differs from the model by {found}\n"
                    "    why:  it is a fault of lrp_fx: what was captured computes what the model computes, and a pass "
                    "made something else of it\n"
                    "    next: please report it with the model's code; convert(model, without=...) leaves passes out"
                )


def floats(outputs: Any) -> list[Tensor]:
    """The tensors of floating point in a model's output, in its order."""
    found = opened(outputs)
    leaves = pytree.tree_leaves(outputs if found is None else found)
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def _differences(program: Program, call: ModelCall) -> list[tuple[str, Difference]]:
    old = not all_as_read(program.read)  # the graph that is run has copies, the one that is compared has not
    with torch.no_grad():
        flat = (program.captured or program.module)(*[call.bound[i.name] for i in program.inputs])
    ours = {n: v for n, v in zip(program.outputs.names, pytree.tree_leaves(flat), strict=True) if isinstance(v, Tensor)}
    theirs = {n: v for n, v in named_leaves(call.result) if isinstance(v, Tensor)}
    return [
        (name, OTHER if old or name not in ours or name not in theirs else difference_of(ours[name], theirs[name]))
        for name in dict.fromkeys([*theirs, *ours])
    ]
