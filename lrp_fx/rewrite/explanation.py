"""Explanation: what a node means for relevance, who found that out, and why the recognisers asked before did not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from lrp_fx.ir.graph import is_float
from lrp_fx.ir.source import describe, module_path, source_line
from lrp_fx.recognize.context import Context
from lrp_fx.recognize.meaning import Nearness, Refusal
from lrp_fx.recognize.recognisers import Recognised, recognise


@dataclass(frozen=True)
class Explanation:
    """Why a node is what it is.

    ``code``, ``module``, ``source``  the node as a line of the graph, and where it stands in the model.
    ``kind``, ``why``   its meaning, in one word and in one phrase.
    ``rule``      name of the rule that serves it, ``"none"`` where no relevance passes.
    ``recogniser``  who gave the meaning, None for leaves and for what carries no relevance.
    ``refusals``  of the recognisers asked before, the nearest first.
    """

    node: str
    code: str
    module: str
    source: str
    kind: str
    why: str
    rule: str
    recogniser: str | None = None
    refusals: tuple[Refusal, ...] = ()

    def nearest(self, number: int = 3) -> tuple[Refusal, ...]:
        """The refusals of those that came near: not merely about other operations."""
        return near(self.refusals, number)

    def __str__(self) -> str:
        lines = [
            self.code,
            f"  where:  {self.module or 'model'}, {self.source}",
            f"  kind:   {self.kind}: {self.why}",
            f"  rule:   {self.rule}" + (f", recognised as: {self.recogniser}" if self.recogniser else ""),
        ]
        close = self.nearest(len(self.refusals))
        if close:
            lines += ["  asked before, the nearest first:", *(f"    not {refusal}" for refusal in close)]
        if far := [r.recogniser for r in self.refusals if r not in close]:
            lines.append(f"  about other operations: {', '.join(far)}")
        return "\n".join(lines)


def near(refusals: Iterable[Refusal], number: int = 3) -> tuple[Refusal, ...]:
    """The refusals that are about this sort of operation, nearest first."""
    close = [r for r in refusals if r.nearness > Nearness.OPERATION]
    return tuple(sorted(close, key=lambda r: -r.nearness)[:number])


def explain_node(context: Context, node: fx.Node, *, rule: str | None = None, leaf: str | None = None) -> Explanation:
    """Ask the recognisers again about a node. ``leaf``: its leaf kind; ``rule``: what serves it, if anything does."""
    place = (node.name, describe(node), module_path(node), source_line(node))
    if leaf is not None:
        return Explanation(*place, "leaf", f"relevance ends here, as {leaf}", rule or "none")
    if not context.flow.carries(node):
        sources = ", ".join(sorted(context.facts.sources.get(node, ()))) or "nothing"
        why = f"depends on {sources}: none carries relevance under these rules" if is_float(node) else "holds no floats"
        return Explanation(*place, "frozen", why, "none")
    if not context.operands(node):
        why = "no operand carries relevance: it was frozen above, or the node is a leaf that nothing reaches"
        return Explanation(*place, "frozen", why, "none")
    found = recognise(context, node)
    unused = "none: relevance of the output does not reach it (only frozen values read it)"
    return Explanation(
        *place,
        found.meaning.kind,
        found.meaning.why,
        rule or unused,
        found.recogniser.name,
        near(found.refusals, len(found.refusals)) + _far(found),
    )


def _far(found: Recognised) -> tuple[Refusal, ...]:
    return tuple(r for r in found.refusals if r.nearness is Nearness.OPERATION)
