"""A reconstruction: an activation that a dictionary was put at stands for what the dictionary makes of it."""

from __future__ import annotations

from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import has, operand_of
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal


def reconstruction(context: Context, node: fx.Node) -> Meaning | Refusal:
    """All relevance goes to the reconstruction, none to the activation as it was computed."""
    if not has(node, Fact.RECONSTRUCTION):
        return Refusal(f"{op_name(node)} reconstructs nothing", Nearness.OPERATION)
    return Meaning("sum", (operand_of(node, 1),), f"a dictionary reconstructs %{operand_of(node).name}")


RECONSTRUCTION = Recogniser(
    "reconstruction",
    "an activation at which a dictionary was put is its reconstruction and an error",
    ("sum",),
    reconstruction,
    before=("listed operation",),
)
