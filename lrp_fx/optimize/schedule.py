"""Schedule: a value is computed when something reads it, or when the last of its own operands would be gone, and not
sooner.

What the transpose of an operation computes is ordered by how its rule is written; a value that waits for its reader
takes memory meanwhile. Later it takes none, as long as nothing is kept for it alone.

requires  a finished relevance graph, which writes to nothing
ensures   the same values, bit by bit; each is there from a later node on than before or the same, and none longer
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_fx.ir.graph import is_tensor


def schedule_late(graph: fx.Graph) -> None:
    """Move nodes, in place. From the end: where the readers of a value are is then known."""
    last = {operand: node for node in graph.nodes for operand in node.all_input_nodes}  # moves leave it as it is
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.users:
            operands = [a for a in node.all_input_nodes if a.op == "call_function" and is_tensor(a)]
            place = min([*node.users, *(last[a] for a in operands)])
            if (
                place is not node and place is not node.next
            ):  # where an operand's last reader is, that may write over it
                place.prepend(node)
