"""Numbers that are a term of a value in each of its elements: 1 in ``(1 + g)[:, None]``, -1 in ``2 g - 1``."""

from __future__ import annotations

import math

from torch import fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name
from lrp_fx.ir.operators import argument, has

#: Moves that leave out, repeat or retype elements, and put none beside them.
_KEEPS = Fact.MOVE | Fact.CAST | Fact.EXPANSION | Fact.SELECTION | Fact.SPLIT


def number_terms(graph: fx.Graph) -> dict[fx.Node, float]:
    """The number in each value that is a sum with one, or a multiple or move of such a sum; of others, none."""
    known: dict[fx.Node, float] = {}
    for node in graph.nodes:
        number = _number(node, known) if node.op == "call_function" and is_float(node) else 0.0
        if number and math.isfinite(number):
            known[node] = number
    return known


def _number(node: fx.Node, known: dict[fx.Node, float]) -> float:
    name = op_name(node)
    if name in ("aten.add", "aten.sub", "aten.rsub"):
        return _of_sum(node, known)
    if has(node, Fact.FILL):
        number = argument(node, "fill_value", argument(node, "s", 1 if "ones" in name else 0))
        return float(number) if isinstance(number, (int, float)) else 0.0
    of_tensors = [known[a] for a in node.all_input_nodes if a in known]
    if len(of_tensors) != 1:
        return 0.0
    return of_tensors[0] if name == "getitem" or has(node, _KEEPS) else of_tensors[0] * _scale(node)


def _of_sum(node: fx.Node, known: dict[fx.Node, float]) -> float:
    a, b, alpha = (_of_term(x, known) for x in (*node.args[:2], argument(node, "alpha", 1)))
    if op_name(node) == "aten.rsub":
        return b - alpha * a
    return a + alpha * b if op_name(node) == "aten.add" else a - alpha * b


def _of_term(term: object, known: dict[fx.Node, float]) -> float:
    if isinstance(term, fx.Node):
        return known.get(term, 0.0)
    return float(term) if isinstance(term, (int, float)) else 0.0


def _scale(node: fx.Node) -> float:
    """What a multiple is multiplied by, if it is a number; else 0."""
    name = op_name(node)
    if name == "aten.neg":
        return -1.0
    if name not in ("aten.mul", "aten.div") or argument(node, "rounding_mode") is not None:
        return 0.0
    a, b = node.args[:2]
    if isinstance(b, (int, float)):
        return float(b) if name == "aten.mul" else 1.0 / b if b else 0.0
    return float(a) if isinstance(a, (int, float)) and name == "aten.mul" else 0.0
