"""Heads: where attention weighs values, and the scores it weighs them by; found by the flow of data.

A head is an axis that the weights share with what they weigh, beside examples and tokens: it was split from features
before the scores and is merged into features after.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from lrp_fx.rewrite.application import Rewritten
from lrp_fx.structure.sites import attention_nodes


@dataclass(frozen=True)
class Attention:
    """``weighted``: the sum of values by weights; ``softmax``: of the scores, None inside a fused kernel; ``scores``:
    what goes into it, None where the weights are frozen; ``product``: of queries and keys, before scales, masks and
    biases.
    """

    weighted: fx.Node
    softmax: fx.Node | None
    scores: fx.Node | None
    product: fx.Node | None = None


def find_attention(rewritten: Rewritten) -> list[Attention]:
    """Every attention, in graph order."""
    found = []
    for nodes in attention_nodes(rewritten):
        if len(nodes) == 1:
            found.append(Attention(nodes[0], None, None))
            continue
        product, softmax, *weighted = nodes
        application = rewritten.applications.get(softmax)
        scores = application.operands[0] if application is not None else None
        found.append(Attention(weighted[-1], softmax, scores, product))
    order = {n: i for i, n in enumerate(rewritten.program.graph.nodes)}
    return sorted(found, key=lambda a: order[a.weighted])
