"""Shuffles: a forward value that is only another one rearranged is made again where the transpose reads it.

Rotary encodings multiply half of a query turned round with a sine, and the transpose reads that half turned round once more.
The query is kept for it in any case; a second copy of it costs less than keeping the first one all the way.

requires  a finished relevance graph (equal expressions merged: done after this, it would undo it)
ensures   the same values, bit by bit; nothing is kept longer than before
"""

from __future__ import annotations

from torch import fx

from lrp_fx.program import ancestors, is_tensor, iter_nodes, op_name, output_node

#: Numbers of the operand in another order, or with the other sign.
_SHUFFLES = frozenset(f"aten.{name}" for name in "cat stack neg flip roll slice select".split())
#: Those of them that are another look at the same memory.
_LOOKS = frozenset(f"aten.{name}" for name in "slice select".split())


def shuffle_again(graph: fx.Graph, wanted: int) -> None:
    """Copy such operations, in place; ``wanted``: how many of the outputs are made by the forward pass alone."""
    forward = set(ancestors(iter_nodes(output_node(graph).args[0][:wanted])))  # type: ignore[index]
    for node in list(graph.nodes):
        readers = [] if node not in forward or op_name(node) not in _SHUFFLES - _LOOKS else [u for u in node.users if u not in forward]
        if not readers or len(readers) == len(node.users):
            continue
        chain = _chain(node)
        sources = {a for n in chain for a in n.all_input_nodes if a not in chain and a.op == "call_function" and is_tensor(a)}
        if all(any(u not in forward and u > max(readers) for u in a.users) for a in sources):
            _copy(graph, chain, min(readers), node, readers)


def _chain(node: fx.Node) -> set[fx.Node]:
    """The node and the shuffles that it is made by."""
    found = {node}
    stack = [node]
    while stack:
        for operand in stack.pop().all_input_nodes:
            if op_name(operand) in _SHUFFLES and operand not in found:
                found.add(operand)
                stack.append(operand)
    return found


def _copy(graph: fx.Graph, chain: set[fx.Node], before: fx.Node, node: fx.Node, readers: list[fx.Node]) -> None:
    made: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(before):
        for n in sorted(chain):
            made[n] = graph.node_copy(n, lambda a: made.get(a, a))
    for reader in readers:
        reader.replace_input_with(node, made[node])
