"""Remarks: what an explanation takes for granted of a program, said once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has
from lrp_fx.ir.program import Program
from lrp_fx.ir.source import module_path
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.rewrite.refuse import outside_of

_NAMED = 3


def remarks(rewritten: Rewritten) -> Iterator[str]:
    """One sentence for each thing that is taken for granted."""
    rounded = [a.node for a in rewritten.applications.values() if has(a.node, Fact.ROUNDING)]
    if rounded:
        yield (
            f"activations are rounded ({_some([module_path(n) or op_name(n) for n in rounded])}): relevance passes "
            "straight through, as if they were not\n    next: explainer.sites lists every place (kind 'rounding'); "
            "where layers quantise what they are given, lrp_fx.dequantised(model) is a copy that does not"
        )
    if rewritten.program.outside and not rewritten.ruleset.as_autograd:
        yield outside_of(rewritten.program)
    if rewritten.program.backwards and rewritten.ruleset.as_autograd:
        yield (
            f"the model's code defines derivatives itself ({_some(rewritten.program.backwards)}): the derivative here "
            "is that of the operations of forward, whatever a backward or a hook makes of it\n    next: say it in "
            "forward with detach(), as in x + (y - x).detach(), which this ruleset follows"
        )
    yield from _of_matrices(rewritten.program)


def _of_matrices(program: Program) -> Iterator[str]:
    """The matrices that were read of kernels, and what they take."""
    nodes = {str(n.target): n for n in program.graph.find_nodes(op="get_attr") if "matrix_of" in n.meta}
    if nodes:
        size = sum(t.numel() * t.element_size() for t in (getattr(program.module, name) for name in nodes))
        names = _some([n.meta["matrix_of"] for n in nodes.values()])
        yield (
            f"{names}: a trace sees no derivative of it; run on drawn rows it is a learned linear map, so its matrix "
            f"stands in the graph ({len(nodes)} tensors, {_bytes(size)}, beside the model's own)"
        )


def _some(names: Sequence[str]) -> str:
    """The first names, each once, and how many more."""
    each = list(dict.fromkeys(names))
    more = f" and {len(each) - _NAMED} more" if len(each) > _NAMED else ""
    return ", ".join(each[:_NAMED]) + more


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"
