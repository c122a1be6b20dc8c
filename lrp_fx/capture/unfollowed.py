"""Unfollowed: writes of which autograd knows nothing, though what they wrote is read with gradients.

``y.detach().mul_(2)``, ``y.data.add_(1)`` and writes inside ``no_grad`` change the numbers that ``y`` holds, while its
gradient stays that of the value before. No functional graph says so: in one, whoever reads the new value reads what was
written. A ruleset that follows gradients has to refuse such a program.

requires  a graph as it was traced, before its writes are replaced; `GRADIENTS` in the meta data of regions without
ensures   nothing is changed
"""

from __future__ import annotations

from torch import fx

from lrp_fx.capture.functional import roots_of, writes, written_operand
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float
from lrp_fx.ir.operators import has
from lrp_fx.ir.source import describe, source_line

#: Key of a node's meta data: were gradients recorded where the model's code calls it? (They were, if nothing is said.)
GRADIENTS = "gradients"


def unfollowed_write(graph: fx.Graph) -> str:
    """The first write of this kind, with its place in the user's source; empty where there is none."""
    nodes = list(graph.nodes)
    if not any(writes(node) for node in nodes):
        return ""
    reaching, cut, roots = _reaching(graph), _cut(graph), roots_of(graph)
    for number, node in enumerate(nodes):
        written = written_operand(node)
        if written is None or (written not in cut and node.meta.get(GRADIENTS, True)):
            continue
        memory = {a for a in roots if roots[a] & roots[written]}
        touched = bool(memory & reaching) or any(a in reaching for a in node.all_input_nodes)
        later = nodes[number + 1 :]
        if touched and any(_reads(user, memory - cut) for user in later):
            return f"{describe(node)}, {source_line(node)}"
    return ""


def _reads(user: fx.Node, values: set[fx.Node]) -> bool:
    """Does a gradient pass from this node to one of the values?"""
    inside = user.meta.get(GRADIENTS, True)
    return bool(inside) and not has(user, Fact.DETACHES) and any(a in values for a in user.all_input_nodes)


def _reaching(graph: fx.Graph) -> set[fx.Node]:
    """Values that have a gradient to an input or a parameter, as far as their types tell."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        leaf = node.op in ("placeholder", "get_attr") and is_float(node)
        several = node.op == "call_function" and isinstance(node.meta.get("val"), (tuple, list))
        if leaf or ((is_float(node) or several) and any(a in found for a in node.all_input_nodes)):
            found.add(node)
    return found


def _cut(graph: fx.Graph) -> set[fx.Node]:
    """Values that nobody reads with gradients: detached, made in a region without, and views of these."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        source = written_operand(node) or (node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None)
        made = has(node, Fact.DETACHES) or not node.meta.get(GRADIENTS, True)
        same = writes(node)  # returns the very tensor that it was given
        if (made and not same) or (source in found and (same or has(node, Fact.VIEW | Fact.IDENTITY))):
            found.add(node)
    return found
